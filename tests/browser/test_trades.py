"""The trades page in a real browser: positions live, closed trades with filters and pages, and what
it shows while Redis or the dashboard does not answer (these tests come last: they end both)."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from consumers.book import POSITIONS_KEY, TRADES_LOG_KEY, Book, ClosedTrade, Position
from consumers.market_cache import ALIVE_KEY, now_ms, price_key
from consumers.ta_service import SIGNALS_CHANNEL, Signal
from tests.browser.conftest import PHONE, WIDE, Open, System
from tests.browser.looks import (
    DASH,
    MINUS,
    faint_texts,
    is_price,
    nameless,
    tab_stops,
    to_number,
)
from tests.support import PATIENCE, until
from tests.trades import trade

SOON_S = 15
expect.set_options(timeout=SOON_S * PATIENCE * 1000)
SIZES = {"phone": PHONE, "tablet": (768, 1024), "wide": WIDE, "wall": (2560, 1440)}
OpenTrades = Callable[..., Page]


@pytest.fixture(autouse=True)
def no_trades(system: System) -> None:
    system.redis.client.delete(POSITIONS_KEY, TRADES_LOG_KEY)


@pytest.fixture
def trades(open_page: Open, system: System) -> OpenTrades:
    """trades(query, ...): the trades page."""

    def open_trades(query: str = "", *look: Any) -> Page:
        page = open_page(f"{system.url}/trades{query}", *look)
        expect(page.locator("#data-age")).to_contain_text("As of")
        return page

    return open_trades


def add(system: System, *closed: ClosedTrade) -> None:
    for each in closed:
        system.redis.client.xadd(TRADES_LOG_KEY, each.fields())  # type: ignore[arg-type]


def hold(system: System, **positions: Position) -> None:
    system.redis.client.set(POSITIONS_KEY, Book(positions, 12.5, 9, 9).json())


def rows(page: Page, table: str) -> list[dict[str, str]]:
    """The texts of the cells of each row, by column; coins without their quote currency."""
    read = """table => [...document.querySelectorAll(`#${table} tbody tr`)].map(row =>
      Object.fromEntries([...row.cells].map(cell => [cell.dataset.column, cell.textContent])))"""
    found: list[dict[str, str]] = page.evaluate(read, table)
    return found


def cell(page: Page, table: str, key: str, column: str) -> Locator:
    return page.locator(f'#{table} tr[data-key="{key}"] [data-column="{column}"]')


def choose(page: Page, **filters: str) -> None:
    for name, value in filters.items():
        page.locator(f"#filter-{name}").select_option(value)


class TestPositions:
    def test_with_price_and_profit_live(self, trades: OpenTrades, system: System) -> None:
        opened = now_ms() - 3_700_000
        hold(
            system,
            BTCUSDT=Position("1h", "ribbon_up", 0.002, 50_000.0, opened, fee=0.1),
            GONEUSDT=Position("5m", "squeeze_up", 2.0, 50.0, opened - 1, "squeeze_down"),
        )
        page = trades()
        price = cell(page, "positions-table", "BTCUSDT", "price")

        def agrees() -> bool:
            [btc, _] = system.get("/api/positions")["positions"]
            shown = rows(page, "positions-table")[0]
            expected = (btc["current_price"] - 50_000) * 0.002 - 0.1
            right = btc["unrealised_profit"] == pytest.approx(expected)
            near = abs(to_number(shown["profit"]) - expected) < 0.006
            return right and near and is_price(shown["price"], btc["current_price"])

        until(agrees, SOON_S, 0.1)
        [btc, gone] = rows(page, "positions-table")
        assert (btc["symbol"], btc["timeframe"], btc["age"]) == ("BTCUSDT", "1h", "61 min")
        assert gone["signal"] == "squeeze_up to be sold on squeeze_down"
        assert gone["price"] == gone["profit"] == DASH + "no fresh price in Redis"
        expect(page.locator("#positions-sum")).to_contain_text(re.compile(r"\(1 of them\); real"))
        expect(page.locator("#positions-sum")).to_contain_text("realised +12.50")
        before = price.inner_text()
        expect(price).not_to_have_text(before)
        assert system.redis.client.exists(price_key("BTCUSDT"))

    def test_none_and_a_silent_trader(self, trades: OpenTrades, system: System) -> None:
        system.redis.client.hdel(ALIVE_KEY, "trader-bot")
        page = trades()
        expect(page.locator("#positions-empty")).to_have_text("No open positions.")
        expect(page.locator("#trader-note")).to_be_visible()
        life = json.dumps({"timestamp": now_ms(), "pid": 1, "started": 1})
        system.redis.client.hset(ALIVE_KEY, "trader-bot", life)
        expect(page.locator("#trader-note")).to_be_hidden()

    def test_what_is_not_a_book_is_said(self, trades: OpenTrades, system: System) -> None:
        system.redis.client.set(POSITIONS_KEY, "<script>alert(1)</script>")
        page = trades()
        banner = page.locator("#banner")
        expect(banner).to_contain_text("The book of the paper trader cannot be read.")
        expect(banner).to_contain_text("paper:positions in Redis is not a book")
        expect(page.locator("#positions-empty")).to_have_text("Not known.")
        expect(page.locator("#positions-sum")).to_have_text("")
        hold(system)
        expect(banner).to_be_hidden()


class TestClosed:
    def test_a_real_trade_arrives_by_itself(self, trades: OpenTrades, system: System) -> None:
        trader = system.start_consumer("paper_trader")
        until(lambda: trader.lines("event=leader"), SOON_S)
        page = trades()

        def say(name: str) -> None:
            made = Signal("BTCUSDT", "1h", name, 1.0, 3_600_000, 0, now_ms())
            system.redis.client.publish(SIGNALS_CHANNEL, json.dumps(made._asdict()))

        say("ribbon_up")
        expect(cell(page, "positions-table", "BTCUSDT", "signal")).to_have_text("ribbon_up")
        say("stoch_rsi_down")
        expect(cell(page, "positions-table", "BTCUSDT", "signal")).to_have_count(0)
        until(lambda: any(r["symbol"] == "BTCUSDT" for r in rows(page, "trades-table")), SOON_S)
        shown = next(r for r in rows(page, "trades-table") if r["symbol"] == "BTCUSDT")
        link = page.locator("#trades-table").get_by_role("link", name="BTCUSDT").first
        expect(link).to_have_attribute("href", f"/?coin=BTCUSDT&tf={shown['timeframe']}")
        assert (shown["signal"], shown["exit_signal"]) == ("ribbon_up", "stoch_rsi_down")
        assert shown["fees"] == "0.20" and to_number(shown["profit"]) < 0  # costs, and no move
        assert trader.stop() == 0

    def test_newest_first_and_what_they_amounted_to(
        self, trades: OpenTrades, system: System
    ) -> None:
        closed = 1_795_000_000_000
        first = trade(10.0, closed=closed, opened=closed - 5_400_000)
        second = trade(-4.0, closed=closed + 1000, opened=closed - 10, symbol="BUSDT")
        third = trade(2.0, closed=closed + 2000, opened=closed, signal="squeeze_up")
        add(system, first, second, third)
        page = trades()
        expect(page.locator("#trades-shown")).to_have_text("1 to 3 of 3")
        shown = rows(page, "trades-table")
        assert [row["profit"] for row in shown] == ["+2.00", f"{MINUS}4.00", "+10.00"]
        assert shown[2] == {
            "symbol": "AUSDT",
            "closed": "18 Nov 11:06:40",
            "timeframe": "1h",
            "signal": "ribbon_up",
            "exit_signal": "ribbon_down",
            "quantity": "2",
            "entry_price": "50.000",
            "exit_price": "55.500",
            "fees": "1.00",
            "profit": "+10.00",
            "profit_pct": "+10.00",
            "duration": "90 min",
        }
        figures = "#summary [data-figure]"
        assert page.locator(figures).all_inner_texts() == [
            "3",
            "+8.00",
            "66.7 %",
            "3.00",
            "+2.67",
            f"{MINUS}4.00",
            "3.00",
        ]
        coins = {row["symbol"]: row for row in rows(page, "by-symbol")}
        assert list(coins) == ["AUSDT", "BUSDT"]
        assert coins["AUSDT"]["profit_factor"] == DASH + "no trade was closed at a loss"
        assert coins["BUSDT"]["drawdown"] == f"{MINUS}4.00"
        assert [row["signal"] for row in rows(page, "by-signal")] == ["ribbon_up", "squeeze_up"]
        said = "+8.00 at the end, between 0.00 and +10.00."
        expect(page.locator("#equity-caption")).to_contain_text(said)
        drawn = page.locator("#equity-area path.line").get_attribute("d") or ""
        heights = [float(y) for y in re.findall(r"[V ]([0-9.]+)", drawn)]
        assert heights == [160, 0, 64, 32]  # of 0, 10, 6 and 8, in 160 from 10 down to 0

    def test_none(self, trades: OpenTrades) -> None:
        page = trades()
        expect(page.locator("#trades-shown")).to_have_text("None.")
        expect(page.locator("#equity-caption")).to_have_text("No closed trades.")
        win_rate = page.locator("[data-figure=win_rate]")
        expect(win_rate).to_have_text(DASH + "no closed trades")

    def test_what_is_no_trade_is_counted_and_left_out(
        self, trades: OpenTrades, system: System
    ) -> None:
        system.redis.client.xadd(TRADES_LOG_KEY, {"symbol": "<img src=x onerror=alert(1)>"})
        add(system, trade(1.0), trade(2.0, symbol="ABTC"))
        page = trades()
        note = page.locator("#trades-note")
        expect(note).to_contain_text("1 entries of paper:trades:log are not trades: left out.")
        expect(note).to_contain_text("The sums mix currencies: BTC, USDT.")
        assert len(rows(page, "trades-table")) == 2

    def test_an_emptied_stream(self, trades: OpenTrades, system: System) -> None:
        add(system, trade(1.0))
        page = trades()
        expect(page.locator("#trades-table tbody tr")).to_have_count(1)
        system.redis.client.delete(TRADES_LOG_KEY)
        expect(page.locator("#trades-shown")).to_have_text("None.")

    def test_another_type_of_key_is_said(self, open_page_in_outage: Open, system: System) -> None:
        add(system, trade(1.0))
        page = open_page_in_outage(f"{system.url}/trades")
        expect(page.locator("#trades-table tbody tr")).to_have_count(1)
        system.redis.client.set(TRADES_LOG_KEY, "no stream")
        expect(page.locator("#trades-note")).to_contain_text("WRONGTYPE")
        expect(page.locator("#results")).to_have_class(re.compile("stale"))
        expect(page.locator("#banner")).to_be_hidden()
        system.redis.client.delete(TRADES_LOG_KEY)
        expect(page.locator("#trades-note")).to_have_text("")
        expect(page.locator("#results")).not_to_have_class(re.compile("stale"))


class TestFilters:
    @pytest.fixture
    def some(self, system: System) -> None:
        add(
            system,
            trade(1.0),
            trade(2.0, symbol="BUSDT"),
            trade(4.0, timeframe="5m"),
            trade(-8.0, signal="squeeze_up"),
        )

    @staticmethod
    def shows(page: Page, *profits: str) -> None:
        until(lambda: [r["profit"] for r in rows(page, "trades-table")] == list(profits), SOON_S)

    def test_are_in_the_address(self, some: None, trades: OpenTrades) -> None:
        page = trades()
        self.shows(page, f"{MINUS}8.00", "+4.00", "+2.00", "+1.00")
        choose(page, symbol="AUSDT")
        self.shows(page, f"{MINUS}8.00", "+4.00", "+1.00")
        choose(page, signal="ribbon_up")
        self.shows(page, "+4.00", "+1.00")
        choose(page, timeframe="5m")
        self.shows(page, "+4.00")
        expect(page.locator("[data-figure=trades]")).to_have_text("1")
        assert page.url.endswith("/trades?symbol=AUSDT&signal=ribbon_up&timeframe=5m")
        page.reload()
        self.shows(page, "+4.00")
        expect(page.locator("#filter-timeframe")).to_have_value("5m")
        page.go_back()
        self.shows(page, "+4.00", "+1.00")
        expect(page.locator("#filter-timeframe")).to_have_value("")
        page.locator("#filter-reset").click()
        self.shows(page, f"{MINUS}8.00", "+4.00", "+2.00", "+1.00")
        assert page.url.endswith("/trades")

    def test_from_a_link(self, some: None, trades: OpenTrades) -> None:
        page = trades("?timeframe=1h")
        self.shows(page, f"{MINUS}8.00", "+2.00", "+1.00")
        page.locator("#by-symbol").get_by_role("link", name="BUSDT").click()
        self.shows(page, "+2.00")
        assert page.url.endswith("/trades?timeframe=1h&symbol=BUSDT")
        expect(page.locator("#filter-symbol")).to_have_value("BUSDT")

    def test_one_that_no_trade_passes(self, some: None, trades: OpenTrades) -> None:
        page = trades("?symbol=CUSDT")
        expect(page.locator("#trades-shown")).to_have_text("None.")
        expect(page.locator("#filter-symbol")).to_have_value("CUSDT")

    def test_a_wrong_one_says_what_is_accepted(
        self, some: None, open_page_in_outage: Open, system: System
    ) -> None:
        page = open_page_in_outage(f"{system.url}/trades?signal=<b>up")
        expect(page.locator("#trades-note")).to_contain_text("must be one of ribbon_up")
        expect(page.locator("#trades-shown")).to_have_text("Not known.")

    def test_csv_has_all_that_pass(self, system: System, trades: OpenTrades) -> None:
        add(system, *(trade(float(n)) for n in range(60)), trade(1.0, symbol="BUSDT"))
        page = trades()
        expect(page.locator("#trades-shown")).to_have_text("1 to 50 of 61")
        choose(page, symbol="AUSDT")
        expect(page.locator("#trades-shown")).to_have_text("1 to 50 of 60")
        with page.expect_download() as download:
            page.locator("#csv").click()
        assert download.value.suggested_filename == "trades.csv"
        read = list(csv.DictReader(download.value.path().read_text().splitlines()))
        assert len(read) == 60 and {row["symbol"] for row in read} == {"AUSDT"}


class TestPages:
    def test_back_and_forth_while_trades_arrive(self, system: System, trades: OpenTrades) -> None:
        add(system, *(trade(float(n)) for n in range(120)))
        page = trades()
        shown, older = page.locator("#trades-shown"), page.locator("#page-older")
        newest = page.locator("#page-newest")
        expect(shown).to_have_text("1 to 50 of 120")
        expect(newest).to_be_disabled()
        older.click()
        expect(shown).to_have_text("51 to 100 of 120")
        expect(page.locator("#trades-title")).to_be_focused()
        before = rows(page, "trades-table")
        assert before[0]["profit"] == "+69.00"
        add(system, trade(500.0))
        expect(shown).to_have_text("52 to 101 of 121")
        assert rows(page, "trades-table") == before
        older.click()
        expect(shown).to_have_text("102 to 121 of 121")
        expect(older).to_be_disabled()
        page.go_back()
        expect(shown).to_have_text("52 to 101 of 121")
        newest.click()
        expect(shown).to_have_text("1 to 50 of 121")
        assert rows(page, "trades-table")[0]["profit"] == "+500.00"

    def test_a_refresh_leaves_the_focus_alone(self, system: System, trades: OpenTrades) -> None:
        add(system, trade(5.0), trade(1.0, symbol="BUSDT"))
        page = trades()
        link = page.locator("#by-symbol").get_by_role("link", name="BUSDT")
        link.focus()
        add(system, trade(50.0, symbol="BUSDT"))
        expect(cell(page, "by-symbol", "BUSDT", "trades")).to_have_text("2")
        expect(link).to_be_focused()


class TestLooks:
    @pytest.fixture
    def full(self, system: System) -> None:
        add(
            system, *(trade(n - 9.0, symbol=f"COIN{n % 7}USDT", closed=2000 + n) for n in range(60))
        )
        opened = now_ms() - 7_300_000
        hold(
            system,
            SHIBUSDT=Position("1h", "stoch_rsi_up", 4e6, 0.00002475, opened, "stoch_rsi_down"),
            GONEUSDT=Position("1h", "ribbon_up", 0.002, 52_530.04, opened),
        )

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_fits_the_window_and_can_be_read(
        self, full: None, trades: OpenTrades, size: str, scheme: str
    ) -> None:
        page = trades("", SIZES[size], scheme)
        expect(page.locator("#trades-table tbody tr")).to_have_count(50)
        assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
        wide = "cards => cards.filter(c => c.scrollWidth > c.clientWidth).map(c => c.outerHTML)"
        assert page.locator(".card").evaluate_all(wide) == []
        assert faint_texts(page) == []

    def test_tab_reaches_all_and_shows_where_it_is(self, full: None, trades: OpenTrades) -> None:
        page = trades()
        page.locator("#by-symbol").get_by_role("link", name="COIN1USDT").wait_for()
        page.evaluate("document.querySelectorAll('button:disabled').forEach(b => b.tabIndex = -1)")
        missed, unseen = tab_stops(page)
        assert [each for each in missed if "disabled" not in each] == [] and not unseen
        assert nameless(page) == []

    def test_structure(self, full: None, trades: OpenTrades) -> None:
        page = trades()
        expect(page.locator("#trades-table tbody tr")).to_have_count(50)
        assert page.title() and page.locator("h1").count() == page.locator("main").count() == 1
        assert page.locator("th:not([scope=col]):not([scope=row])").count() == 0
        assert page.locator("table").count() == page.locator("table > caption").count() == 4
        sections = "section[aria-labelledby]"
        title = "s => document.getElementById(s.getAttribute('aria-labelledby')).innerText"
        names = page.locator(sections).evaluate_all(f"all => all.map({title})")
        assert len(set(names)) == len(names) == 5
        current = page.get_by_role("navigation").locator("[aria-current=page]")
        expect(current).to_have_attribute("href", "/trades")
        page.get_by_role("link", name="Status").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Status")
        page.get_by_role("link", name="Trades").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Trades")


@pytest.mark.usefixtures("servers_are_back")
class TestOutages:
    @pytest.fixture
    def page(self, open_page_in_outage: Open, system: System) -> Page:
        add(system, trade(1.0))
        hold(system, BTCUSDT=Position("1h", "ribbon_up", 0.002, 50_000.0, now_ms()))
        page = open_page_in_outage(f"{system.url}/trades", with_clock=True)
        expect(cell(page, "positions-table", "BTCUSDT", "profit").locator("span")).to_have_class(
            re.compile("up|down")
        )
        expect(page.locator("#trades-table tbody tr")).to_have_count(1)
        return page

    def test_redis_gone_and_back(self, page: Page, system: System) -> None:
        system.redis.kill()
        expect(page.locator("#banner strong")).to_have_text("Redis does not answer.")
        expect(page.locator("body")).to_have_class(re.compile("stale"))
        system.redis.start()
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#positions-empty")).to_have_text("No open positions.")
        expect(page.locator("#trades-shown")).to_have_text("None.")

    def test_dashboard_gone_and_back(self, page: Page, system: System) -> None:
        system.dashboard.stop(signal.SIGKILL)
        expect(page.locator("#banner")).to_contain_text("The dashboard does not answer.")
        assert faint_texts(page) == []
        page.clock.fast_forward(61_000)
        price = cell(page, "positions-table", "BTCUSDT", "price")
        expect(price).to_have_text(DASH + "the dashboard does not answer")
        expect(page.locator("#positions-sum")).to_contain_text("unrealised not known")
        system.dashboard = system.start_dashboard()
        expect(page.locator("#banner")).to_be_hidden()
        expect(price).not_to_contain_text(DASH)
