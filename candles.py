"""Candles and prices on their way from the exchange into Redis, and what is told of them. Pure."""

from __future__ import annotations

import json
import re
import time
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise

from binance_answers import Candles, Ticker
from redis_log import iso_ms

PRICE_TTL_S = 60
RECENT = 8  # candles at the end of a series that are never compressed
KEPT = 96  # older parts of series that are kept ready: all there are of 29 symbols in 3 timeframes
# The seconds that data ages by. The monotonic clock of Linux stands still while it is suspended.
boot_s = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


def ohlcv_key(symbol: str, timeframe: str) -> str:
    return f"market:ohlcv:{symbol}:{timeframe}"


def price_key(symbol: str) -> str:
    return f"market:price:{symbol}"


def update_channel(timeframe: str) -> str:
    """The channel of a timeframe's refreshes, or of "all"."""
    return f"market:update:{timeframe}"


_CANDLE_JSON = b'{"timestamp":%b,"open":%b,"high":%b,"low":%b,"close":%b,"volume":%b}'
_CANDLE_FIELDS = re.compile(rb"\[([0-9]++)" + rb',"([^"]++)"' * 5)
_NONE_PACKED = zlib.compress(b"")
_PRICE_JSON = '{"price":%r,"change24h":%r,"volume":%r,"timestamp":%d}'


@dataclass(frozen=True, eq=False)
class Series:
    """The candles of a symbol and timeframe; replaced, never changed. Instants are of `boot_s`.

    Held are the exchange's rows; what goes into Redis is made of them. All but the newest, which
    change, get compressed: as they come, those of 350 symbols in 3 timeframes take 90 MB.
    """

    times: array[int]  # the open time of each in ms UTC
    older: bytes  # the rows of the first ones, compressed; at their start perhaps some that went
    recent: Candles  # those after them
    fetched_at: float  # when it was asked for: what came cannot be older
    expires_at: float
    reread_at: float  # when to read it whole again

    @classmethod
    def of(cls, candles: Candles, *instants: float) -> Series:
        """One of `candles` as they come."""
        return cls(candles.times, _NONE_PACKED, candles, *instants)

    @property
    def newest_ms(self) -> int:
        return self.times[-1]

    @property
    def older_count(self) -> int:
        return len(self.times) - len(self.recent.times)

    def candles(self) -> Candles:
        """All of them."""
        older = Candles(self.times[: self.older_count], zlib.decompress(self.older))
        return older.part(0).then(self.recent)

    def json(self) -> bytes:
        """What goes into Redis; the numbers as the exchange writes them, digit for digit."""
        parts = [_as_json(self.recent.rows)]
        if self.older_count:
            older = _older_json(self.older)
            parts.insert(0, older[older.index(b'{"timestamp":%d,' % self.times[0]) :])
        return b"[%b]" % b",".join(parts)

    def packed(self) -> Series:
        """The same, as much of it compressed as may be."""
        if len(self.recent.times) <= 2 * RECENT:
            return self
        whole = self.candles()
        older = zlib.compress(whole.part(0, -RECENT).rows, 1)
        return replace(self, older=older, recent=whole.part(-RECENT))

    def summary(self) -> str:
        return f"{len(self.times)} candles to {iso_ms(self.newest_ms / 1000)}"


@lru_cache(KEPT)
def _older_json(older: bytes) -> bytes:
    return _as_json(zlib.decompress(older))


def _as_json(rows: bytes) -> bytes:
    return b",".join(map(_CANDLE_JSON.__mod__, _CANDLE_FIELDS.findall(rows)))


@dataclass(frozen=True)
class Price:
    """A ticker on its way into Redis."""

    ticker: Ticker
    fetched_at: float
    expires_at: float

    @property
    def newest_ms(self) -> int:
        return self.ticker.timestamp

    def json(self) -> bytes:
        return (_PRICE_JSON % self.ticker[:4]).encode()

    def summary(self) -> str:
        return f"price {self.ticker.price!r}"


def join(held: Series, read: Candles, step_ms: int, limit: int) -> Series | None:
    """`held` with its newest part replaced by what was `read`, at most `limit` candles.

    None if something may be missing: it does not begin with one of `held` or leaves out what may
    have been revised since (its newest or the one before), it ends before what is held, or it
    has a gap that `held` has not. Then only reading the whole series can tell. That is also
    simpler where it begins with one that is compressed, which takes an outage and gaps.
    """
    start = bisect_left(held.times, read.times[0])
    if not held.older_count <= start <= max(0, len(held.times) - 2):
        return None
    if held.times[start] != read.times[0] or read.times[-1] < held.times[-1]:
        return None
    known = set(pairwise(held.times[start:]))
    if any(b - a != step_ms and (a, b) not in known for a, b in pairwise(read.times)):
        return None
    times = (held.times[:start] + read.times)[-limit:]
    kept = held.recent.part(0, start - held.older_count)
    return replace(held, times=times, recent=kept.then(read).part(-limit))


@dataclass(frozen=True)
class Update:
    """What a refresh brought, as it is published: symbols, ms UTC, ms."""

    updated: set[str]
    failed: set[str]
    timestamp: int
    duration_ms: int

    def including(self, earlier: Update | None) -> Update:
        """This one and an `earlier` one that nobody has heard of, as one."""
        updated = self.updated | earlier.updated if earlier else self.updated
        return replace(self, updated=updated, failed=self.failed - updated)

    def without(self, gone: set[str]) -> Update:
        """This one, where what was read of the symbols in `gone` is too old by now."""
        lost = self.updated & gone
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

    def json(self, **name: object) -> str:
        lists = {"symbols": sorted(self.updated), "failed": sorted(self.failed)}
        times = {"timestamp": self.timestamp, "duration_ms": self.duration_ms}
        return json.dumps(name | lists | times, separators=(",", ":"))

    def summary(self) -> str:
        return f"{len(self.updated)} updated, {len(self.failed)} failed"
