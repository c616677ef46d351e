"""How pages hear of changes: one stream for all tabs, which notices that it is lost; nothing is
asked while nobody looks. The dashboard runs on a Redis that only the tests write to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from consumers.dashboard import Dashboard
from consumers.market_cache import ALIVE_KEY
from consumers.program import Connection
from redis_log import DEFAULT_KEY, LoggedRedis
from tests.browser.conftest import Open, until_heard
from tests.browser.line import Line
from tests.browser.looks import cell, log_rows
from tests.candles import put_price, update
from tests.support import RedisServer, free_port, until

TABS = 20
SOON_S = 5
AGAIN_S = 15  # until a page is connected again
MINUTE_MS = 60_000
NO_WORKER = "delete window.SharedWorker"
BROKEN_WORKER = """window.SharedWorker = class extends SharedWorker {
  constructor(url, options) { super("/static/nothing.js", options); }
}"""
SHOW = """isHidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[Dashboard]:
    nowhere = f"http://127.0.0.1:{free_port()}/health"
    server = Dashboard("127.0.0.1", 0, Connection(redis_server.url, DEFAULT_KEY, 10_000), nowhere)
    server.start()
    until(lambda: redis_server.client.hget(ALIVE_KEY, "dashboard"), SOON_S, what="it listens")
    # Pages are told that there is no service; they must know it before they are watched.
    until(lambda: server.api.answer("/api/scanner", "")["trouble"], SOON_S)
    yield server
    server.stop()


@pytest.fixture
def line(server: Dashboard) -> Iterator[Line]:
    line = Line(int(server.server_address[1]))
    yield line
    line.close()


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client


def log(client: Any, text: str) -> None:
    LoggedRedis(client, "trader-bot").trade("paper:trades", "", text)


def refresh(client: Any, symbol: str, price: float, ttl_s: float = 60) -> None:
    put_price(client, symbol, price, ttl_s)
    client.publish("market:update:5m", update([symbol]))


def shows(page: Page, text: str) -> bool:
    """Whether the message log of a status page has an entry."""
    return text in [row["summary"] for row in log_rows(page)]


def is_live(page: Page, client: Any) -> bool:
    """Write entries until one arrives."""
    log(client, "are you there")
    return shows(page, "are you there")


class TestManyTabs:
    def test_all_are_live_over_one_stream(
        self, open_page: Open, line: Line, server: Dashboard, client: Any
    ) -> None:
        refresh(client, "AUSDT", 50.0)
        first = open_page(f"{line.url}/")
        pages = [first]
        for number in range(1, TABS):
            pages.append(open_page(f"{line.url}/{'status' if number % 2 else ''}", beside=first))
        until(lambda: line.streams() == 1, SOON_S)
        refresh(client, "AUSDT", 51.0)
        log(client, "all of you")
        for number, page in enumerate(pages):
            if number % 2:
                until(lambda page=page: shows(page, "all of you"), SOON_S, 0.1)  # type: ignore[misc]
            else:
                expect(cell(page, "AUSDT", "price")).to_have_text("51.000")
        assert line.streams() == line.asked("/api/events") == 1

    @pytest.mark.parametrize("script", [NO_WORKER, BROKEN_WORKER])
    def test_without_the_worker_each_has_its_own(
        self, open_page_in_outage: Open, line: Line, client: Any, script: str
    ) -> None:
        first = open_page_in_outage(f"{line.url}/status", script=script)
        second = open_page_in_outage(f"{line.url}/status", script=script, beside=first)
        until(lambda: line.streams() == 2, SOON_S)
        log(client, "both of you")
        for page in (first, second):
            until(lambda page=page: shows(page, "both of you"), SOON_S, 0.1)  # type: ignore[misc]
        first.evaluate(SHOW, True)
        until(lambda: line.streams() == 1, SOON_S)


class TestACutLine:
    def test_is_noticed_and_what_was_missed_is_read(
        self, open_page_in_outage: Open, line: Line, client: Any
    ) -> None:
        page = open_page_in_outage(f"{line.url}/status")
        until(lambda: line.heartbeats and is_live(page, client), SOON_S, 0.2)
        line.cut()
        log(client, "missed")
        until(lambda: shows(page, "missed"), AGAIN_S, 0.1)
        assert line.asked("/api/events") == 2
        log(client, "live again")
        until(lambda: shows(page, "live again"), SOON_S, 0.1)

    def test_the_sleep_of_a_laptop_ends_with_a_new_connection(
        self, open_page_in_outage: Open, line: Line, client: Any
    ) -> None:
        page = open_page_in_outage(f"{line.url}/status", with_clock=True, script=NO_WORKER)
        until(lambda: line.heartbeats and is_live(page, client), SOON_S, 0.2)
        line.cut()
        log(client, "slept through")
        page.clock.fast_forward(60 * MINUTE_MS)
        until(lambda: shows(page, "slept through"), AGAIN_S, 0.1)
        assert line.asked("/api/events") >= 2


class TestRequests:
    def test_a_hidden_tab_asks_nothing_and_catches_up_when_it_is_shown(
        self, open_page: Open, line: Line, client: Any
    ) -> None:
        refresh(client, "AUSDT", 50.0)
        scanner = open_page(f"{line.url}/", with_clock=True)
        status = open_page(f"{line.url}/status", with_clock=True, beside=scanner)
        shown = open_page(f"{line.url}/status", beside=scanner)  # keeps the stream open
        expect(cell(scanner, "AUSDT", "price")).to_have_text("50.000")
        until(lambda: line.heartbeats, SOON_S)  # the worker runs, and its clock is not moved
        asked: list[str] = []
        for page in (scanner, status):
            page.on("request", lambda request: asked.append(request.url))
            page.clock.run_for(MINUTE_MS)
            until_heard(page, asked, SOON_S)  # a page in view asks
            page.evaluate(SHOW, True)
            page.evaluate("() => new Promise(resolve => requestIdleCallback(resolve))")
            asked.clear()
        refresh(client, "AUSDT", 51.0)
        log(client, "behind your back")
        until(lambda: shows(shown, "behind your back"), SOON_S, 0.1)
        for page in (scanner, status):
            page.clock.run_for(10 * MINUTE_MS)
            assert not asked
        assert not shows(status, "behind your back")
        for page in (scanner, status):
            page.evaluate(SHOW, False)
        expect(cell(scanner, "AUSDT", "price")).to_have_text("51.000")
        until(lambda: shows(status, "behind your back"), SOON_S, 0.1)
        assert line.asked("/api/events") == 1

    def test_the_scanner_page_asks_only_when_something_came(
        self, open_page: Open, line: Line, client: Any
    ) -> None:
        refresh(client, "AUSDT", 50.0)
        page = open_page(f"{line.url}/")
        expect(cell(page, "AUSDT", "price")).to_have_text("50.000")
        until(lambda: line.asked("/api/scanner") >= 2, AGAIN_S, what="it asks once connected, too")
        beats = line.heartbeats
        until(lambda: line.heartbeats >= beats + 2, AGAIN_S)  # and has asked if it was late
        asked, beats = line.asked("/api/scanner"), line.heartbeats
        until(lambda: line.heartbeats >= beats + 6, AGAIN_S)  # 12 s
        assert line.asked("/api/scanner") == asked
        refresh(client, "AUSDT", 51.0)
        expect(cell(page, "AUSDT", "price")).to_have_text("51.000")

    def test_what_expires_is_taken_away_without_an_event(
        self, open_page: Open, line: Line, client: Any
    ) -> None:
        page = open_page(f"{line.url}/status")

        def never_by_itself(route: Route) -> None:
            text = route.fetch().text()
            assert "30_000" in text
            route.fulfill(
                body=text.replace("30_000", "1e12"), content_type="text/javascript; charset=utf-8"
            )

        page.route("**/scanner/page.js", never_by_itself)
        page.goto(f"{line.url}/")
        refresh(client, "AUSDT", 50.0, ttl_s=6)
        expect(cell(page, "AUSDT", "price")).to_have_text("50.000")
        expect(cell(page, "AUSDT", "price").locator(".missing")).to_have_count(1, timeout=60_000)

    def test_what_is_unchanged_is_not_sent_again(
        self, open_page: Open, line: Line, client: Any
    ) -> None:
        refresh(client, "AUSDT", 50.0)
        page = open_page(f"{line.url}/")
        expect(cell(page, "AUSDT", "price")).to_have_text("50.000")
        statuses: list[int] = []
        page.on("response", lambda response: statuses.append(response.status))
        client.publish("market:update:all", "{}")
        until_heard(page, statuses, SOON_S)
        assert statuses == [304]
        refresh(client, "AUSDT", 51.0)
        expect(cell(page, "AUSDT", "price")).to_have_text("51.000")
        assert statuses[-1] == 200
