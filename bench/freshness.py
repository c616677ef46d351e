"""A reader that measures how long after the close of a candle Redis has it.

`python -m bench.freshness REDIS_URL SYMBOLS` receives each publish of a 1m timeframe, reads all its
series, and prints a line for each candle that has closed since: prefix and delay in seconds. The
first publish of a program is not counted, because its candles may have closed long before.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import redis

STEP_MS = 60_000


def newest_ms(series: bytes | None) -> int:
    """The open time of the newest candle in the JSON of a series; 0 if there is none."""
    found = re.findall(rb'"timestamp": ?([0-9]+)', (series or b"")[-400:])
    return int(found[-1]) if found else 0


def delays_s(before_ms: int, newest: int, now_s: float) -> list[float]:
    """The age of each close since `before_ms`: a candle has closed when the next one opens."""
    closes_ms = range(before_ms + STEP_MS, newest + 1, STEP_MS)
    return [now_s - close_ms / 1000 for close_ms in closes_ms]


def main() -> None:
    client: Any = redis.Redis.from_url(sys.argv[1])
    symbols = sys.argv[2].split(",")
    known: dict[tuple[str, str], int] = {}
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("*:update:1m")
    for message in pubsub.listen():
        prefix = message["channel"].decode().partition(":")[0]
        series = client.mget([f"{prefix}:ohlcv:{symbol}:1m" for symbol in symbols])
        now_s = time.time()
        for symbol, text in zip(symbols, series, strict=True):
            newest, before = newest_ms(text), known.get((prefix, symbol), 0)
            known[prefix, symbol] = max(newest, before)
            for delay_s in delays_s(before, newest, now_s) if before else []:
                print(f"{prefix} {delay_s:.4f}", flush=True)


if __name__ == "__main__":
    main()
