"""Technical indicators as pure functions over candles: no Redis, no clock, no state.

Each takes candles, oldest first, and returns the indicator at the last one; CannotCompute says why
there is none. `compute` gathers several and makes sure that none is NaN or infinite. The
mathematics is TA-Lib's where it has the function, else the definition that the docstring names. One
thing differs: for a price that has not moved, TA-Lib returns meaningless numbers, such as an RSI of
0; here that is CannotCompute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import talib
from numpy.typing import NDArray

from consumers.market_cache import Candle

DAY_MS = 86_400_000
RIBBON = (8, 13, 21, 34, 55)  # periods of the EMA ribbon
WINDOW = 20  # candles of Bollinger Bands, Keltner Channels and the squeeze's momentum
STILL = 1e-6  # RSI points: a smaller range is rounding, not movement


class CannotCompute(ValueError):
    """The message says why."""


class Bands(NamedTuple):
    """`place` is the position of the last close: 0 on the lower band, 1 on the upper one."""

    lower: float
    middle: float
    upper: float
    place: float


class Ribbon(NamedTuple):
    """`emas` by period; `state` is "up" if each is above the next slower one, "down" if each is
    below it, else "mixed"."""

    emas: dict[int, float]
    state: str


class Squeeze(NamedTuple):
    """`on` while the Bollinger Bands lie inside the Keltner Channels; `momentum` in price."""

    on: bool
    momentum: float


class StochRsi(NamedTuple):
    """%K and %D, 0 to 100; `zone` of %K: "low" below 20, "high" above 80, else "middle"."""

    k: float
    d: float
    zone: str


def compute(
    candles: Sequence[Candle], **functions: Callable[[Sequence[Candle]], Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The result of each of `functions`, None where it cannot be computed; and the reasons."""
    values: dict[str, Any] = dict.fromkeys(functions)
    reasons: dict[str, str] = {}
    for name, function in functions.items():
        try:
            value = function(candles)
            _check_finite(value)
            values[name] = value
        except CannotCompute as error:
            reasons[name] = str(error)
        except ArithmeticError:
            reasons[name] = "the numbers are out of range"
    return values, reasons


def _check_finite(value: Any) -> None:
    """Raises ArithmeticError for NaN or an infinity anywhere in the result of an indicator."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for each in value:
            _check_finite(each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ArithmeticError(value)


def rsi(candles: Sequence[Candle], period: int = 14) -> float:
    """Wilder's relative strength index, 0 to 100 (TA-Lib RSI)."""
    _need(candles, period + 1)
    close = _column(candles, "close")
    _need_movement(close[-period - 1 :])
    return float(talib.RSI(close, period)[-1])


def vwap(candles: Sequence[Candle]) -> float:
    """Volume-weighted average of the typical price (high + low + close) / 3 since 00:00 UTC of
    the day of the last candle."""
    _need(candles, 1)
    midnight_ms = candles[-1].timestamp // DAY_MS * DAY_MS
    session = [candle for candle in candles if candle.timestamp >= midnight_ms]
    volume = sum(candle.volume for candle in session)
    if not volume > 0:
        raise CannotCompute("nothing was traded since 00:00 UTC")
    paid = sum((each.high + each.low + each.close) / 3 * each.volume for each in session)
    if not paid > 0:
        raise CannotCompute("nothing was paid since 00:00 UTC")
    return paid / volume


def bollinger(candles: Sequence[Candle], deviations: float = 2.0) -> Bands:
    """Bollinger Bands over 20 closes, from their population standard deviation (TA-Lib BBANDS)."""
    _need(candles, WINDOW)
    close = _column(candles, "close")
    _need_movement(close[-WINDOW:])
    bands = talib.BBANDS(close, WINDOW, deviations, deviations)
    upper, middle, lower = (float(band[-1]) for band in bands)
    return Bands(lower, middle, upper, (candles[-1].close - lower) / (upper - lower))


def ema_ribbon(candles: Sequence[Candle]) -> Ribbon:
    """Exponential moving averages of the close, each seeded with a simple one (TA-Lib EMA)."""
    _need(candles, max(RIBBON))
    close = _column(candles, "close")
    emas = {period: float(talib.EMA(close, period)[-1]) for period in RIBBON}
    state = "mixed"
    if all(fast > slow for fast, slow in pairwise(emas.values())):
        state = "up"
    elif all(fast < slow for fast, slow in pairwise(emas.values())):
        state = "down"
    return Ribbon(emas, state)


def squeeze(candles: Sequence[Candle]) -> Squeeze:
    """John Carter's TTM Squeeze as LazyBear published it for TradingView ("Squeeze Momentum").

    Bollinger Bands 20/2 inside Keltner Channels 20/1.5, these around the simple average of the
    close at 1.5 times the simple average of the true range. Momentum is the end point of a linear
    regression over 20 candles of the close minus the mean of two values: the middle between the
    highest high and the lowest low of 20 candles, and their average close.
    """
    _need(candles, 2 * WINDOW - 1)
    high, low, close = (_column(candles, name) for name in ("high", "low", "close"))
    _need_movement(np.concatenate([high[-WINDOW:], low[-WINDOW:]]))
    bands = 2 * talib.STDDEV(close, WINDOW)[-1]
    channels = 1.5 * talib.SMA(talib.TRANGE(high, low, close), WINDOW)[-1]
    middles = (talib.MIDPRICE(high, low, WINDOW) + talib.SMA(close, WINDOW)) / 2
    momentum = talib.LINEARREG((close - middles)[-WINDOW:], WINDOW)[-1]
    return Squeeze(bool(bands < channels), float(momentum))


def stoch_rsi(candles: Sequence[Candle]) -> StochRsi:
    """Stochastic RSI 14, 14, 3, 3 as TradingView defines it: the position of RSI(14) in its range
    of 14 candles, in percent; %K is its simple average over 3, %D that of %K over 3."""
    _need(candles, 32)
    strength = talib.RSI(_column(candles, "close"), 14)[-18:]
    ranges = (talib.MAX(strength, 14) - talib.MIN(strength, 14))[-5:]
    if ranges.min() < STILL:
        raise CannotCompute("RSI has not moved in 14 candles")
    _, k = talib.STOCHF(strength, strength, strength, 14, 3)
    last_k = min(max(float(k[-1]), 0.0), 100.0)  # rounding may exceed the range
    zone = "low" if last_k < 20 else "high" if last_k > 80 else "middle"
    return StochRsi(last_k, min(max(float(talib.SMA(k[-3:], 3)[-1]), 0.0), 100.0), zone)


def _column(candles: Sequence[Candle], name: str) -> NDArray[np.float64]:
    return np.array([getattr(candle, name) for candle in candles], dtype=np.float64)


def _need(candles: Sequence[Candle], count: int) -> None:
    if len(candles) < count:
        raise CannotCompute(f"needs {count} candles, has {len(candles)}")


def _need_movement(prices: NDArray[np.float64]) -> None:
    if np.ptp(prices) == 0:
        raise CannotCompute("the price has not moved")
