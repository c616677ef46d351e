"""The pages while the service, Redis or the dashboard itself does not answer: they say so, show no
stale data as fresh, and recover by themselves. The tests share one system; the last one ends it
for good."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import COINS, WHOLE_S, Open, System
from tests.browser.looks import cell, coin, column_texts, header, log_rows, reason, ticks
from tests.support import PATIENCE, RedisServer, until

NOTICED_S = 15  # both pages notice within a poll and the time-out of a request
PRICE_TTL_S = 60


pytestmark = pytest.mark.usefixtures("servers_are_back")


@pytest.fixture
def scanner(open_page_in_outage: Open, system: System) -> Page:
    """The scanner page with every row filled."""
    page = open_page_in_outage(f"{system.url}/")
    until(lambda: len(prices(page)) == len(COINS) + 1 and all(prices(page).values()), NOTICED_S)
    page.evaluate("window.isTheSame = true")
    return page


@pytest.fixture
def status(open_page_in_outage: Open, system: System) -> Page:
    page = open_page_in_outage(f"{system.url}/status")
    says(page, "#service .badge", "● ok")
    page.evaluate("window.isTheSame = true")
    return page


def prices(page: Page) -> dict[str, str | None]:
    return column_texts(page, "price")


def says(page: Page, selector: str, text: Any, within_s: float = NOTICED_S) -> None:
    expect(page.locator(selector)).to_contain_text(text, timeout=within_s * PATIENCE * 1000)


def is_dimmed(page: Page, selector: str) -> bool:
    return "stale" in (page.locator(selector).get_attribute("class") or "")


def goes_on(system: System, scanner: Page, status: Page) -> None:
    """Wait until both pages show live data again, without having been reloaded."""
    for page in (scanner, status):
        expect(page.locator("#banner")).to_be_hidden(timeout=WHOLE_S * PATIENCE * 1000)
    until(lambda: all(prices(scanner).values()), WHOLE_S)
    before = prices(scanner)["BTCUSDT"] or ""
    expect(cell(scanner, "BTCUSDT", "price")).not_to_have_text(
        before, timeout=NOTICED_S * PATIENCE * 1000
    )
    assert not is_dimmed(scanner, "#scanner-table") and not is_dimmed(status, "body")
    system.log("trader-bot").trade("paper:trades", "", "live again")
    until(lambda: "live again" in [row["summary"] for row in log_rows(status)], NOTICED_S)
    for page in (scanner, status):
        assert page.evaluate("window.isTheSame")


class TestRedis:
    def test_gone_and_back(self, scanner: Page, status: Page, system: System) -> None:
        coin(scanner, "BTCUSDT").click()
        expect(scanner.locator("#chart-area .chart-host")).to_be_visible()
        self.take_away(system.redis, scanner, status)
        system.redis.start()
        until(system.is_whole, WHOLE_S, 0.2)
        goes_on(system, scanner, status)
        says(status, "#redis .badge", "● answers")
        says(status, "#consumers li[data-consumer='scanner'] .badge", "● alive")
        expect(scanner.locator("#chart-area .chart-host")).to_be_visible(
            timeout=NOTICED_S * PATIENCE * 1000
        )

    @staticmethod
    def take_away(redis_server: RedisServer, scanner: Page, status: Page) -> None:
        redis_server.kill()
        for page in (scanner, status):
            says(page, "#banner strong", "Redis does not answer.")
            expect(page.locator("#banner")).to_be_visible()
        says(scanner, "#banner", "The last good refresh was ")
        assert is_dimmed(scanner, "#scanner-table")
        says(status, "#redis .badge", "■ does not answer")
        says(status, "#consumers li[data-consumer='scanner'] .badge", "○ not known")
        status.locator("#log-types [data-type=error]").click()
        says(status, "#log-note", "Redis: ")
        status.locator("#log-types [data-type='']").click()


class TestDashboard:
    def test_gone_and_back(self, scanner: Page, status: Page, system: System) -> None:
        system.dashboard.stop(signal.SIGKILL)
        for page in (scanner, status):
            says(page, "#banner", "The dashboard does not answer.")
            assert ticks(page, "#banner", r"UTC, (\d+) s ago", 2)
        says(scanner, "#banner", "What is shown is from before.")
        assert is_dimmed(scanner, "#scanner-table") and is_dimmed(status, "body")
        assert ticks(scanner, "#data-age", r"^Prices (\d+) s", 2)
        header(scanner, "price").get_by_role("button").click()
        expect(header(scanner, "price")).to_have_attribute("aria-sort", "descending")

        system.dashboard = system.start_dashboard()
        goes_on(system, scanner, status)

    def test_after_a_minute_nothing_is_shown_anymore(
        self, open_page_in_outage: Open, system: System
    ) -> None:
        scanner = open_page_in_outage(f"{system.url}/", with_clock=True)
        status = open_page_in_outage(f"{system.url}/status", with_clock=True)
        until(lambda: prices(scanner) and all(prices(scanner).values()), NOTICED_S)
        says(status, "#service .badge", "● ok")
        coin(scanner, "BTCUSDT").click()
        expect(scanner.locator("#chart-area .chart-host")).to_be_visible()
        system.dashboard.stop(signal.SIGKILL)
        for page in (scanner, status):
            says(page, "#banner", "The dashboard does not answer.")
            page.clock.fast_forward(61_000)
        says(scanner, "#banner", "There is nothing to show.")
        assert len(prices(scanner)) == len(COINS) + 1
        for column in ("price", "rsi", "score", "spark", "ta-5m", "ta-4h"):
            assert not any(column_texts(scanner, column).values()), column
        assert reason(scanner, "BTCUSDT", "score") == "the dashboard does not answer"
        expect(scanner.locator("#data-age")).to_have_text("")
        scanner.clock.fast_forward(30_000)
        says(scanner, "#chart-area", "The dashboard does not answer")
        for card in ("service", "exchange", "redis"):
            says(status, f"#{card} .badge", "○ not known")

        system.dashboard = system.start_dashboard()
        for page in (scanner, status):
            expect(page.locator("#banner")).to_be_hidden(timeout=NOTICED_S * PATIENCE * 1000)
        until(lambda: all(prices(scanner).values()), NOTICED_S)


class TestExchange:
    """The banners give the reason that /health has, and since when."""

    @pytest.fixture(autouse=True)
    def exchange_is_back(self, system: System) -> Iterator[None]:
        yield
        system.exchange.clear()
        until(system.is_whole, WHOLE_S, 0.2)

    def test_a_hold(self, scanner: Page, status: Page, system: System) -> None:
        system.exchange.fault("hold", seconds=25)
        says(status, "#banner strong", "The exchange refuses.")
        says(
            status,
            "#banner",
            re.compile(r"On hold after HTTP 429: .*[^.]\. Until .* UTC, in \d+ s"),
        )
        says(status, "#banner", re.compile(r"Since \d\d:\d\d:\d\d UTC, \d+ s ago\."))
        says(status, "#service", re.compile(r"exchange: on hold for .*, since \d\d:\d\d:\d\d UTC"))
        expect(scanner.locator("#banner")).to_be_hidden()  # prices stay fresh for a minute
        expect(status.locator("#banner")).to_be_hidden(timeout=WHOLE_S * PATIENCE * 1000)

    def test_pages_of_html(self, scanner: Page, status: Page, system: System) -> None:
        """Waits in real time until the prices expire."""
        html = "The exchange answers with a page of HTML: '<!DOCTYPE html>"
        system.exchange.fault("html")
        says(status, "#banner strong", "No read succeeds.", WHOLE_S)
        says(status, "#banner", html)
        failing = status.locator("tr[data-part='5m'] [data-label=Failing]")
        expect(failing).to_contain_text(re.compile(r"coins: .*, since \d\d:\d\d:\d\d UTC"))
        parts = status.locator("#timeframes tbody th")
        expect(parts).to_have_text(["prices", "5m", "1h", "4h"])
        says(scanner, "#banner strong", "No fresh prices.", PRICE_TTL_S + 10)
        says(scanner, "#banner", html)
        for page in (scanner, status):
            text = page.locator("#banner").text_content() or ""
            assert not re.search(r"[^.]\.\.([^.]|$)", text), "two full stops"
            assert "Is the service running" not in text


class TestService:
    def test_gone(self, scanner: Page, status: Page, system: System) -> None:
        """Waits in real time until the prices expire."""
        coin(scanner, "BTCUSDT").click()
        scanner.locator("#chart-panel").get_by_role("button", name="5m").click()
        expect(scanner.locator("#chart-area .chart-host")).to_be_visible()
        for program in (system.service, system.ta_service):
            assert program.stop() == 0
        self.check_status_page(status)
        assert all(prices(scanner).values())  # prices stay fresh for a minute
        expect(scanner.locator("#banner")).to_be_hidden()
        assert ticks(scanner, "#data-age", r"^Prices (\d+) s old", 4)

        says(status, "#consumers li[data-consumer='ta-service'] .badge", "■ silent", 40)
        says(status, "#consumers li[data-consumer='ta-service'] .start", "consumers.ta_service")
        says(status, "#consumers li[data-consumer='scanner'] .badge", "● alive")
        says(scanner, "#chart-area", "nothing fresh in market:ohlcv:BTCUSDT:5m", PRICE_TTL_S)

        says(scanner, "#banner strong", "No fresh prices.", PRICE_TTL_S + 10)
        says(scanner, "#banner", "The service does not answer.")
        says(scanner, "#banner", "The last good refresh was ")
        assert len(prices(scanner)) == len(COINS) + 1 and not any(prices(scanner).values())
        assert reason(scanner, "BTCUSDT", "price") == "no fresh price in Redis"
        says(scanner, "#data-age", "No fresh prices")
        assert is_dimmed(scanner, "#scanner-table")
        expect(scanner.locator("#chart-area .chart-host")).to_have_count(0)

    @staticmethod
    def check_status_page(status: Page) -> None:
        says(status, "#service", "does not answer")
        says(status, "#exchange .badge", "○ not known")
        says(status, "#timeframes-note", "The service does not answer.")
        says(status, "tr[data-part='5m'] [data-label=Fresh]", re.compile(r"^\d+ updated$"))
        expect(status.locator("tr[data-part=prices]")).to_have_count(0)
        assert ticks(status, "tr[data-part='5m'] [data-label=Age]", r"^(\d+) s$", 3)
        says(status, "#banner strong", "The service does not answer.")
        says(status, "#banner", "/health does not answer: ")
