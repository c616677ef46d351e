"""The chart of a coin in a real browser, on the whole system."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Response, Route, expect

from consumers.ta_service import SIGNALS_CHANNEL, Summary
from tests.browser.conftest import PHONE, WIDE, YOUNG, Open, System, until_heard
from tests.browser.looks import (
    Candle,
    cell,
    chart,
    coin,
    column_texts,
    in_view,
    moment,
    painted,
    painted_at,
    reads_out,
    to_number,
)
from tests.support import PATIENCE, until

SOON_S = 20  # the chart follows Redis within two refreshes
FIRST_LOAD_BYTES = 300_000
expect.set_options(timeout=SOON_S * PATIENCE * 1000)
LEGENDS = {"ribbon", "vwap", "bands", "volume", "squeeze", "stoch_rsi"}
PANES = {"volume", "squeeze", "stoch_rsi"}  # indicators with a pane of their own

OpenChart = Callable[..., Page]


def candles(system: System, symbol: str = "BTCUSDT", timeframe: str = "1h") -> list[Candle]:
    path = f"/api/chart?symbol={symbol}&timeframe={timeframe}"
    return system.get(path)["candles"]  # type: ignore[no-any-return]


def answer_trades(page: Page, trades: list[Any], positions: list[Any]) -> None:
    """The answers of the paper trader's paths."""
    page.route("**/api/trades?*", lambda route: route.fulfill(json={"trades": trades}))
    page.route("**/api/positions", lambda route: route.fulfill(json={"positions": positions}))


def trade(opened: Candle, closed: Candle) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "timeframe": "1h",
        "signal": "ribbon_up",
        "exit_signal": "ribbon_down",
        "quantity": 0.01,
        "entry_price": opened["close"],
        "exit_price": closed["close"],
        "opened": opened["timestamp"] + 60_000,
        "closed": closed["timestamp"] + 60_000,
        "profit_pct": 1.25,
    }


@pytest.fixture
def scanner(open_page: Open, system: System) -> OpenChart:
    """scanner(...): the scanner page, with no trades."""

    def open_scanner(*look: Any) -> Page:
        page = open_page(f"{system.url}/status", *look)  # which asks for no trades
        answer_trades(page, [], [])
        page.goto(f"{system.url}/")
        until(lambda: len(column_texts(page, "price")) > 20, SOON_S)
        until(lambda: all(column_texts(page, "price").values()), SOON_S)
        return page

    return open_scanner


@pytest.fixture
def charted(scanner: OpenChart) -> OpenChart:
    """charted(...): the scanner page with the chart of BTCUSDT open."""

    def open_chart(*look: Any) -> Page:
        page = scanner(*look)
        return open_coin(page, "BTCUSDT")

    return open_chart


def open_coin(page: Page, symbol: str) -> Page:
    coin(page, symbol).click()
    expect(page.locator("#chart-area .pane-legend").first).to_be_attached()
    page.mouse.move(5, 5)  # out of the chart, which may have opened under the pointer
    return page


def reload(page: Page) -> None:
    """The address has the coin, so its chart opens by itself."""
    page.reload()
    expect(page.locator("#chart-area .pane-legend").first).to_be_attached()
    page.mouse.move(5, 5)


def shows(page: Page, system: System, symbol: str, timeframe: str) -> dict[str, Any]:
    """Wait until the chart shows a series and reads out its last candle."""

    def shown() -> dict[str, Any] | None:
        looks, wanted = chart(page), candles(system, symbol, timeframe)
        is_right = looks["label"].startswith(f"Candles of {symbol}, {timeframe}.")
        return looks if is_right and reads_out(looks, wanted[-1], moves=True) else None

    return until(shown, SOON_S, 0.1, f"candles of {symbol} {timeframe}")  # type: ignore[no-any-return]


def layer(page: Page, name: str) -> Any:
    return page.locator(f"#chart-layers [data-id={name}]")


def focus_chart(page: Page) -> None:
    page.locator("#chart-area .chart-host").focus()


def at_candle(page: Page, candle: Candle) -> bool:
    return reads_out(chart(page), candle)


class TestLoading:
    def test_the_page_is_light_until_a_coin_is_opened(
        self, open_page: Open, system: System
    ) -> None:
        page = open_page(f"{system.url}/status")
        answer_trades(page, [], [])
        loaded: list[Response] = []
        page.on("response", lambda response: loaded.append(response))
        page.goto(f"{system.url}/")
        until(lambda: len(column_texts(page, "price")) > 20, SOON_S)
        first = [each for each in loaded if "/api/" not in each.url]
        assert not [each.url for each in first if re.search("vendor|view|indicators", each.url)]
        assert sum(len(each.body()) for each in first) <= FIRST_LOAD_BYTES
        open_coin(page, "BTCUSDT")
        assert [each.url for each in loaded if each.url.endswith("/vendor/lightweight-charts.js")]

    def test_a_coin_can_be_opened_before_the_page_knows_its_coins(
        self, open_page: Open, system: System
    ) -> None:
        page = open_page(f"{system.url}/status")
        answer_trades(page, [], [])
        waiting: list[Route] = []
        page.route("**/api/scanner", lambda route: waiting.append(route))
        page.goto(f"{system.url}/", wait_until="commit")
        until_heard(page, waiting, SOON_S)
        page.evaluate(
            """async () => (await import("/static/chart/panel.js")).openChart("ETHUSDT", "5m")"""
        )
        shows(page, system, "ETHUSDT", "5m")
        page.unroute("**/api/scanner")
        waiting[0].continue_()
        button = page.locator("#chart-timeframes").get_by_role("button", name="5m")
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(coin(page, "ETHUSDT")).to_have_attribute("aria-expanded", "true")

    def test_credit_is_given(self, charted: OpenChart) -> None:
        credit = charted().locator(".chart-credit")
        expect(credit).to_contain_text("TradingView Lightweight Charts™ Copyright")
        expect(credit.get_by_role("link")).to_have_attribute("href", "https://www.tradingview.com/")


class TestCandles:
    @pytest.mark.parametrize("symbol", ["BTCUSDT", "DOGEUSDT"])
    def test_shows_the_candles_of_the_coin(
        self, scanner: OpenChart, system: System, symbol: str
    ) -> None:
        page = scanner()
        panel = page.locator("#chart-panel")
        expect(panel).to_be_hidden()
        open_coin(page, symbol)
        expect(panel.get_by_role("heading")).to_have_text(f"{symbol[:-4]} / USDT")
        expect(coin(page, symbol)).to_have_attribute("aria-expanded", "true")
        expect(panel.get_by_role("button", name="1h")).to_have_attribute("aria-pressed", "true")
        looks = shows(page, system, symbol, "1h")
        shown, held = in_view(looks)
        assert 100 <= shown <= 140 and held == len(candles(system, symbol))
        assert looks["time"].endswith(", forming")
        assert looks["legend"].keys() == LEGENDS
        assert painted(page, "up") > 100 and painted(page, "down") > 100
        expect(panel).to_be_in_viewport(ratio=1)

    def test_the_price_moves_the_forming_candle(self, charted: OpenChart) -> None:
        page = charted()

        def closes_at_the_price() -> str | None:
            readings = chart(page)["readings"]
            is_last = readings.get("C") == column_texts(page, "price")["BTCUSDT"]
            inside = (
                to_number(readings["L"]) <= to_number(readings["C"]) <= to_number(readings["H"])
            )
            return readings["C"] if is_last and inside else None

        before = until(closes_at_the_price, SOON_S)
        until(lambda: (closes_at_the_price() or before) != before, SOON_S)

    def test_timeframes_and_coins_switch(self, charted: OpenChart, system: System) -> None:
        page = charted()
        for timeframe in ("5m", "4h", "1h"):
            button = page.locator("#chart-timeframes").get_by_role("button", name=timeframe)
            button.click()
            expect(button).to_have_attribute("aria-pressed", "true")
            assert page.locator("#chart-timeframes [aria-pressed=true]").count() == 1
            shows(page, system, "BTCUSDT", timeframe)
        open_coin(page, "ETHUSDT")
        shows(page, system, "ETHUSDT", "1h")
        expect(coin(page, "BTCUSDT")).to_have_attribute("aria-expanded", "false")

    def test_of_few_candles_says_what_is_missing(self, scanner: OpenChart, system: System) -> None:
        page = open_coin(scanner(), YOUNG)
        looks = shows(page, system, YOUNG, "1h")
        count = len(candles(system, YOUNG))
        assert in_view(looks) == (count, count) and count < 13
        assert looks["legend"]["ribbon"] == f"EMA ribbon needs 55 candles, has {count}"
        assert to_number(looks["legend"]["vwap"]) > 0

    def test_rising_is_hollow_and_falling_is_filled(
        self, charted: OpenChart, system: System
    ) -> None:
        page = charted()
        for name in ("ribbon", "vwap", "bands", "signals", "trades"):
            layer(page, name).click()
        focus_chart(page)
        for _ in range(5):
            page.keyboard.press("+")
        until(lambda: 20 < in_view(chart(page))[0] < 60, SOON_S)
        first, last = re.findall(r"\d+ \w{3} \d\d:\d\d UTC", chart(page)["view"])
        known = candles(system)
        moments = [moment(each) for each in known]
        shown = known[moments.index(first) : moments.index(last) + 1]
        rising = sum(each["close"] >= each["open"] for each in shown)
        up, down = painted(page, "up") / rising, painted(page, "down") / (len(shown) - rising)
        assert down > 2 * up > 0

    def test_keys_within_a_frame_all_count(self, charted: OpenChart) -> None:
        page = charted()
        page.evaluate(
            """() => {
              const host = document.querySelector("#chart-area .chart-host");
              for (const key of "+++++") host.dispatchEvent(new KeyboardEvent("keydown", { key }));
            }"""
        )
        # Each shows 0.8 times as many, of 120 at first.
        until(lambda: 30 < in_view(chart(page))[0] < 50, SOON_S)

    def test_a_phone_shows_as_many_as_fit(self, charted: OpenChart, system: System) -> None:
        page = charted(PHONE)
        shown, held = in_view(shows(page, system, "BTCUSDT", "1h"))
        assert 30 <= shown <= 70 and held == len(candles(system))
        expect(page.locator("#chart-panel")).to_be_in_viewport(ratio=1)
        area = page.locator("#chart-area").bounding_box()
        assert area and area["height"] > 0.5 * PHONE[1]


class TestCrosshair:
    def test_the_candle_under_the_pointer_is_read_out_with_the_level(
        self, charted: OpenChart, system: System
    ) -> None:
        page = charted()
        shows(page, system, "BTCUSDT", "1h")
        page.locator("#chart-area .chart-host").hover(position={"x": 600, "y": 100})
        known = candles(system)
        found = until(lambda: [each for each in known if at_candle(page, each)], SOON_S)
        assert 20 < len(known) - known.index(found[0]) < 100
        level = to_number(chart(page)["readings"]["Level"])
        assert 0.5 < level / found[0]["close"] < 2
        page.locator("#chart-area .chart-host").hover(position={"x": 600, "y": 150})
        until(lambda: to_number(chart(page)["readings"]["Level"]) < level, SOON_S)
        page.get_by_role("heading", name="Scanner").hover()
        until(lambda: reads_out(chart(page), candles(system)[-1], moves=True), SOON_S)
        assert "Level" not in chart(page)["readings"]

    def test_the_legend_has_the_indicators_of_that_candle(
        self, charted: OpenChart, system: System
    ) -> None:
        page = charted()
        focus_chart(page)
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        body = system.get("/api/chart?symbol=BTCUSDT&timeframe=1h")
        [at] = [n for n, each in enumerate(body["candles"]) if at_candle(page, each)]
        legend, lines = chart(page)["legend"], body["lines"]
        squeeze = "● on" if lines["squeeze"]["on"][at] else "○ off"
        assert legend["vwap"] == f"VWAP {lines['vwap']['vwap'][at]:,.2f}"
        assert f"55: {lines['ribbon']['55'][at]:,.2f}" in legend["ribbon"]
        assert f"{lines['bands']['upper'][at]:,.2f}" in legend["bands"]
        assert legend["squeeze"].startswith(f"Squeeze {squeeze}")
        assert f"K {lines['stoch_rsi']['k'][at]:.1f}" in legend["stoch_rsi"]

    def test_keys_go_from_the_first_candle_to_the_last(
        self, charted: OpenChart, system: System
    ) -> None:
        page = charted()
        focus_chart(page)
        readout = page.locator("#chart-readout")
        expect(readout).to_have_attribute("aria-live", "polite")
        known = candles(system)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert any(at_candle(page, each) for each in known[-3:-1])
        page.keyboard.press("Home")
        until(lambda: at_candle(page, known[0]) or at_candle(page, known[1]), SOON_S)
        page.keyboard.press("PageDown")
        assert at_candle(page, known[10]) or at_candle(page, known[11])
        page.keyboard.press("End")
        until(lambda: reads_out(chart(page), candles(system)[-1], moves=True), SOON_S)
        page.keyboard.press("ArrowLeft")
        page.locator("#filter").focus()
        until(lambda: reads_out(chart(page), candles(system)[-1], moves=True), SOON_S)
        expect(readout).not_to_have_attribute("aria-live", "polite")


class TestView:
    def test_pans_and_zooms_to_the_first_candle(self, charted: OpenChart, system: System) -> None:
        page = charted()
        host = page.locator("#chart-area .chart-host")
        box = host.bounding_box()
        assert box
        y = box["y"] + 150

        def pan_right() -> bool:
            page.mouse.move(box["x"] + 100, y)
            page.mouse.down()
            page.mouse.move(box["x"] + 1200, y, steps=5)
            page.mouse.up()
            shown = re.sub(r".* in view: (.*) UTC to .*", r"\1", chart(page)["view"])
            page.mouse.move(box["x"] + 3, y)  # over the first candle in view
            return shown.endswith(":00") and at_candle(page, candles(system)[0])

        until(pan_right, SOON_S, 0.1, "the first candle is in view")
        before, held = in_view(chart(page))
        assert before < 200 < held
        page.mouse.wheel(0, 400)
        until(lambda: in_view(chart(page))[0] > before, SOON_S)
        page.get_by_role("button", name="All candles").click()
        until(lambda: in_view(chart(page)) == (held, held), SOON_S)
        page.get_by_role("button", name="Newest").click()
        until(lambda: 100 <= in_view(chart(page))[0] <= 140, SOON_S)

    def test_a_refresh_leaves_the_view_alone(self, charted: OpenChart, system: System) -> None:
        page = charted()
        focus_chart(page)
        page.keyboard.press("Home")
        page.keyboard.press("+")
        before, readings = chart(page), column_texts(page, "price")["BTCUSDT"]
        with page.expect_response("**/api/chart?*"):
            pass
        expect(cell(page, "BTCUSDT", "price")).not_to_have_text(readings or "")
        after = chart(page)
        assert (after["view"], after["time"]) == (before["view"], before["time"])

    @pytest.mark.parametrize("how", ["Escape", "close", "again"])
    def test_closes_and_the_focus_returns(self, charted: OpenChart, how: str) -> None:
        page = charted()
        if how == "Escape":
            page.keyboard.press("Escape")
        elif how == "close":
            page.get_by_role("button", name="Close chart").click()
        else:
            coin(page, "BTCUSDT").click()
        expect(page.locator("#chart-panel")).to_be_hidden()
        expect(coin(page, "BTCUSDT")).to_be_focused()
        expect(coin(page, "BTCUSDT")).to_have_attribute("aria-expanded", "false")

    def test_with_the_keyboard_alone(self, scanner: OpenChart, system: System) -> None:
        page = scanner()

        def tab_to(selector: str) -> None:
            for _ in range(80):
                page.keyboard.press("Tab")
                if page.evaluate("s => document.activeElement.matches(s)", selector):
                    return
            pytest.fail(f"Tab does not reach {selector}")

        tab_to("tr[data-symbol=BTCUSDT] button.coin")
        page.keyboard.press("Enter")
        expect(page.locator("#chart-panel")).to_be_focused()
        tab_to("#chart-timeframes button")
        page.keyboard.press("Enter")
        shows(page, system, "BTCUSDT", "5m")
        tab_to("#chart-layers [data-id=volume]")
        page.keyboard.press("Space")
        expect(layer(page, "volume")).to_have_attribute("aria-pressed", "false")
        expect(layer(page, "volume")).to_be_focused()
        tab_to("#chart-area .chart-host")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Escape")
        expect(page.locator("#chart-panel")).to_be_hidden()
        expect(coin(page, "BTCUSDT")).to_be_focused()


class TestChoices:
    @pytest.mark.parametrize("name", sorted(LEGENDS))
    def test_each_indicator_is_switched_and_stays_so(self, charted: OpenChart, name: str) -> None:
        page = charted()
        panes = page.locator("#chart-area .pane-legend")
        expect(panes).to_have_count(4)
        for pressed, shown in (("false", LEGENDS - {name}), ("true", LEGENDS)):
            layer(page, name).click()
            for reloaded in (False, True):
                if reloaded:
                    reload(page)
                expect(layer(page, name)).to_have_attribute("aria-pressed", pressed)
                until(lambda shown=shown: chart(page)["legend"].keys() == shown, SOON_S)  # type: ignore[misc]
                is_gone = pressed == "false" and name in PANES
                expect(panes).to_have_count(3 if is_gone else 4)

    def test_a_line_is_drawn_while_it_is_on(self, charted: OpenChart) -> None:
        page = charted()
        until(lambda: painted(page, "warn") > 100, SOON_S)
        layer(page, "vwap").click()
        until(lambda: painted(page, "warn") == 0, SOON_S)
        until(lambda: painted(page, "warn", 3) > 100, SOON_S)  # %D of Stoch RSI
        layer(page, "vwap").click()
        until(lambda: painted(page, "warn") > 100, SOON_S)

    def test_as_percentages_lines_stay_where_they_are_among_the_candles(
        self, charted: OpenChart
    ) -> None:
        page = charted()
        layer(page, "bands").click()
        scale = page.get_by_role("group", name="Scale of prices")

        def gap() -> float:
            """From VWAP to the falling candles, in pixels."""
            return painted_at(page, "warn") - painted_at(page, "down")

        until(lambda: painted(page, "warn") > 100, SOON_S)
        linear = gap()
        scale.get_by_role("button", name="%").click()
        until(lambda: painted(page, "line") > 0 and abs(gap() - linear) < 4, SOON_S)

    @pytest.mark.parametrize("name", ["Log", "%", "Linear"])
    def test_the_scale_is_kept(self, charted: OpenChart, name: str) -> None:
        page = charted()
        scale = page.get_by_role("group", name="Scale of prices")
        scale.get_by_role("button", name=name).click()
        reload(page)
        expect(scale.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
        expect(scale.locator("[aria-pressed=true]")).to_have_count(1)

    def test_times_of_the_browser_are_kept(self, charted: OpenChart) -> None:
        page = charted()
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
        focus_chart(page)
        page.keyboard.press("Home")
        assert re.fullmatch(r"\d+ \w{3} \d\d:00 UTC", chart(page)["time"])
        zone = page.get_by_role("group", name="Time zone")
        zone.get_by_role("button", name="Local").click()
        until(lambda: re.search(r":30 GMT\+5:30", chart(page)["time"]), SOON_S)
        assert "GMT+5:30 to " in chart(page)["view"]
        reload(page)
        until(lambda: "GMT+5:30" in chart(page)["time"], SOON_S)

    def test_a_broken_choice_is_none(self, charted: OpenChart) -> None:
        page = charted()
        page.evaluate(
            """() => {
              localStorage.setItem("coinex:chart.indicators", "{broken");
              localStorage.setItem("coinex:timeZone", '"mars"');
              localStorage.setItem("coinex:chart.scale", "7");
            }"""
        )
        reload(page)
        until(lambda: chart(page)["legend"].keys() == LEGENDS, SOON_S)
        assert page.locator(".chart-controls [aria-pressed=true]").count() == 10

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_follows_the_theme(self, charted: OpenChart, scheme: str) -> None:
        page = charted(WIDE, scheme)
        until(lambda: painted(page, "surface") > 10_000, SOON_S)
        page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
        until(lambda: painted(page, "surface") > 10_000, SOON_S)
        assert painted(page, "up") > 100


class TestMarkers:
    def test_signals_and_trades_stand_on_their_candles(
        self, charted: OpenChart, system: System
    ) -> None:
        page = charted()
        known = candles(system)
        answer_trades(page, [trade(known[-30], known[-3])], [])
        text = str(Summary("BTCUSDT", "1h", "squeeze_down", 1234.5))
        system.log("ta-service").signal(SIGNALS_CHANNEL, "{}", text)
        focus_chart(page)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")  # the last closed candle
        until(lambda: "squeeze down at 1,234.50" in chart(page)["events"], SOON_S)
        page.keyboard.press("ArrowLeft")
        sold = f"sold at {known[-3]['close']:,.2f} on ribbon down, +1.25 %"
        until(lambda: chart(page)["events"] == [sold], SOON_S)
        expect(page.locator("#chart-readout")).to_contain_text(sold)
        layer(page, "trades").click()
        until(lambda: chart(page)["events"] == [], SOON_S)

    def test_without_an_answer_about_trades_there_are_none(
        self, open_page_in_outage: Open, system: System
    ) -> None:
        page = open_page_in_outage(f"{system.url}/status")
        page.route("**/api/trades?*", lambda route: route.fulfill(status=503, json={"error": "x"}))
        page.route("**/api/positions", lambda route: route.fulfill(json={"positions": []}))
        page.goto(f"{system.url}/")
        until(lambda: len(column_texts(page, "price")) > 20, SOON_S)
        open_coin(page, "BTCUSDT")
        shows(page, system, "BTCUSDT", "1h")
