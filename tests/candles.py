"""Candles for tests: as rows of the exchange, and as programs read them from Redis."""

from __future__ import annotations

import json
import random
import time
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from binance_answers import Candles
from candles import Series
from consumers.market_cache import Candle, ohlcv_key, price_key, timeframe_ms

HOUR_MS = 3_600_000
MIDNIGHT_MS = 1_795_478_400_000  # 2026-11-24T00:00:00Z


# A moment that is the open time of a 5m candle, and the length of one.
NOW_MS, STEP_MS = 1_800_000_000_000, 300_000


def row(open_ms: Any = NOW_MS, **changes: Any) -> list[Any]:
    """A klines row of the exchange."""
    prices = {"open": "2.0", "high": "4.0", "low": "1.0", "close": "3.0", "volume": "5.5"} | changes
    return [open_ms, *prices.values(), NOW_MS + STEP_MS - 1, "11.0", 7, "1.0", "2.0", "0"]


def ticker(symbol: str = "BTCUSDT", **changes: Any) -> dict[str, Any]:
    """A 24 h ticker of the exchange."""
    numbers = {"lastPrice": "2.5", "priceChangePercent": "-1.25", "volume": "9.0"}
    return {"symbol": symbol} | numbers | {"closeTime": NOW_MS} | changes


def written(rows: Sequence[Sequence[Any]]) -> Candles:
    """Rows of the exchange as the client returns them."""
    text = json.dumps(rows, separators=(",", ":")).encode()
    return Candles(array("q", [row[0] for row in rows]), text[1:-1])


def rows_of(candles: Candles) -> list[list[Any]]:
    rows: list[list[Any]] = json.loads(b"[%b]" % candles.rows)
    assert [row[0] for row in rows] == list(candles.times)
    return rows


def as_held(rows: Sequence[Sequence[Any]]) -> Series:
    """The rows as the service holds them right after fetching them."""
    return Series(written(rows), 0, 0, 0)


def walk(count: int, *, start: float = 100.0, seed: int = 1, end_ms: int = 0) -> list[Candle]:
    """`count` hourly candles of a random walk; the last one opens at `end_ms`, else at 12:00."""
    chance = random.Random(seed)
    end_ms = end_ms or MIDNIGHT_MS + 12 * HOUR_MS
    candles, price = [], start
    for back in range(count - 1, -1, -1):
        close = price * (1 + chance.gauss(0, 0.01))
        high = max(price, close) * (1 + abs(chance.gauss(0, 0.003)))
        low = min(price, close) * (1 - abs(chance.gauss(0, 0.003)))
        volume = chance.uniform(1, 1000)
        candles.append(Candle(end_ms - back * HOUR_MS, price, high, low, close, volume))
        price = close
    return candles


def from_closes(closes: Iterable[float], volume: float = 1.0) -> list[Candle]:
    """Hourly candles without wicks, each opening at the close of the one before."""
    closes = list(closes)
    opens = [closes[0], *closes]
    return [
        Candle(MIDNIGHT_MS + n * HOUR_MS, a, max(a, b), min(a, b), b, volume)
        for n, (a, b) in enumerate(zip(opens, closes, strict=False))
    ]


def put_candles(
    client: Any, symbol: str, timeframe: str, candles: list[Candle], ttl_s: float = 60, age: int = 0
) -> None:
    """Write candles as the service does, but with open times that end now, or `age` candles ago."""
    step_ms = timeframe_ms(timeframe)
    newest = (int(time.time() * 1000) // step_ms - age) * step_ms
    rows = [
        candle._asdict() | {"timestamp": newest - back * step_ms}
        for back, candle in zip(range(len(candles) - 1, -1, -1), candles, strict=True)
    ]
    client.set(ohlcv_key(symbol, timeframe), json.dumps(rows), px=int(ttl_s * 1000))


def put_price(client: Any, symbol: str, price: float, ttl_s: float = 60) -> None:
    ticker = {"price": price, "change24h": 1.5, "volume": 10.0, "timestamp": 1795489650577}
    client.set(price_key(symbol), json.dumps(ticker), px=int(ttl_s * 1000))


def update(symbols: list[str], failed: Iterable[str] = (), timestamp: int = 1) -> str:
    """The payload of a publish by the service."""
    body = {"symbols": symbols, "failed": list(failed), "timestamp": timestamp, "duration_ms": 5}
    return json.dumps(body)


RISING = from_closes([100 * 1.01**n for n in range(100)])
FALLING = from_closes([100 * 0.99**n for n in range(100)])
