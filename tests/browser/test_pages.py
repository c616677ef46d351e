"""The two pages in a real browser, on the whole system: what they show, and how they respond."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from consumers.ta_service import SIGNALS_CHANNEL, Summary, indicators_key, update_channel
from redis_log import DEFAULT_KEY
from tests.browser.conftest import (
    COINS,
    PHONE,
    TIMEFRAMES,
    WIDE,
    YOUNG,
    Open,
    System,
    until_heard,
)
from tests.browser.looks import (
    DASH,
    cell,
    choose_type,
    coin,
    column_numbers,
    column_texts,
    faint_texts,
    header,
    is_price,
    log_rows,
    nameless,
    reason,
    tab_stops,
    ticks,
    to_number,
)
from tests.support import PATIENCE, until

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"
SOON_S = 15  # a page follows Redis within two refreshes
expect.set_options(timeout=SOON_S * PATIENCE * 1000)

OpenScanner = Callable[..., Page]
OpenStatus = Callable[..., Page]


@pytest.fixture
def scanner(open_page: Open, system: System) -> OpenScanner:
    """scanner(...): the scanner page with every row filled."""

    def open_scanner(*look: Any) -> Page:
        page = open_page(f"{system.url}/", *look)
        expect(page.locator("#scanner-table tbody tr")).to_have_count(len(COINS) + 1)
        until(lambda: all(column_texts(page, "price").values()), SOON_S)
        return page

    return open_scanner


@pytest.fixture
def status(open_page: Open, system: System) -> OpenStatus:
    """status(...): the status page once it has shown the state and the message log."""

    def open_status(*look: Any) -> Page:
        page = open_page(f"{system.url}/status", *look)
        expect(page.locator("#service .badge")).to_contain_text("ok")
        expect(page.locator("#log-table tbody tr").nth(10)).to_be_attached()
        return page

    return open_status


def row_of(system: System, symbol: str) -> dict[str, Any]:
    rows = system.get("/api/scanner")["symbols"]
    return next(row for row in rows if row["symbol"] == symbol)


def is_sorted(numbers: dict[str, float | None], descending: bool) -> bool:
    """Whether values are in order, with missing ones after all others."""
    values = list(numbers.values())
    known = [value for value in values if value is not None]
    return values[: len(known)] == sorted(known, reverse=descending)


def wait_for_refresh(page: Page) -> None:
    before = column_texts(page, "price")["BTCUSDT"]
    expect(cell(page, "BTCUSDT", "price")).not_to_have_text(before or "")


class TestTable:
    def test_shows_what_redis_has_of_each_coin(self, scanner: OpenScanner, system: System) -> None:
        page = scanner()
        read: dict[str, Callable[[dict[str, Any]], float]] = {
            "change24h": lambda row: row["price"]["change24h"],
            "rsi": lambda row: row["scan"]["rsi"],
            "vwap": lambda row: row["scan"]["vwap_distance_pct"],
            "bands": lambda row: row["scan"]["bands"]["place"],
            "score": lambda row: row["scan"]["score"],
        }
        steps = {"change24h": 0.006, "rsi": 0.06, "vwap": 0.006, "bands": 0.006, "score": 0}

        def differences() -> list[str]:
            rows = {row["symbol"]: row for row in system.get("/api/scanner")["symbols"]}
            prices = column_texts(page, "price")
            wrong = [
                f"price of {symbol}"
                for symbol in COINS
                if not is_price(prices[symbol] or "0", rows[symbol]["price"]["price"])
            ]
            for column, value in read.items():
                shown = column_numbers(page, column)
                wrong += [
                    f"{column} of {symbol}"
                    for symbol in COINS
                    if abs((shown[symbol] or 0.0) - value(rows[symbol])) > steps[column]
                ]
            return wrong

        until(lambda: not differences(), SOON_S, 0.1, f"page and API agree: {differences()}")
        points = "polylines => polylines.map(line => line.getAttribute('points').split(' ').length)"
        for symbol in COINS:
            lines = cell(page, symbol, "spark").locator("svg.spark polyline")
            assert lines.evaluate_all(points) == [48], symbol

    @pytest.mark.parametrize("timeframe", TIMEFRAMES)
    def test_shows_the_analysis_of_each_timeframe(
        self, scanner: OpenScanner, system: System, timeframe: str
    ) -> None:
        page = scanner()
        column = f"ta-{timeframe}"
        signs = {"up": "▲", "down": "▼", "mixed": DASH}

        def agrees(symbol: str, shown: str) -> bool:
            ta = row_of(system, symbol)["ta"][timeframe]
            ribbon, k = ta["ribbon"]["state"], ta["stoch_rsi"]["k"]
            squeeze = "on" if ta["squeeze"]["on"] else "off"
            said = f"{timeframe}: EMA ribbon {ribbon}, squeeze {squeeze}, momentum "
            parts = (said, signs[ribbon], f"Stoch RSI K {k:.1f}, D ")
            return all(part in shown for part in parts)

        def all_agree() -> bool:
            shown = column_texts(page, column)
            return all(agrees(symbol, shown[symbol] or "") for symbol in COINS[::7])

        until(all_agree, SOON_S, 0.1)
        assert all(column_texts(page, column)[symbol] for symbol in COINS)

    def test_the_newest_signal_of_a_coin(self, scanner: OpenScanner, system: System) -> None:
        page = scanner((1700, 900))
        text = str(Summary("SOLUSDT", "4h", "stoch_rsi_up", 12.5))
        system.log("ta-service").signal(SIGNALS_CHANNEL, "{}", text)
        system.redis.client.publish(update_channel("4h"), "{}")
        shown = re.compile(r"^▲ stoch rsi up 4h \d+ [A-Z][a-z]{2} \d\d:\d\d:\d\d$")
        until(lambda: shown.match(column_texts(page, "signal")["SOLUSDT"] or ""), SOON_S)
        header(page, "signal").get_by_role("button").click()
        has_one = [text is not None for text in column_texts(page, "signal").values()]
        assert has_one == sorted(has_one, reverse=True)

    def test_says_why_a_value_is_missing(self, scanner: OpenScanner, system: System) -> None:
        page = scanner()
        reasons = row_of(system, YOUNG)["scan"]["reasons"]
        assert "rsi" in reasons and "candles, has 1" in reasons["rsi"]
        for column in ("rsi", "bands", "score"):
            assert reason(page, YOUNG, column) == reasons[column]
            expect(cell(page, YOUNG, column)).to_have_text(DASH + reasons[column])

    def test_follows_the_refreshes_by_itself(self, scanner: OpenScanner) -> None:
        page = scanner()
        page.evaluate("window.isTheSame = true")
        wait_for_refresh(page)
        assert page.evaluate("window.isTheSame")

    def test_a_refresh_leaves_focus_and_scrolling_alone(self, scanner: OpenScanner) -> None:
        page = scanner(PHONE)
        header(page, "symbol").get_by_role("button").click()  # an order that refreshes keep
        coin(page, "XRPUSDT").focus()
        page.evaluate("window.before = [document.activeElement, scrollY]")
        assert page.evaluate("scrollY") > 100
        wait_for_refresh(page)
        assert page.evaluate("before[0] === document.activeElement && before[1] === scrollY")

    def test_the_age_of_the_data_ticks(self, scanner: OpenScanner) -> None:
        page = scanner()
        age = page.locator("#data-age")
        assert ticks(page, "#data-age", r"^Prices (\d+) s old", 2)
        assert ticks(page, "#data-age", r"scores (\d+) s old", 3)
        until(lambda: to_number(age.inner_text()) <= 2 * TIMEFRAMES["5m"], SOON_S)
        expect(page.locator("#banner")).to_be_hidden()

    def test_hostile_text_is_text(self, scanner: OpenScanner, system: System) -> None:
        page = scanner()
        value = {
            "ribbon": {"state": HOSTILE},
            "squeeze": None,
            "stoch_rsi": {"k": 1.0, "d": 1.0, "zone": HOSTILE},
            "reasons": {HOSTILE: HOSTILE},
        }
        key = indicators_key("BTCUSDT", "5m")

        def times() -> int:
            return (column_texts(page, "ta-5m")["BTCUSDT"] or "").count(HOSTILE)

        def shown() -> bool:
            system.redis.client.set(key, json.dumps(value), ex=30)
            system.redis.client.publish(update_channel("5m"), "{}")
            return times() == 4

        until(shown, SOON_S, 0.5)
        assert page.locator("img, script:not([src])").count() == 0
        until(lambda: not times(), SOON_S, what="the next analysis takes its place")


class TestSorting:
    COLUMNS = ("price", "change24h", "rsi", "vwap", "bands", "score", "spark")

    def test_the_highest_score_is_on_top_at_first(self, scanner: OpenScanner) -> None:
        page = scanner()
        expect(header(page, "score")).to_have_attribute("aria-sort", "descending")
        assert is_sorted(column_numbers(page, "score"), descending=True)

    @pytest.mark.parametrize("column", COLUMNS)
    def test_by_a_column_in_both_directions(self, scanner: OpenScanner, column: str) -> None:
        page = scanner()
        header(page, "symbol").get_by_role("button").click()
        for direction in ("descending", "ascending"):
            header(page, column).get_by_role("button").click()
            expect(header(page, column)).to_have_attribute("aria-sort", direction)
            assert page.locator("th[aria-sort]").count() == 1
            numbers = column_numbers(page, column)
            assert len(set(numbers.values())) > 10
            assert is_sorted(numbers, direction == "descending"), numbers

    def test_by_name(self, scanner: OpenScanner) -> None:
        page = scanner()
        for direction in ("ascending", "descending"):
            header(page, "symbol").get_by_role("button").click()
            expect(header(page, "symbol")).to_have_attribute("aria-sort", direction)
            names = list(column_texts(page, "symbol"))
            assert names == sorted((*COINS, YOUNG), reverse=direction == "descending")

    @pytest.mark.parametrize("timeframe", TIMEFRAMES)
    def test_by_the_ribbon_and_then_by_stoch_rsi(
        self, scanner: OpenScanner, timeframe: str
    ) -> None:
        page = scanner()
        header(page, f"ta-{timeframe}").get_by_role("button").click()

        def rank(text: str) -> tuple[int, float]:
            ribbon = next(
                n for n, word in enumerate(("down", "mixed", "up")) if f"EMA ribbon {word}" in text
            )
            return ribbon, to_number(text.partition("Stoch RSI K")[2])

        texts = column_texts(page, f"ta-{timeframe}").values()
        ranks = [rank(text) for text in texts if text and "EMA ribbon" in text]
        assert len(ranks) >= len(COINS)
        assert ranks == sorted(ranks, reverse=True)

    def test_missing_values_are_last_in_both_directions(self, scanner: OpenScanner) -> None:
        page = scanner()
        header(page, "symbol").get_by_role("button").click()
        for column in ("rsi", "bands", "score"):
            for direction in ("descending", "ascending"):
                header(page, column).get_by_role("button").click()
                expect(header(page, column)).to_have_attribute("aria-sort", direction)
                assert list(column_numbers(page, column).items())[-1] == (YOUNG, None)

    def test_with_the_keyboard(self, scanner: OpenScanner) -> None:
        page = scanner()
        button = header(page, "rsi").get_by_role("button")
        button.focus()
        for key, direction in (("Enter", "descending"), ("Space", "ascending")):
            page.keyboard.press(key)
            expect(header(page, "rsi")).to_have_attribute("aria-sort", direction)
            assert is_sorted(column_numbers(page, "rsi"), direction == "descending")
            expect(button).to_be_focused()

    def test_the_order_is_kept_by_a_refresh(self, scanner: OpenScanner) -> None:
        page = scanner()
        header(page, "change24h").get_by_role("button").click()
        wait_for_refresh(page)
        expect(header(page, "change24h")).to_have_attribute("aria-sort", "descending")
        assert is_sorted(column_numbers(page, "change24h"), descending=True)


class TestFilter:
    def test_shows_only_coins_with_the_text_in_their_names(self, scanner: OpenScanner) -> None:
        page = scanner()
        box = page.get_by_role("searchbox", name="Coin")
        box.press_sequentially("bt")
        wanted = {symbol for symbol in COINS if "BT" in symbol}
        assert "BTCUSDT" in wanted
        assert set(column_texts(page, "symbol")) == wanted
        expect(page.locator("#coin-count")).to_have_text(f"{len(wanted)} of {len(COINS) + 1}")
        wait_for_refresh(page)
        assert set(column_texts(page, "symbol")) == wanted
        box.fill("nothing like it")
        expect(page.locator("#empty")).to_have_text("No coin has “NOTHING LIKE IT” in its name.")
        box.press("Escape")
        assert len(column_texts(page, "symbol")) == len(COINS) + 1
        expect(page.locator("#empty")).to_be_hidden()


class TestCards:
    def test_service_exchange_and_redis(self, status: OpenStatus, system: System) -> None:
        page = status()
        health = system.get("/api/status")["service"]["health"]
        service = page.locator("#service")
        expect(service).to_contain_text(f"Version{health['version']}")
        expect(service).to_contain_text(f"Coins{len(COINS) + 1}")
        expect(page.locator("#exchange .badge")).to_have_text("● reachable")
        expect(page.locator("#redis .badge")).to_have_text("● answers")
        expect(page.locator("#banner")).to_be_hidden()

        def weight_agrees() -> bool:
            used = system.get("/api/status")["service"]["health"]["exchange"]["used_weight"]
            meter = page.locator("#exchange meter")
            words = f"{used:,} of 6,000"
            return words in page.locator("#exchange").inner_text() and used == float(
                meter.get_attribute("value") or "nan"
            )

        until(weight_agrees, SOON_S, 0.05)

    def test_a_date_that_is_none_is_missing(self, status: OpenStatus, system: System) -> None:
        answer = system.get("/api/status")
        health = answer["service"]["health"]
        health["prices"]["last_success"] = health["exchange"]["hold_until"] = "yesterday"
        page = status()
        page.route("**/api/status*", lambda route: route.fulfill(json=answer))
        expect(page.locator("tr[data-part='prices'] [data-label=Age]")).to_have_text("")
        expect(page.locator("#exchange")).not_to_contain_text("Until")

    def test_timeframes(self, status: OpenStatus, system: System) -> None:
        page = status()
        rows = page.locator("#timeframes tbody tr")
        expect(rows.get_by_role("rowheader")).to_have_text(["prices", *TIMEFRAMES])
        health = system.get("/api/status")["service"]["health"]
        for name in TIMEFRAMES:
            row = page.locator(f"#timeframes tr[data-part='{name}']")
            held = health["timeframes"][name]["candles"]
            assert held > 29 * 400 or name == "4h"
            until(
                lambda row=row, held=held: (  # type: ignore[misc]
                    abs(to_number(row.locator("[data-label=Candles]").inner_text()) - held) <= 60
                ),
                SOON_S,
            )
            expect(row.locator("[data-label=Fresh]")).to_have_text(f"{len(COINS) + 1} of 30")
            expect(row.locator("[data-label=Failing]")).to_have_text("none")
        assert ticks(page, "tr[data-part='4h'] [data-label=Age]", r"^(\d+) s$", 3)
        expect(page.locator("#timeframes-note")).to_be_hidden()

    def test_a_failing_coin_is_named_with_its_reason(
        self, status: OpenStatus, system: System
    ) -> None:
        page = status()
        fault = system.exchange.fault("status", symbol="ADAUSDT", path="klines", status=503)
        try:
            failing = page.locator("tr[data-part='5m'] [data-label=Failing]")
            expect(failing).to_contain_text("ADA: HTTP 503")
            expect(page.locator("#exchange .badge")).to_have_text("▲ some reads failed")
        finally:
            system.exchange.clear(fault)
        expect(failing).to_have_text("none")

    def test_consumers_and_one_that_starts(self, status: OpenStatus, system: System) -> None:
        page = status()

        def line(name: str) -> Any:
            return page.locator(f"#consumers li[data-consumer='{name}']")

        for name in ("scanner", "ta-service", "dashboard"):
            expect(line(name).locator(".badge")).to_have_text("● alive")
            expect(line(name).locator(".start")).to_be_hidden()
        expect(line("dashboard")).to_contain_text(f"pid {system.dashboard.process.pid}")
        expect(line("trader-bot").locator(".badge")).to_have_text("○ never seen")
        expect(line("trader-bot").locator(".start")).to_have_text(
            "installed: systemctl --user restart coinex-consumer@paper_trader; "
            "by hand: .venv/bin/python -m consumers.paper_trader"
        )
        trader = system.start_consumer("paper_trader")
        expect(line("trader-bot").locator(".badge")).to_have_text("● alive")
        expect(line("trader-bot").locator(".start")).to_be_hidden()
        trader.stop()


class TestActivity:
    @staticmethod
    def choose(page: Page, **filters: str) -> None:
        """Set filters, and wait until only matching rows are shown."""
        if "type" in filters:
            choose_type(page, filters["type"])
        if "source" in filters:
            page.locator("#log-source").select_option(filters["source"])
        wanted = {name: value for name, value in filters.items() if value}
        until(lambda: all(wanted.items() <= row.items() for row in log_rows(page)), SOON_S)

    @staticmethod
    def summaries(page: Page) -> list[str]:
        return [row["summary"] for row in log_rows(page)]

    @staticmethod
    def what(row: dict[str, str]) -> tuple[str, str]:
        return row["channel"], row["summary"]

    def test_the_filter_offers_the_sources_that_the_log_has(
        self, status: OpenStatus, system: System
    ) -> None:
        page = status()
        system.log("my-bot").trade("paper:trades", "", "of my own")
        options = page.locator("#log-source option")
        until(lambda: "my-bot" in options.all_text_contents(), SOON_S)
        self.choose(page, source="my-bot")
        until(lambda: self.summaries(page) == ["of my own"], SOON_S)

    def test_entries_arrive_by_themselves_newest_on_top(
        self, status: OpenStatus, system: System
    ) -> None:
        page = status()
        page.evaluate("window.isTheSame = true")
        self.choose(page, type="trade")
        for number in range(3):
            system.log("trader-bot").trade("paper:trades", "x" * 1234, f"arrival {number}")
        until(lambda: self.summaries(page)[:3] == [f"arrival {n}" for n in (2, 1, 0)], SOON_S)
        top = log_rows(page)[0]
        assert (top["type"], top["source"]) == ("trade", "trader-bot")
        assert (top["channel"], top["payload_size"]) == ("paper:trades", "1,234")
        [entry] = system.get("/api/redis/log?type=trade&limit=1")["entries"]
        assert top["timestamp"] == entry["timestamp"][11:23]
        self.choose(page, type="")
        until(lambda: len({row["source"] for row in log_rows(page)}) >= 3, SOON_S)
        shown = [self.what(row) for row in log_rows(page) if row["type"] != "cache_write"]
        entries = system.get("/api/redis/log?limit=1000")["entries"]
        known = [self.what(entry) for entry in entries if entry["type"] != "cache_write"]
        starts = range(len(known) - len(shown) + 1)
        assert any(known[start : start + len(shown)] == shown for start in starts)
        assert page.evaluate("window.isTheSame")

    def test_filters_what_is_there_and_what_arrives(
        self, status: OpenStatus, system: System
    ) -> None:
        page = status()
        self.choose(page, type="cache_read")
        assert {row["source"] for row in log_rows(page)} >= {"dashboard", "ta-service"}
        self.choose(page, type="cache_read", source="dashboard")
        both = {("cache_read", "dashboard")}
        newest = log_rows(page)[0]
        until(lambda: log_rows(page)[0] != newest, SOON_S, what="an entry arrives")
        assert {(row["type"], row["source"]) for row in log_rows(page)} == both
        self.choose(page, type="trade", source="trader-bot")
        system.log("trader-bot").signal("paper:trades", "", "another type")
        system.log("ta-service").trade("paper:trades", "", "another source")
        system.log("trader-bot").trade("paper:trades", "", "of both")
        until(lambda: "of both" in self.summaries(page), SOON_S)
        assert {(row["type"], row["source"]) for row in log_rows(page)} == {("trade", "trader-bot")}
        self.choose(page, type="error", source="dashboard")
        expect(page.locator("#log-note")).to_have_text("No entries.")

    def test_pause_and_resume(self, status: OpenStatus, system: System) -> None:
        page = status()
        button = page.locator("#log-pause")
        button.click()
        expect(button).to_have_text(re.compile("^Resume"))
        self.choose(page, type="trade")
        system.log("trader-bot").trade("paper:trades", "", "while paused 1")
        system.log("trader-bot").trade("paper:trades", "", "while paused 2")
        expect(button).to_have_text("Resume (2 new)")
        assert "while paused 1" not in self.summaries(page)
        button.click()
        expect(button).to_have_text("Pause")
        until(lambda: self.summaries(page)[:2] == ["while paused 2", "while paused 1"], SOON_S)

    def test_nothing_moves_while_paused_and_what_waits_is_counted(self, status: OpenStatus) -> None:
        page = status()
        button = page.locator("#log-pause")
        button.click()
        before = log_rows(page)
        expect(button).to_contain_text("new)")
        waiting = button.inner_text()
        expect(button).not_to_have_text(waiting)
        assert 0 < to_number(waiting) < to_number(button.inner_text())
        assert log_rows(page) == before
        button.click()
        until(lambda: log_rows(page)[0] != before[0], SOON_S)

    def test_a_read_that_ends_while_paused_changes_nothing(
        self, status: OpenStatus, system: System
    ) -> None:
        page = status()
        button, log = page.locator("#log-pause"), system.log("trader-bot")
        log.trade("paper:trades", "", "shown")
        page.locator("#log-types [data-type=trade]").click()
        until(lambda: "shown" in [row["summary"] for row in log_rows(page)], SOON_S)
        reads: list[Route] = []
        page.route("**/api/redis/log?*", lambda route: reads.append(route), times=1)
        log.trade("paper:trades", "", "read when it was paused")
        until_heard(page, reads, SOON_S)
        button.click()
        before = log_rows(page)
        with page.expect_response("**/api/redis/log?*"):
            reads[0].continue_()
        log.trade("paper:trades", "", "came while paused")
        expect(button).to_have_text("Resume (1 new)")
        assert log_rows(page) == before
        button.click()
        until(lambda: len(log_rows(page)) == len(before) + 2, SOON_S)

    @pytest.mark.parametrize("type_", ["trade", "publish"])  # rare, and not
    def test_a_burst_while_the_log_is_read_stays_in_order(
        self, status: OpenStatus, system: System, type_: str
    ) -> None:
        page = status()
        last = f"{type_} burst 149"
        page.evaluate(
            """last => new EventSource("/api/events").addEventListener("log", event => {
              window.heardLast ||= JSON.parse(event.data).some(entry => entry.summary === last);
            })""",
            last,
        )

        def delay(route: Route) -> None:
            for number in range(150):
                log = getattr(system.log("trader-bot"), type_)
                log("paper:trades", "", f"{type_} burst {number}")
            until(lambda: page.evaluate("window.heardLast"), SOON_S)
            route.continue_()

        page.route("**/api/redis/log?*", delay, times=1)
        page.locator(f"#log-types [data-type={type_}]").click()
        until(lambda: last in self.summaries(page), SOON_S)
        burst = [text for text in self.summaries(page) if "burst" in text]
        assert burst == [f"{type_} burst {n}" for n in range(149, -1, -1)]

    def test_rows_are_kept_to_500(self, status: OpenStatus, system: System) -> None:
        page = status()
        self.choose(page, type="publish")
        for number in range(550):
            system.log("trader-bot").publish("paper:trades", "", f"one of many {number}")
        until(lambda: "one of many 549" in self.summaries(page), SOON_S)
        assert len(log_rows(page)) == 500

    def test_messages_a_minute(self, status: OpenStatus, system: System) -> None:
        page = status()
        caption = page.locator("#messages-chart figcaption")
        bars = page.locator("#messages-chart svg.minute-bars rect")
        until(lambda: bars.count() == len(system.get("/api/status")["messages_per_minute"]), SOON_S)
        expect(caption).to_have_text(re.compile(r"^Messages a minute: [\d,]+ in this one so far"))
        heights = bars.evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
        assert max(heights) == 44  # the fullest minute fills the chart
        reach = page.locator("#log-reach")
        expect(reach).to_have_text(re.compile(r"^[\d,]+ entries, back to .* UTC, .* ago$"))
        before = reach.inner_text()
        expect(reach).not_to_have_text(before)

    def test_a_hostile_entry_is_shown_as_it_is_written(
        self, status: OpenStatus, system: System
    ) -> None:
        page = status()
        fields = ("type", "source", "channel", "payload_size", "timestamp", "summary")

        def rows_with_it(reload: bool) -> list[dict[str, str]]:
            # Added each time: when all timeframes refresh at once, their entries push it out.
            system.redis.client.xadd(DEFAULT_KEY, dict.fromkeys(fields, HOSTILE))
            system.redis.client.xadd(DEFAULT_KEY, {"summary": "all else is missing"})
            if reload:
                page.reload()
                page.wait_for_selector("#log-table tbody tr")
            rows = log_rows(page)
            return rows if dict.fromkeys(fields, HOSTILE) in rows else []

        until(lambda: rows_with_it(reload=False), SOON_S, 0.5, what="it arrives as an event")
        rows = until(lambda: rows_with_it(reload=True), SOON_S, what="it is read from the log")
        row = next(row for row in rows if row["summary"] == "all else is missing")
        assert row["channel"] == DASH + "missing in the entry"
        assert page.locator("img, script:not([src])").count() == 0


PAGES = ("/", "/status")
SIZES = {"phone": PHONE, "wide": WIDE}
SCHEMES = ("light", "dark")


@pytest.fixture
def any_page(scanner: OpenScanner, status: OpenStatus) -> Callable[..., Page]:
    """any_page(path, ...): the page of that path."""
    return lambda path, *look: {"/": scanner, "/status": status}[path](*look)


class TestLooks:
    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_fits_the_window_and_can_be_read(
        self, any_page: Callable[..., Page], path: str, size: str, scheme: str
    ) -> None:
        page = any_page(path, SIZES[size], scheme)
        if path == "/":
            coin(page, "BTCUSDT").click()
            expect(page.locator("#chart-area .chart-host")).to_be_visible()
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (to_number(ground) > 128) == (scheme == "light")
        overflow = "document.scrollingElement.scrollWidth - innerWidth"
        assert page.evaluate(overflow) <= 0
        assert faint_texts(page) == []
        if path == "/":
            page.keyboard.press("Escape")
            assert page.evaluate(overflow) <= 0


class TestAccessibility:
    @pytest.mark.parametrize("path", PAGES)
    def test_tab_reaches_all_and_shows_where_it_is(
        self, any_page: Callable[..., Page], path: str
    ) -> None:
        page = any_page(path)
        if path == "/status":
            page.locator("#log-pause").click()  # rows that open come and go with the log
        if path == "/":
            coin(page, "BTCUSDT").click()
            expect(page.locator("#chart-area .chart-host")).to_be_visible()
            header(page, "symbol").get_by_role("button").click()  # an order that refreshes keep
        page.evaluate("document.activeElement.blur()")
        missed, unseen = tab_stops(page)
        assert not missed and not unseen
        assert nameless(page) == []

    @pytest.mark.parametrize("path", PAGES)
    def test_structure(self, any_page: Callable[..., Page], path: str) -> None:
        page = any_page(path)
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.title() and page.locator("h1").count() == page.locator("main").count() == 1
        assert page.locator("th").count() >= 10
        assert page.locator("th:not([scope=col]):not([scope=row])").count() == 0
        current = page.get_by_role("navigation").locator("[aria-current=page]")
        expect(current).to_have_attribute("href", path)

    def test_the_pages_lead_to_each_other(self, scanner: OpenScanner) -> None:
        page = scanner()
        page.get_by_role("link", name="Status").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Status")
        page.get_by_role("link", name="Scanner").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Scanner")
        expect(coin(page, "BTCUSDT")).to_be_visible()
