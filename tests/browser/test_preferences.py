"""What the pages remember: the scanner's view in its URL, preferences in the browser; keys,
notifications and the table as a file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import COINS, YOUNG, Open, System
from tests.browser.looks import coin, column_numbers, column_texts, header, star
from tests.support import PATIENCE, until

SOON_S = 15
expect.set_options(timeout=SOON_S * PATIENCE * 1000)

OpenScanner = Callable[..., Page]


@pytest.fixture
def scanner(open_page: Open, system: System) -> OpenScanner:
    """scanner(query, ...): the scanner page with its rows filled."""

    def open_scanner(query: str = "", *look: Any) -> Page:
        page = open_page(f"{system.url}/{query}", *look)
        filled(page)
        return page

    return open_scanner


def filled(page: Page) -> None:
    until(lambda: len(column_texts(page, "price")) > 0, SOON_S)


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def opened(page: Page) -> str | None:
    """The coin whose chart is open."""
    panel = page.locator("#chart-panel")
    return panel.get_by_role("heading").text_content() if panel.is_visible() else None


def settings(page: Page) -> Any:
    page.get_by_role("button", name="Settings").click()
    return page.get_by_role("dialog", name="Settings")


class TestUrl:
    def test_a_reload_keeps_coin_timeframe_order_and_filter(self, scanner: OpenScanner) -> None:
        page = scanner()
        assert query_of(page) == {}
        header(page, "rsi").get_by_role("button").click()
        header(page, "rsi").get_by_role("button").click()
        page.locator("#filter").fill("BT")
        coin(page, "BTCUSDT").click()
        page.locator("#chart-timeframes").get_by_role("button", name="4h").click()
        wanted = {"coin": ["BTCUSDT"], "tf": ["4h"], "sort": ["rsi"], "q": ["BT"]}
        assert query_of(page) == wanted
        page.reload()
        filled(page)
        until(lambda: opened(page) == "BTC / USDT", SOON_S)
        chosen = page.locator("#chart-timeframes [aria-pressed=true]")
        expect(chosen).to_have_text("4h")
        expect(header(page, "rsi")).to_have_attribute("aria-sort", "ascending")
        expect(page.locator("#filter")).to_have_value("BT")
        assert all("BT" in symbol for symbol in column_texts(page, "price"))
        assert query_of(page) == wanted

    def test_back_closes_the_chart_that_was_opened_and_forward_opens_it(
        self, scanner: OpenScanner
    ) -> None:
        page = scanner()
        coin(page, "BTCUSDT").click()
        coin(page, "ETHUSDT").click()  # in the same entry of the history
        header(page, "price").get_by_role("button").click()
        page.go_back()
        until(lambda: opened(page) is None, SOON_S)
        assert query_of(page) == {"sort": ["-price"]}
        page.go_forward()
        until(lambda: opened(page) == "ETH / USDT", SOON_S)
        assert query_of(page)["sort"] == ["-price"]

    def test_closing_leaves_no_entry_behind(self, scanner: OpenScanner) -> None:
        page = scanner()
        for _ in range(3):
            coin(page, "BTCUSDT").click()
            page.keyboard.press("Escape")
            coin(page, "ETHUSDT").click()
            until(lambda: query_of(page).get("coin") == ["ETHUSDT"], SOON_S)
            page.reload()
            until(lambda: opened(page) == "ETH / USDT", SOON_S)
            page.get_by_role("button", name="Close chart").click()
            until(lambda: "coin" not in query_of(page), SOON_S)
        assert opened(page) is None
        page.go_back()
        until(lambda: page.url == "about:blank", SOON_S)

    def test_a_coin_that_is_none_of_the_services_is_said(self, scanner: OpenScanner) -> None:
        page = scanner("?coin=NOSUCH&tf=1h")
        panel = page.locator("#chart-panel")
        expect(panel.get_by_role("heading")).to_have_text("NOSUCH")
        expect(page.locator("#chart-area")).to_have_text("NOSUCH is not one of the service's coins")
        coin(page, "BTCUSDT").click()
        expect(panel.get_by_role("heading")).to_have_text("BTC / USDT")
        expect(page.locator("#chart-area")).not_to_contain_text("NOSUCH")

    def test_a_bad_value_is_ignored(self, scanner: OpenScanner) -> None:
        bad = ("coin=%3Cb%3E", "coin=BTCUSDT&tf=9z&sort=nothing", "sort=%00&q=")
        page = scanner()
        for query in bad:
            page.goto(f"{page.url.partition('?')[0]}?{query}")
            filled(page)
            expect(header(page, "score")).to_have_attribute("aria-sort", "descending")
            assert len(column_texts(page, "price")) == len(COINS) + 1
            wanted = "BTC / USDT" if "BTCUSDT" in query else None
            until(lambda wanted=wanted: opened(page) == wanted, SOON_S)


class TestSettings:
    def test_a_reload_keeps_them(self, scanner: OpenScanner, system: System) -> None:
        page = scanner()
        dialog = settings(page)
        dialog.get_by_label("dark").check()
        dialog.get_by_label("local").check()
        dialog.get_by_label("RSI", exact=True).uncheck()
        dialog.get_by_label("Upper band").check()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()

        def kept() -> bool:
            scheme = page.evaluate("getComputedStyle(document.documentElement).colorScheme")
            return scheme == "dark" and not header(page, "rsi").count()

        assert kept() and column_numbers(page, "band-upper")["BTCUSDT"]
        page.reload()
        filled(page)
        assert kept() and column_numbers(page, "band-upper")["BTCUSDT"]
        dialog = settings(page)
        expect(dialog.get_by_label("local")).to_be_checked()
        dialog.get_by_role("button", name="As the window allows").click()
        expect(header(page, "rsi")).to_have_count(1)
        expect(header(page, "band-upper")).to_have_count(0)
        page.goto(f"{system.url}/status")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")

    def test_times_are_in_the_zone_that_was_chosen(
        self, chromium: Any, system: System, open_page: Open
    ) -> None:
        page = open_page(f"{system.url}/status")
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
        age = page.locator("#data-age")
        expect(age).to_contain_text("UTC")
        settings(page).get_by_label("local").check()
        expect(age).to_contain_text("GMT+5:30")
        row = page.locator("tr[data-part='5m']")
        expect(row).to_contain_text("GMT+5:30")
        page.get_by_role("dialog").get_by_label("UTC").check()
        expect(row).to_contain_text("UTC")

    def test_broken_storage_is_as_none(self, scanner: OpenScanner) -> None:
        page = scanner()
        page.evaluate(
            """() => {
              const broken = { favourites: '"x"', columns: "[1]", theme: "{", timeZone: "7" };
              for (const [name, value] of Object.entries(broken))
                localStorage.setItem("coinex:" + name, value);
            }"""
        )
        page.reload()
        filled(page)
        assert len(column_texts(page, "rsi")) == len(COINS) + 1
        assert page.locator(".star[aria-pressed=true]").count() == 0
        expect(settings(page).get_by_label("as the system")).to_be_checked()

    def test_forbidden_storage_only_forgets(self, open_page: Open, system: System) -> None:
        page = open_page(f"{system.url}/status")
        page.add_init_script(
            """Object.defineProperty(window, "localStorage", {
              get() { throw new DOMException("no", "SecurityError"); } })"""
        )
        page.reload()
        settings(page).get_by_label("dark").check()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")


class TestFavourites:
    def test_are_on_top_in_any_order_and_kept(self, scanner: OpenScanner) -> None:
        page = scanner()
        favourites = ["ETHUSDT", "BTCUSDT"]
        for symbol in favourites:
            star(page, symbol).click()
            expect(star(page, symbol)).to_have_attribute("aria-pressed", "true")
        assert opened(page) is None
        header(page, "price").get_by_role("button").click()
        assert list(column_texts(page, "symbol"))[:2] == ["BTCUSDT", "ETHUSDT"]
        header(page, "price").get_by_role("button").click()
        assert list(column_texts(page, "symbol"))[:2] == favourites
        others = list(column_numbers(page, "price").values())[2:]
        assert others == sorted(others, key=lambda price: (price is None, price or 0.0))
        page.reload()
        filled(page)
        assert list(column_texts(page, "symbol"))[:2] == favourites
        star(page, "ETHUSDT").click()
        expect(star(page, "ETHUSDT")).to_have_attribute("aria-pressed", "false")
        assert next(iter(column_texts(page, "symbol"))) == "BTCUSDT"

    def test_the_others_can_be_left_out(self, scanner: OpenScanner) -> None:
        page = scanner()
        alone = page.get_by_role("button", name="★", exact=True)
        alone.click()
        expect(page.locator("#empty")).to_have_text("No coin with a star: ★ shows all coins again.")
        alone.click()
        for symbol in ("ETHUSDT", "BTCUSDT"):
            star(page, symbol).click()
        alone.click()
        assert set(column_texts(page, "symbol")) == {"BTCUSDT", "ETHUSDT"}
        expect(page.locator("#coin-count")).to_have_text(f"2 of {len(COINS) + 1}")
        page.reload()
        until(lambda: set(column_texts(page, "symbol")) == {"BTCUSDT", "ETHUSDT"}, SOON_S)
        expect(alone).to_have_attribute("aria-pressed", "true")
        page.locator("#filter").fill("BT")
        assert set(column_texts(page, "symbol")) == {"BTCUSDT"}
        star(page, "BTCUSDT").click()
        expect(page.locator("#empty")).to_have_text("No coin with a star has “BT” in its name.")
        alone.click()
        assert "BTCUSDT" in column_texts(page, "symbol")


class TestKeys:
    def test_search_keys_and_escape(self, scanner: OpenScanner) -> None:
        page = scanner()
        page.keyboard.press("/")
        expect(page.locator("#filter")).to_be_focused()
        page.keyboard.type("b?/")
        expect(page.locator("#filter")).to_have_value("b?/")
        page.locator("#filter").fill("")
        coin(page, "BTCUSDT").click()
        page.keyboard.press("?")
        keys = page.get_by_role("dialog", name="Keys")
        expect(keys).to_contain_text("search")
        page.keyboard.press("/")
        expect(page.locator("#filter")).not_to_be_focused()
        page.keyboard.press("Escape")
        expect(keys).to_be_hidden()
        assert opened(page) == "BTC / USDT"
        page.keyboard.press("Escape")
        until(lambda: opened(page) is None, SOON_S)


STUB = """window.made = [];
  window.Notification = class extends EventTarget {
    static permission = "default";
    static requestPermission() {
      window.asked = (window.asked ?? 0) + 1;
      this.permission = ANSWER;
      return Promise.resolve(ANSWER);
    }
    constructor(title, options) { super(); window.made.push([title, options.body]); }
  };"""


class TestNotifications:
    @staticmethod
    def open(page: Page, answer: str) -> Any:
        page.add_init_script(STUB.replace("ANSWER", f'"{answer}"'))
        page.reload()
        filled(page)
        return settings(page).get_by_label("signals of coins with a star")

    def test_signals_of_favourites_alone(self, scanner: OpenScanner, system: System) -> None:
        page = scanner()
        star(page, "BTCUSDT").click()
        box = self.open(page, "granted")
        assert page.evaluate("window.asked") is None
        box.check()
        assert page.evaluate("window.asked") == 1
        log = system.log("ta-service")
        log.signal("ta:signals", "", "ETHUSDT 1h ribbon_up at 4000.5")
        log.trade("paper:trades", "", "BTCUSDT 1h ribbon_up at 1.23")
        log.signal("ta:signals", "", "BTCUSDT <b> at 1.23")
        log.signal("ta:signals", "", "BTCUSDT 1h ribbon_up at 52880.24")
        until(lambda: ["BTC: ribbon up, 1h", "BTCUSDT at 52880.24"] in made(page), SOON_S)
        assert all(body.startswith("BTCUSDT at ") for _, body in made(page))
        assert [body for _, body in made(page) if body.endswith(" 1.23")] == []

    def test_what_the_browser_forbids_is_said(self, scanner: OpenScanner, system: System) -> None:
        page = scanner()
        star(page, "BTCUSDT").click()
        box = self.open(page, "denied")
        box.click()
        expect(page.get_by_role("dialog")).to_contain_text("The browser forbids them")
        expect(box).not_to_be_checked()
        system.log("ta-service").signal("ta:signals", "", "BTCUSDT 1h ribbon_up at 1.23")
        page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
        page.reload()
        filled(page)
        dialog = settings(page)
        expect(dialog).to_contain_text(f"none for {system.url}, which is not encrypted")
        expect(dialog.get_by_label("signals of coins")).to_be_disabled()
        assert made(page) == []


def made(page: Page) -> list[list[str]]:
    return page.evaluate("window.made")  # type: ignore[no-any-return]


class TestCsv:
    def test_is_the_table_as_shown_with_raw_numbers(
        self, scanner: OpenScanner, system: System, tmp_path: Path
    ) -> None:
        page = scanner("?sort=symbol&q=X")
        shown = list(column_texts(page, "symbol"))
        assert YOUNG in shown
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        assert download.value.suggested_filename.startswith("scanner-20")
        path = tmp_path / "scanner.csv"
        download.value.save_as(path)
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [row["symbol"] for row in rows] == shown == sorted(shown)
        names = ["symbol", "price", "price_time", "change24h", "volume_24h", "rsi"]
        assert list(rows[0])[:6] == names and "band_upper" not in rows[0]
        young = next(row for row in rows if row["symbol"] == YOUNG)
        assert young["rsi"] == "" and float(young["price"]) > 0
        known = {row["symbol"]: row for row in system.get("/api/scanner")["symbols"]}
        for row in rows:
            price = known[row["symbol"]]["price"]["price"]
            assert abs(float(row["price"]) / price - 1) < 0.05
            assert row["price_time"].endswith("Z") and row["squeeze_1h"] in ("on", "off", "")
