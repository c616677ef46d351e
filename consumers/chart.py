"""What a chart shows of a symbol and timeframe: candles, indicators at each candle, and signals.

The indicators are those of indicators.py, so the last closed candle has the values that the TA
service writes, and the last candle those of the scanner. Knows nothing of HTTP or pages.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from consumers import indicators
from consumers.indicators import Lines
from consumers.market_cache import Candle, MarketCache, timeframe_ms
from consumers.ta_service import logged_signals, newest_signals
from redis_log import Entry

# By name: the indicator at the last candle, which says why there is none, and at every candle.
INDICATORS: dict[
    str, tuple[Callable[[Sequence[Candle]], Any], Callable[[Sequence[Candle]], Lines]]
] = {
    "ribbon": (indicators.ema_ribbon, indicators.ema_ribbon_lines),
    "vwap": (indicators.vwap, indicators.vwap_lines),
    "bands": (indicators.bollinger, indicators.bollinger_lines),
    "squeeze": (indicators.squeeze, indicators.squeeze_lines),
    "stoch_rsi": (indicators.stoch_rsi, indicators.stoch_rsi_lines),
}


def chart(cache: MarketCache, symbol: str, timeframe: str, log_key: str) -> dict[str, Any]:
    """Candles, `lines` by indicator (numbers at each candle, None where there is none), `reasons`
    for indicators that the last candle lacks, and signals, as JSON holds them.

    Raises NoData if no candles are fresh, or redis.RedisError.
    """
    candles = cache.candles(symbol, timeframe)
    _, reasons = indicators.compute(
        candles, **{name: at_last for name, (at_last, _) in INDICATORS.items()}
    )
    entries = newest_signals(cache.client, log_key)
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "expires_at": int(candles.expires_at * 1000),
        "candles": [candle._asdict() for candle in candles],
        "lines": {name: _as_json(lines(candles)) for name, (_, lines) in INDICATORS.items()},
        "reasons": reasons,
        "signals": signals_of(entries, candles, symbol, timeframe),
    }


def _as_json(lines: Lines) -> dict[str, list[float | None]]:
    return {
        name: [None if math.isnan(number) else number for number in line.tolist()]
        for name, line in lines.items()
    }


def signals_of(
    entries: Sequence[Entry], candles: Sequence[Candle], symbol: str, timeframe: str
) -> list[dict[str, Any]]:
    """The signals of a series, oldest first: name, price, `timestamp` (ms UTC), and the open time
    of the `candle` whose close gave it, the last one that had closed by then.

    Entries that are not signals of the TA service, and signals from before all candles, are left
    out.
    """
    opened, length_ms = [candle.timestamp for candle in candles], timeframe_ms(timeframe)
    found = []
    for summary, said_ms in logged_signals(reversed(entries)):
        at = bisect_right(opened, said_ms - length_ms) - 1
        if (summary.symbol, summary.timeframe) == (symbol, timeframe) and at >= 0:
            found.append(
                {
                    "signal": summary.signal,
                    "price": summary.price,
                    "timestamp": said_ms,
                    "candle": opened[at],
                }
            )
    return found
