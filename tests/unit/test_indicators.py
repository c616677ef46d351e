"""Indicators against TA-Lib on whole series, against definitions worked by hand, and on markets
with few candles, no moves, no volume or huge spikes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import talib

from consumers import indicators
from consumers.indicators import CannotCompute
from consumers.market_cache import Candle
from tests.candles import HOUR_MS, MIDNIGHT_MS, from_closes, walk

ALL = {
    "rsi": indicators.rsi,
    "vwap": indicators.vwap,
    "bollinger": indicators.bollinger,
    "ema_ribbon": indicators.ema_ribbon,
    "squeeze": indicators.squeeze,
    "stoch_rsi": indicators.stoch_rsi,
}
NEEDS = {"rsi": 15, "vwap": 1, "bollinger": 20, "ema_ribbon": 55, "squeeze": 39, "stoch_rsi": 32}


def column(candles: Sequence[Candle], name: str) -> Any:
    return np.array([getattr(candle, name) for candle in candles])


def numbers(value: Any) -> list[float]:
    """All numbers in the result of an indicator."""
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, tuple):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, float) else []


@pytest.fixture(params=[100.0, 52530.04, 0.00000851], ids=["100", "bitcoin", "shiba"])
def candles(request: pytest.FixtureRequest) -> list[Candle]:
    return walk(300, start=request.param, seed=7)


def scaled(candles: Sequence[Candle], factor: float) -> list[Candle]:
    return [Candle(c[0], *(price * factor for price in c[1:5]), c[5]) for c in candles]


class TestAgainstTaLib:
    def test_rsi(self, candles: list[Candle]) -> None:
        expected = talib.RSI(column(candles, "close"), 14)[-1]
        assert indicators.rsi(candles) == pytest.approx(expected, rel=1e-9)

    def test_bollinger(self, candles: list[Candle]) -> None:
        close = column(candles, "close")
        upper, middle, lower = (band[-1] for band in talib.BBANDS(close, 20, 2, 2))
        bands = indicators.bollinger(candles)
        assert bands[:3] == pytest.approx((lower, middle, upper), rel=1e-9)
        assert bands.place == pytest.approx((close[-1] - lower) / (upper - lower), rel=1e-9)

    def test_ema_ribbon(self, candles: list[Candle]) -> None:
        close = column(candles, "close")
        expected = {period: talib.EMA(close, period)[-1] for period in (8, 13, 21, 34, 55)}
        assert indicators.ema_ribbon(candles).emas == pytest.approx(expected, rel=1e-9)

    def test_stoch_rsi_k_is_ta_libs_d(self, candles: list[Candle]) -> None:
        """TA-Lib's STOCHRSI does not smooth %K; its %D is what TradingView calls %K."""
        _, k = talib.STOCHRSI(column(candles, "close"), 14, 14, 3)
        found = indicators.stoch_rsi(candles)
        assert found.k == pytest.approx(k[-1], abs=1e-6)
        assert found.d == pytest.approx(k[-3:].mean(), abs=1e-6)

    def test_of_a_still_price_ta_lib_makes_numbers(self) -> None:
        """TA-Lib gives numbers where there is no answer, so the reasons are our own."""
        still = np.full(300, 100.0)
        assert talib.RSI(still, 14)[-1] == 0
        assert np.isfinite(talib.STOCHRSI(still, 14, 14, 3)[1][-1])


class TestByHand:
    def test_vwap_of_the_utc_day(self) -> None:
        before = Candle(MIDNIGHT_MS - HOUR_MS, 1, 1, 1, 1, 1e9)
        first = Candle(MIDNIGHT_MS, 10, 14, 10, 12, 2)  # typical price 12
        second = Candle(MIDNIGHT_MS + HOUR_MS, 12, 20, 13, 18, 6)  # 17
        assert indicators.vwap([before, first]) == 12
        assert indicators.vwap([before, first, second]) == pytest.approx((12 * 2 + 17 * 6) / 8)

    def test_squeeze_as_published(self, candles: list[Candle]) -> None:
        """LazyBear's definition, written out with plain loops."""
        for end in range(60, 300, 20):
            part = candles[:end]
            close = [candle.close for candle in part]
            ranges = [
                max(b.high - b.low, abs(b.high - a.close), abs(b.low - a.close))
                for a, b in pairwise(part)
            ]
            mean = sum(close[-20:]) / 20
            deviation = math.sqrt(sum((c - mean) ** 2 for c in close[-20:]) / 20)
            on = 2 * deviation < 1.5 * sum(ranges[-20:]) / 20
            offsets = []
            for last in range(end - 20, end):
                window = part[last - 19 : last + 1]
                midpoint = (max(c.high for c in window) + min(c.low for c in window)) / 2
                average = sum(c.close for c in window) / 20
                offsets.append(close[last] - (midpoint + average) / 2)
            slope, intercept = np.polyfit(range(20), offsets, 1)
            found = indicators.squeeze(part)
            assert found.on == on
            assert found.momentum == pytest.approx(intercept + 19 * slope, rel=1e-6)

    def test_both_states_of_the_squeeze_occur(self) -> None:
        calm = from_closes([100 + 0.1 * (n % 2) for n in range(60)])
        wide = [Candle(c.timestamp, c.open, c.high + 1, c.low - 1, c.close, 1.0) for c in calm]
        assert indicators.squeeze(wide).on
        trend = from_closes([100 * 1.01**n for n in range(60)])
        assert not indicators.squeeze(trend).on and indicators.squeeze(trend).momentum > 0

    def test_stoch_rsi_by_hand(self, candles: list[Candle]) -> None:
        strength = [indicators.rsi(candles[:end]) for end in range(283, 301)]
        raw = []
        for end in range(14, 19):
            window = strength[end - 14 : end]
            raw.append(100 * (window[-1] - min(window)) / (max(window) - min(window)))
        k = [sum(raw[end - 3 : end]) / 3 for end in range(3, 6)]
        found = indicators.stoch_rsi(candles)
        assert (found.k, found.d) == pytest.approx((k[-1], sum(k) / 3), abs=1e-6)

    @pytest.mark.parametrize(("step", "state"), [(1.01, "up"), (0.99, "down")])
    def test_the_ribbon_of_a_trend(self, step: float, state: str) -> None:
        trend = from_closes([100 * step**n for n in range(100)])
        assert indicators.ema_ribbon(trend).state == state

    def test_the_ribbon_of_a_turn_is_mixed(self) -> None:
        closes = [100 * 1.01**n for n in range(80)] + [220 - 4 * n for n in range(8)]
        assert indicators.ema_ribbon(from_closes(closes)).state == "mixed"

    @pytest.mark.parametrize(("last", "zone"), [(0.93, "low"), (1.07, "high")])
    def test_the_zones_of_stoch_rsi(self, candles: list[Candle], last: float, zone: str) -> None:
        closes = [candle.close for candle in candles]
        closes += [closes[-1] * last ** (n + 1) for n in range(4)]
        assert indicators.stoch_rsi(from_closes(closes)).zone == zone


class TestOddMarkets:
    @pytest.mark.parametrize("name", ALL)
    def test_too_few_candles(self, name: str, candles: list[Candle]) -> None:
        """Ten are too few for all but VWAP; the required number is enough."""
        need = NEEDS[name]
        assert indicators.compute(candles[-need:], x=ALL[name])[1] == {}
        if need > 1:
            _, reasons = indicators.compute(candles[-need + 1 :], x=ALL[name])
            assert reasons == {"x": f"needs {need} candles, has {need - 1}"}
            _, reasons = indicators.compute(candles[-10:], x=ALL[name])
            assert reasons == {"x": f"needs {need} candles, has 10"}

    def test_no_candles(self) -> None:
        values, reasons = indicators.compute([], **ALL)
        assert set(values.values()) == {None} and reasons.keys() == ALL.keys()

    def test_all_prices_equal(self) -> None:
        values, reasons = indicators.compute(from_closes([100.0] * 300), **ALL)
        assert values["vwap"] == 100 and values["ema_ribbon"].state == "mixed"
        assert reasons == {
            "rsi": "the price has not moved",
            "bollinger": "the price has not moved",
            "squeeze": "the price has not moved",
            "stoch_rsi": "RSI has not moved in 14 candles",
        }

    @pytest.mark.parametrize("still", [40, 100, 1000])
    def test_a_market_that_went_still(self, still: int) -> None:
        """The RSI of moves long past is a number without meaning, and in the end rounding error."""
        closes = [candle.close for candle in walk(100)]
        candles = from_closes(closes + closes[-1:] * still)
        _, reasons = indicators.compute(candles, **ALL)
        assert reasons.keys() == {"rsi", "bollinger", "squeeze", "stoch_rsi"}

    def test_no_volume(self, candles: list[Candle]) -> None:
        silent = [candle._replace(volume=0.0) for candle in candles]
        values, reasons = indicators.compute(silent, **ALL)
        assert reasons == {"vwap": "nothing was traded since 00:00 UTC"}
        assert values["rsi"] == indicators.rsi(candles)

    def test_no_volume_since_midnight(self) -> None:
        candles = [
            candle._replace(volume=0.0) if candle.timestamp >= MIDNIGHT_MS else candle
            for candle in walk(50)
        ]
        with pytest.raises(CannotCompute, match="since 00:00 UTC"):
            indicators.vwap(candles)

    @pytest.mark.parametrize("at", [-1, -10, -30, -200])
    @pytest.mark.parametrize("factor", [1e6, 1e-6])
    def test_one_huge_spike(self, candles: list[Candle], at: int, factor: float) -> None:
        mad = list(candles)
        mad[at] = scaled([mad[at]], factor)[0]
        values, _ = indicators.compute(mad, **ALL)
        found = numbers(tuple(values.values()))
        assert found and all(math.isfinite(number) for number in found)
        assert values["rsi"] is None or 0 <= values["rsi"] <= 100
        assert values["stoch_rsi"] is None or 0 <= values["stoch_rsi"].k <= 100

    @pytest.mark.parametrize("factor", [1e6, 1e-6])
    def test_a_spike_long_ago_is_forgotten(self, candles: list[Candle], factor: float) -> None:
        """Indicators of a window ignore a spike before it."""
        mad = list(candles)
        mad[-100] = scaled([mad[-100]], factor)[0]
        for function in (indicators.bollinger, indicators.squeeze, indicators.vwap):
            assert numbers((function(mad),)) == pytest.approx(numbers((function(candles),)))

    @pytest.mark.parametrize("function", ALL.values(), ids=ALL)
    def test_a_close_of_nothing(self, function: Callable[..., Any]) -> None:
        candles = walk(100)
        candles[-1] = candles[-1]._replace(close=0.0)
        values, reasons = indicators.compute(candles, x=function)
        assert reasons or all(math.isfinite(number) for number in numbers(values))

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    @pytest.mark.parametrize("factor", [1e305, 1e-300, 1e-320])
    def test_numbers_at_the_end_of_what_there_is(
        self, candles: list[Candle], factor: float
    ) -> None:
        values, _ = indicators.compute(scaled(candles, factor), **ALL)
        assert all(math.isfinite(number) for number in numbers(tuple(values.values())))

    def test_a_tick_up_and_down_for_ever(self) -> None:
        """The quiet end of a real market: moves of one unit in the last decimal."""
        candles = from_closes([100_000 + 0.01 * (n % 2) for n in range(300)])
        values, reasons = indicators.compute(candles, **ALL)
        assert all(math.isfinite(number) for number in numbers(values))
        assert set(reasons) <= {"stoch_rsi"}
