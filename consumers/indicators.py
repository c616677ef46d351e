"""Technical indicators as pure functions over candles: no Redis, no clock, no state.

Each takes candles, oldest first, and returns the indicator at the last one; CannotCompute says why
there is none. `compute` gathers several and makes sure that none is NaN or infinite. The
mathematics is TA-Lib's where it has the function, else the definition that the docstring names. One
thing differs: for a price that has not moved, TA-Lib returns meaningless numbers, such as an RSI of
0; here that is CannotCompute.

Each function ending in `_lines` returns the indicator at every candle: what the function beside it
returns for the candles up to that one, digit for digit, and NaN where that cannot be computed.
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

STOOD_STILL = "the price has not moved"

Line = NDArray[np.float64]  # one number per candle, NaN where there is none
Lines = dict[str, Line]
Flags = NDArray[np.bool_]  # one per candle


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
    paid = sum(_paid(candle) for candle in session)
    if not paid > 0:
        raise CannotCompute("nothing was paid since 00:00 UTC")
    return paid / volume


def vwap_lines(candles: Sequence[Candle]) -> Lines:
    """`vwap` at each candle, as the line "vwap"."""
    volumes, payments = [each.volume for each in candles], [_paid(each) for each in candles]
    line = np.full(len(candles), np.nan)
    first = 0  # candle of the day
    for at, candle in enumerate(candles):
        if candle.timestamp // DAY_MS != candles[first].timestamp // DAY_MS:
            first = at
        # Each sum from the start, as `vwap` does it: Python 3.12 rounds a running one differently.
        volume, paid = sum(volumes[first : at + 1]), sum(payments[first : at + 1])
        if volume > 0 and paid > 0:
            line[at] = paid / volume
    return _known(candles, 1, {"vwap": line})


def _paid(candle: Candle) -> float:
    return (candle.high + candle.low + candle.close) / 3 * candle.volume


def bollinger(candles: Sequence[Candle], deviations: float = 2.0) -> Bands:
    """Bollinger Bands over 20 closes, from their population standard deviation (TA-Lib BBANDS)."""
    _need(candles, WINDOW)
    close = _column(candles, "close")
    _need_movement(close[-WINDOW:])
    bands = talib.BBANDS(close, WINDOW, deviations, deviations)
    upper, middle, lower = (float(band[-1]) for band in bands)
    return Bands(lower, middle, upper, (candles[-1].close - lower) / (upper - lower))


def bollinger_lines(candles: Sequence[Candle], deviations: float = 2.0) -> Lines:
    """`bollinger` at each candle, as the lines "lower", "middle" and "upper"."""
    close = _column(candles, "close")
    upper, middle, lower = talib.BBANDS(close, WINDOW, deviations, deviations)
    moved = (talib.MAX(close, WINDOW) != talib.MIN(close, WINDOW)) & (upper != lower)
    return _known(candles, WINDOW, {"lower": lower, "middle": middle, "upper": upper}, moved)


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


def ema_ribbon_lines(candles: Sequence[Candle]) -> Lines:
    """`ema_ribbon` at each candle, one line per period: "8" to "55"."""
    close = _column(candles, "close")
    return _known(
        candles, max(RIBBON), {str(period): talib.EMA(close, period) for period in RIBBON}
    )


def squeeze(candles: Sequence[Candle]) -> Squeeze:
    """John Carter's TTM Squeeze as LazyBear published it for TradingView ("Squeeze Momentum").

    Bollinger Bands 20/2 inside Keltner Channels 20/1.5, these around the simple average of the
    close at 1.5 times the simple average of the true range. Momentum is the end point of a linear
    regression over 20 candles of the close minus the mean of two values: the middle between the
    highest high and the lowest low of 20 candles, and their average close.
    """
    _need(candles, 2 * WINDOW - 1)
    on, offsets, moved = _squeeze(candles)
    if not moved[-1]:
        raise CannotCompute(STOOD_STILL)
    return Squeeze(bool(on[-1]), _momentum(offsets[-WINDOW:]))


def squeeze_lines(candles: Sequence[Candle]) -> Lines:
    """`squeeze` at each candle, as the lines "on", 1 or 0, and "momentum"."""
    on, offsets, moved = _squeeze(candles)
    momentum = np.full(len(candles), np.nan)
    for end in range(2 * WINDOW - 1, len(candles) + 1):
        momentum[end - 1] = _momentum(offsets[end - WINDOW : end])
    return _known(candles, 2 * WINDOW - 1, {"on": on.astype(float), "momentum": momentum}, moved)


def _squeeze(candles: Sequence[Candle]) -> tuple[Flags, Line, Flags]:
    """At each candle: whether the squeeze is on, the close minus the mean of the two values, and
    whether the price has moved."""
    high, low, close = (_column(candles, name) for name in ("high", "low", "close"))
    bands = 2 * talib.STDDEV(close, WINDOW)
    channels = 1.5 * talib.SMA(talib.TRANGE(high, low, close), WINDOW)
    middles = (talib.MIDPRICE(high, low, WINDOW) + talib.SMA(close, WINDOW)) / 2
    moved = talib.MAX(high, WINDOW) != talib.MIN(low, WINDOW)
    return bands < channels, close - middles, moved


def _momentum(offsets: Line) -> float:
    """Of exactly WINDOW offsets: along a longer line TA-Lib keeps running sums, whose rounding
    depends on where the line starts."""
    return float(talib.LINEARREG(offsets, WINDOW)[-1])


def stoch_rsi(candles: Sequence[Candle]) -> StochRsi:
    """Stochastic RSI 14, 14, 3, 3 as TradingView defines it: the position of RSI(14) in its range
    of 14 candles, in percent; %K is its simple average over 3, %D that of %K over 3."""
    _need(candles, 32)
    k, d, moved = (line[-1] for line in _stoch_rsi(candles))
    if not moved:
        raise CannotCompute("RSI has not moved in 14 candles")
    zone = "low" if k < 20 else "high" if k > 80 else "middle"
    return StochRsi(float(k), float(d), zone)


def stoch_rsi_lines(candles: Sequence[Candle]) -> Lines:
    """`stoch_rsi` at each candle, as the lines "k" and "d"."""
    k, d, moved = _stoch_rsi(candles)
    return _known(candles, 32, {"k": k, "d": d}, moved)


def _stoch_rsi(candles: Sequence[Candle]) -> tuple[Line, Line, Flags]:
    """%K, %D, and whether RSI has moved, at each candle."""
    strength = talib.RSI(_column(candles, "close"), 14)
    ranges = talib.MAX(strength, 14) - talib.MIN(strength, 14)
    still = talib.MIN(ranges, 5) < STILL
    place, _ = talib.STOCHF(strength, strength, strength, 14, 1)
    # Three averages over 3 at each candle, summed as TA-Lib does over the last five alone: a sum
    # that runs along the whole series would carry the rounding of all candles before.
    a, b, c, d, e = (_back(place, by) for by in (4, 3, 2, 1, 0))
    first = a + b + c
    second = first - a + d
    third = second - b + e
    smooth = (first / 3 + second / 3 + third / 3) / 3
    return np.clip(third / 3, 0.0, 100.0), np.clip(smooth, 0.0, 100.0), ~still


def _column(candles: Sequence[Candle], name: str) -> Line:
    return np.array([getattr(candle, name) for candle in candles], dtype=np.float64)


def _back(line: Line, by: int) -> Line:
    """The line, each value moved `by` candles later."""
    return np.concatenate([np.full(by, np.nan), line])[: len(line)]


def _known(candles: Sequence[Candle], need: int, lines: Lines, moved: Flags | None = None) -> Lines:
    """The lines where `need` candles are reached, the price has moved, and all are finite."""
    known = np.logical_and.reduce([np.isfinite(line) for line in lines.values()])
    known[: need - 1] = False
    if moved is not None:
        known &= moved
    return {name: np.where(known, line, np.nan) for name, line in lines.items()}


def _need(candles: Sequence[Candle], count: int) -> None:
    if len(candles) < count:
        raise CannotCompute(f"needs {count} candles, has {len(candles)}")


def _need_movement(prices: Line) -> None:
    if np.ptp(prices) == 0:
        raise CannotCompute(STOOD_STILL)
