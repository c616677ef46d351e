"""Candles and prices on their way from the exchange into Redis, and what a refresh tells of them.

Pure: knows nothing of threads, Redis clients, HTTP or settings.

Three clocks, each by its name everywhere in the service:
- the wall clock, `time.time()`: when refreshes are due, and when keys expire in Redis;
- the monotonic clock, `time.monotonic()`: deadlines (`give_up_at`) and pauses;
- the boot clock, `boot_s()`: the age of data. Unlike the monotonic one it also counts the time for
  which the machine was suspended, and unlike the wall clock nobody sets it.
"""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from binance_answers import Candles, Ticker
from redis_log import iso_ms

PRICE = "price"  # as the `what` of a Feed
PRICE_TTL_S = 60


def boot_s() -> float:
    """Seconds of the boot clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Feed(NamedTuple):
    """One thing that is read and kept: the candles of a symbol in a timeframe, or its price."""

    symbol: str
    what: str  # the name of a timeframe, or PRICE

    @property
    def key(self) -> str:
        """Where Redis has it."""
        if self.what == PRICE:
            return f"market:price:{self.symbol}"
        return f"market:ohlcv:{self.symbol}:{self.what}"


def update_channel(timeframe: str) -> str:
    """The channel of a timeframe's refreshes, or of "all"."""
    return f"market:update:{timeframe}"


# One regular expression turns the exchange's rows into the contract's objects: 500 candles in
# 0.3 ms, and each number stays as the exchange wrote it, digit for digit.
_ROW = re.compile(rb"\[([0-9]++)" + rb',"([^"]++)"' * 5)
_CANDLE = b'{"timestamp":%b,"open":%b,"high":%b,"low":%b,"close":%b,"volume":%b}'
_TICKER = '{"price":%r,"change24h":%r,"volume":%r,"timestamp":%d}'


# A series is fresh for this many lengths after its newest candle opened, whatever status its answer
# had: the exchange has a candle for each length, also for one without a trade.
FRESH_LENGTHS = 2


def stale_at(newest_ms: int, step_ms: int) -> float:
    """The instant of `boot_s` from which a series whose newest candle is `newest_ms` is stale."""
    return boot_s() + (newest_ms + FRESH_LENGTHS * step_ms) / 1000 - time.time()


@dataclass(frozen=True, eq=False)
class Series:
    """The candles of a symbol in a timeframe; replaced, never changed. Instants are of `boot_s`."""

    candles: Candles
    asked_at: float  # the data cannot be older
    expires_at: float  # asked_at plus the TTL, or when it is stale, if that is sooner
    reread_at: float  # when to read it whole again

    @property
    def newest_ms(self) -> int:
        """The open time of the newest candle, ms UTC."""
        return self.candles.times[-1]

    def final_ms(self, step_ms: int, refresh_s: float) -> int:
        """The open time of the last candle that was final when this was asked for: closed for two
        refreshes, and followed by another one."""
        asked_ms = (time.time() + self.asked_at - boot_s()) * 1000
        closed_ms = int(asked_ms - 2000 * refresh_s) // step_ms * step_ms - step_ms
        return min(closed_ms, self.newest_ms - 1)

    def json(self) -> bytes:
        """The value for Redis."""
        return b"[%b]" % b",".join(map(_CANDLE.__mod__, _ROW.findall(self.candles.rows)))

    def summary(self) -> str:
        return f"{len(self.candles.times)} candles to {iso_ms(self.newest_ms / 1000)}"


@dataclass(frozen=True)
class Price:
    """A ticker on its way into Redis. Instants are of `boot_s`."""

    ticker: Ticker
    asked_at: float
    expires_at: float

    @property
    def newest_ms(self) -> int:
        """When the exchange made it, ms UTC."""
        return self.ticker.timestamp

    def json(self) -> bytes:
        """The value for Redis."""
        return (_TICKER % self.ticker[:4]).encode()

    def summary(self) -> str:
        return f"price {self.ticker.price!r}"


def join(held: Candles, read: Candles, step_ms: int, limit: int) -> Candles | None:
    """`held` with its newest part replaced by what was `read`; at most `limit` candles.

    None if something may be missing, so that only a whole read can tell: `read` does not begin
    with a held candle, or begins after the newest but one (both may have been revised), or ends
    before the newest, or has a gap that `held` has not.
    """
    start = bisect_left(held.times, read.times[0])
    if start > max(0, len(held.times) - 2) or held.times[start] != read.times[0]:
        return None
    if read.times[-1] < held.times[-1]:
        return None
    known = set(pairwise(held.times[start:]))
    if any(b - a != step_ms and (a, b) not in known for a, b in pairwise(read.times)):
        return None
    return held.part(0, start).then(read).part(-limit)


def contradiction(held: Candles, read: Candles, final_ms: int, limit: int = 0) -> str:
    """What `read` lacks of the candles that are `held`, or has otherwise though it is final, up to
    `final_ms`; "" if nothing. A candle more is no contradiction: `held` may lack one.

    With fewer than `limit` candles, `read` claims that there are no earlier ones.
    """
    whole = len(read.times) + len(read.bad) < limit
    first_ms = held.times[0] - 1 if whole else max(held.times[0], read.times[0]) - 1
    first, last = bisect_right(held.times, first_ms), bisect_right(held.times, read.times[-1])
    times = held.times[first:last]
    # Most often they are the same: 1 µs for arrays, 90 µs for sets of 500.
    if times != read.times[-len(times) :] and (lacking := set(times).difference(read.times)):
        return f"the answer lacks the candle of {iso_ms(min(lacking) / 1000)}, which is held"
    known, told = held.since(first_ms, final_ms), read.since(first_ms, final_ms)
    if known.rows == told.rows:
        return ""
    answers = {row[0]: row for row in _ROW.findall(told.rows)}
    for row in _ROW.findall(known.rows):
        if answers[row[0]] != row:
            at = iso_ms(int(row[0]) / 1000)
            return f"the answer has another candle of {at}, which was final"
    return ""


@dataclass(frozen=True)
class Update:
    """What a refresh brought, as it is published: symbols, ms UTC, ms."""

    updated: set[str]
    failed: set[str]
    timestamp: int
    duration_ms: int

    def including(self, earlier: Update | None) -> Update:
        """This one and an `earlier` one that was never published, as one."""
        updated = self.updated | earlier.updated if earlier else self.updated
        return replace(self, updated=updated, failed=self.failed - updated)

    def without(self, expired: set[str]) -> Update:
        """This one, where the data of the symbols in `expired` is too old to be shown by now."""
        lost = self.updated & expired
        return replace(self, updated=self.updated - lost, failed=self.failed | lost)

    @staticmethod
    def of_all(updates: Sequence[Update]) -> Update:
        """Of several timeframes: updated in all, failed in any, the newest, the slowest."""
        return Update(
            updated=set.intersection(*(update.updated for update in updates)),
            failed=set.union(*(update.failed for update in updates)),
            timestamp=max(update.timestamp for update in updates),
            duration_ms=max(update.duration_ms for update in updates),
        )

    def json(self, db: int, **name: Any) -> str:
        """The payload of a publish, which begins with `name`; `db` is the database's number."""
        lists = {"symbols": sorted(self.updated), "failed": sorted(self.failed)}
        rest = {"timestamp": self.timestamp, "duration_ms": self.duration_ms, "db": db}
        return json.dumps(name | lists | rest, separators=(",", ":"))

    def summary(self) -> str:
        return f"{len(self.updated)} updated, {len(self.failed)} failed"
