"""Other ways to do the same job, each a program: `python -m bench.contenders.NAME`.

The job is in the environment, as for the service: EXCHANGE_URL, REDIS_URL, SYMBOLS, TIMEFRAMES
(name:refresh:TTL), CANDLE_LIMIT, and PREFIX of keys and channels; OPTION is the contender's own.
Every `refresh` seconds, from its start on, a contender reads the whole series of each symbol,
writes them in one pipeline, as the same JSON that the service writes, and publishes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

FIELDS = ("timestamp", "open", "high", "low", "close", "volume")


class Timeframe(NamedTuple):
    """Refresh interval and TTL in seconds."""

    name: str
    every_s: int
    ttl_s: int


@dataclass(frozen=True)
class Job:
    exchange_url: str
    redis_url: str
    symbols: tuple[str, ...]
    timeframes: tuple[Timeframe, ...]
    limit: int
    prefix: str
    option: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Job:
        parts = [part.split(":") for part in environ["TIMEFRAMES"].split(",")]
        return cls(
            environ["EXCHANGE_URL"],
            environ["REDIS_URL"],
            tuple(environ["SYMBOLS"].split(",")),
            tuple(Timeframe(name, int(every), int(ttl)) for name, every, ttl in parts),
            int(environ.get("CANDLE_LIMIT", "500")),
            environ.get("PREFIX", "market"),
            environ.get("OPTION", ""),
        )

    def fill(self, pipeline: Any, timeframe: Timeframe, series: Sequence[Sequence[Any]]) -> None:
        """Put the writes of a refresh and its publish into `pipeline`; `series` by symbol."""
        for symbol, rows in zip(self.symbols, series, strict=True):
            key = f"{self.prefix}:ohlcv:{symbol}:{timeframe.name}"
            pipeline.set(key, candles_json(rows), ex=timeframe.ttl_s)
        update = {"timeframe": timeframe.name, "symbols": self.symbols}
        pipeline.publish(f"{self.prefix}:update:{timeframe.name}", json.dumps(update))


def candles_json(rows: Sequence[Sequence[Any]]) -> str:
    """The candles as the service writes them; a row is at least [ms, o, h, l, c, volume]."""
    candles = [dict(zip(FIELDS, [row[0], *map(float, row[1:6])], strict=True)) for row in rows]
    return json.dumps(candles, separators=(",", ":"))


def say(error: Exception) -> None:
    print(f"refresh failed: {error!r:.300}", file=sys.stderr, flush=True)


def keep(job: Job, refresh: Callable[[Timeframe], None]) -> None:
    """Refresh each timeframe at its interval, on one thread, forever."""
    due = dict.fromkeys(job.timeframes, time.monotonic())
    while True:
        timeframe = min(due, key=lambda each: due[each])
        time.sleep(max(0.0, due[timeframe] - time.monotonic()))
        due[timeframe] += timeframe.every_s
        try:
            refresh(timeframe)
        except Exception as error:
            say(error)


async def keep_async(job: Job, refresh: Callable[[Timeframe], Awaitable[None]]) -> None:
    """Refresh each timeframe at its interval, concurrently, forever."""

    async def loop(timeframe: Timeframe) -> None:
        due = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += timeframe.every_s
            try:
                await refresh(timeframe)
            except Exception as error:
                say(error)

    await asyncio.gather(*map(loop, job.timeframes))


def point_at(exchange: Any, url: str) -> None:
    """Point a ccxt exchange at the simulated one."""
    api = exchange.urls["api"]
    exchange.urls["api"] = {name: f"{url}{urlsplit(old).path}" for name, old in api.items()}


def unified(symbol: str) -> str:
    """ccxt's name of a symbol: BTC/USDT."""
    return f"{symbol.removesuffix('USDT')}/USDT"
