"""What a chart shows: at each candle what the other consumers have at the last one."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from consumers import chart, indicators, scanner, ta_service
from consumers.chart import INDICATORS
from consumers.market_cache import Candle
from tests.candles import HOUR_MS, MIDNIGHT_MS, walk


class Market(NamedTuple):
    """A random series; a calm market often stands still, and trades nothing."""

    seed: int
    count: int
    price: float
    move: float
    calm: bool
    step_ms: int

    def candles(self) -> list[Candle]:
        chance, close, candles = random.Random(self.seed), self.price, []
        for at in range(self.count):
            opened = close
            if not (self.calm and chance.random() < 0.9):
                close = max(round(close * (1 + chance.gauss(0, self.move)), 8), 1e-8)
            reach = 0.0 if self.calm else abs(chance.gauss(0, self.move / 2))
            volume = 0.0 if self.calm and chance.random() < 0.5 else chance.uniform(0, 1000)
            high, low = max(opened, close) * (1 + reach), min(opened, close) / (1 + reach)
            candles.append(
                Candle(MIDNIGHT_MS + at * self.step_ms, opened, high, low, close, volume)
            )
        return candles


MARKETS = st.builds(
    Market,
    seed=st.integers(0, 2**32),
    count=st.integers(1, 130),
    price=st.floats(1e-6, 1e6),
    move=st.sampled_from([1e-5, 0.01, 0.2]),
    calm=st.booleans(),
    step_ms=st.sampled_from([HOUR_MS // 12, HOUR_MS, 4 * HOUR_MS]),
)


def at_last(lines: indicators.Lines) -> dict[str, float] | None:
    """The last number of each line; None if there is none."""
    last = {name: float(line[-1]) for name, line in lines.items()}
    assert len({number == number for number in last.values()}) == 1  # all are known, or none
    return last if all(number == number for number in last.values()) else None


def as_lines(value: Any) -> dict[str, float] | None:
    """The result of an indicator as the numbers that its lines have."""
    match value:
        case indicators.Ribbon(emas):
            return {str(period): ema for period, ema in emas.items()}
        case indicators.Bands(lower, middle, upper):
            return {"lower": lower, "middle": middle, "upper": upper}
        case indicators.Squeeze(on, momentum):
            return {"on": float(on), "momentum": momentum}
        case indicators.StochRsi(k, d):
            return {"k": k, "d": d}
        case float():
            return {"vwap": value}
    return None


class TestLines:
    @given(MARKETS)
    def test_each_number_is_the_indicator_of_the_candles_up_to_it(self, market: Market) -> None:
        candles = market.candles()
        for name, (function, lines_of) in INDICATORS.items():
            lines = lines_of(candles)
            assert {len(line) for line in lines.values()} == {len(candles)}
            for end in range(1, len(candles) + 1):
                values, _ = indicators.compute(candles[:end], it=function)
                shown = at_last({key: line[:end] for key, line in lines.items()})
                assert shown == as_lines(values["it"]), (name, end)

    @given(MARKETS)
    def test_they_are_what_scanner_and_ta_service_say(self, market: Market) -> None:
        candles = market.candles()
        lines = {name: lines_of(candles) for name, (_, lines_of) in INDICATORS.items()}
        scan = scanner.scan(candles)
        bands = scan["bands"]
        assert at_last(lines["vwap"]) == (scan["vwap"] and {"vwap": scan["vwap"]})
        assert at_last(lines["bands"]) == (
            bands and {key: bands[key] for key in ("lower", "middle", "upper")}
        )
        closed = {
            name: {key: line[:-1] for key, line in each.items()} for name, each in lines.items()
        }
        if candles[:-1]:
            ta = ta_service.analyse(candles[:-1])
            squeeze, stoch = ta["squeeze"], ta["stoch_rsi"]
            ribbon = ta["ribbon"] and {str(period): e for period, e in ta["ribbon"]["emas"].items()}
            assert at_last(closed["ribbon"]) == ribbon
            assert at_last(closed["squeeze"]) == squeeze
            assert at_last(closed["stoch_rsi"]) == (stoch and {"k": stoch["k"], "d": stoch["d"]})

    @given(MARKETS)
    def test_stoch_rsi_and_squeeze_are_ta_libs_over_their_windows_alone(
        self, market: Market
    ) -> None:
        candles = market.candles()
        values, _ = indicators.compute(
            candles, squeeze=indicators.squeeze, stoch_rsi=indicators.stoch_rsi
        )
        close, high, low = (
            np.array([getattr(each, name) for each in candles]) for name in ("close", "high", "low")
        )
        if values["stoch_rsi"]:
            strength = talib.RSI(close, 14)[-18:]
            _, k = talib.STOCHF(strength, strength, strength, 14, 3)
            found = values["stoch_rsi"]
            assert (found.k, found.d) == tuple(np.clip((k[-1], talib.SMA(k[-3:], 3)[-1]), 0, 100))
        if values["squeeze"]:
            middles = (talib.MIDPRICE(high, low, 20) + talib.SMA(close, 20)) / 2
            momentum = talib.LINEARREG((close - middles)[-20:], 20)[-1]
            assert values["squeeze"].momentum == momentum

    @pytest.mark.parametrize("name", INDICATORS)
    @pytest.mark.parametrize("count", [0, 1, 2, 14, 15])
    def test_of_few_candles(self, name: str, count: int) -> None:
        for line in INDICATORS[name][1](walk(count)).values():
            known = [number for number in line if number == number]
            assert len(known) == (count if name == "vwap" else 0)


def entry(summary: str, timestamp: str = "2026-11-24T11:00:01.500Z") -> dict[str, str]:
    return {"type": "signal", "summary": summary, "timestamp": timestamp}


def hour(at: int) -> int:
    return MIDNIGHT_MS + at * HOUR_MS


class TestSignals:
    CANDLES = walk(10)  # of 03:00 to 12:00

    def found(self, *entries: dict[str, str]) -> list[dict[str, Any]]:
        return chart.signals_of(entries, self.CANDLES, "AUSDT", "1h")

    def test_stand_on_the_candle_whose_close_gave_them(self) -> None:
        [signal] = self.found(entry("AUSDT 1h ribbon_up at 2.5"))
        assert signal == {
            "signal": "ribbon_up",
            "price": 2.5,
            "timestamp": hour(11) + 1500,
            "candle": hour(10),
        }

    def test_are_of_this_series_alone_and_oldest_first(self) -> None:
        newest_first = (
            entry("AUSDT 1h ribbon_down at 2.0", "2026-11-24T12:10:00.000Z"),
            entry("BUSDT 1h ribbon_up at 2.0"),
            entry("AUSDT 5m ribbon_up at 2.0"),
            entry("AUSDT 1h squeeze_up at 2.0"),
        )
        names = [signal["signal"] for signal in self.found(*newest_first)]
        assert names == ["squeeze_up", "ribbon_down"]

    def test_those_from_before_all_candles_are_left_out(self) -> None:
        text = "AUSDT 1h ribbon_up at 2.0"
        assert not self.found(entry(text, "2026-11-24T03:59:59.999Z"))
        assert self.found(entry(text, "2026-11-24T04:00:00.000Z"))[0]["candle"] == hour(3)

    def test_after_a_gap_they_stand_on_the_candle_before_it(self) -> None:
        candles = [*self.CANDLES[:3], *self.CANDLES[6:]]
        [signal] = chart.signals_of(
            [entry("AUSDT 1h ribbon_up at 2.0", "2026-11-24T08:30:00Z")], candles, "AUSDT", "1h"
        )
        assert signal["candle"] == hour(5)

    @pytest.mark.parametrize(
        "bad",
        [
            entry("ribbon flips up"),
            entry("AUSDT 1h ribbon_up at nan"),
            entry("AUSDT 1h ribbon_up at 2.0", "yesterday"),
            {"type": "signal", "summary": "AUSDT 1h ribbon_up at 2.0"},
            {"type": "signal"},
        ],
    )
    def test_what_does_not_parse_is_left_out(self, bad: dict[str, str]) -> None:
        good = entry("AUSDT 1h ribbon_up at 2.0")
        assert len(self.found(bad, good, bad)) == 1
