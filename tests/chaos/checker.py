"""Observes Redis, its commands, its channels and the processes, and has judges.py judge what it
sees: Checker, Listener and Reader, each in its own thread and on its own connection."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
import redis

import redis_log
from binance_answers import TIMEFRAME_MS
from candles import PRICE, PRICE_TTL_S, Feed
from consumers.market_cache import MarketCache
from demo.exchange import Exchange
from settings import DEFAULT_LEADER_KEY, Timeframe
from tests.chaos.judges import (
    EXPIRY_SLACK_S,
    Sample,
    Seen,
    Truth,
    Verdict,
    Verdicts,
    judge_age,
    judge_expiry,
    judge_flatness,
    judge_keys,
    judge_price_age,
    judge_series,
)
from tests.chaos.record import Record
from tests.chaos.transactions import TransactionJudge, database

LOOK_S = 0.5  # twice a second
PRICES = Feed("", PRICE).key  # what the keys of all prices begin with
# A service looks once a second for keys that vanished, and sends them again at most every 5 s
# (docs/operations.md); on a busy machine it is later.
RESTORED_S = 1.0 + 5.0 + 2.0


class Deleted(NamedTuple):
    """A key that was deleted `at`, and would have expired at `expires_at` (epoch seconds)."""

    key: str
    at: float
    expires_at: float


class Checker(threading.Thread):
    """Checks Redis and the processes twice a second, from `start` until `stop`."""

    def __init__(
        self,
        url: str,
        exchange: Exchange,
        record: Record,
        verdicts: Verdicts,
        symbols: Sequence[str],
        timeframes: Sequence[Timeframe],
        limit: int,
        processes: Callable[[], Mapping[str, int]],
    ) -> None:
        """`processes` returns the pid of each running service by name."""
        super().__init__(name="checker", daemon=True)
        self._client = redis_log.connect(url)
        self._db = int(url.rpartition("/")[2])
        self._exchange, self._record, self._verdicts = exchange, record, verdicts
        self._symbols, self._timeframes, self._limit = symbols, timeframes, limit
        self._processes = processes
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        self._ended = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._ended.wait(LOOK_S):
                self.look()
                self._sample()
        except Exception as error:  # a checker that died must not look like one that found nothing
            self.error = error

    def stop(self) -> None:
        self._ended.set()
        self.join(10)

    def judge_lives(self) -> None:
        """Judge the processes, once all have ended."""
        for service, samples in self._samples.items():
            judge_flatness(self._verdicts.flat, service, samples)

    def read(self) -> dict[str, Seen]:
        """Read all series and prices at one instant; empty if Redis does not answer."""
        keys = [Feed(s, t.name).key for s in self._symbols for t in self._timeframes]
        keys += [Feed(symbol, PRICE).key for symbol in self._symbols]
        pipeline: Any = self._client.pipeline(transaction=True)
        pipeline.time()
        pipeline.mget(keys)
        for key in keys:
            pipeline.pttl(key)
        try:
            (seconds, micros), values, *left_ms = pipeline.execute()
        except redis.RedisError:
            return {}
        now = seconds + micros / 1e6
        return {
            key: Seen(key, value, now, now + left / 1000 if left >= 0 else math.inf)
            for key, value, left in zip(keys, values, left_ms, strict=True)
            if value is not None
        }

    def look(self) -> None:
        with suppress(redis.RedisError):
            keys: Any = self._client.keys()
            judge_keys(self._verdicts.apart, self._db, keys, self._symbols)
        seen = self.read()
        prices = [found for key, found in seen.items() if key.startswith(PRICES)]
        for symbol in self._symbols:
            for timeframe in self._timeframes:
                if found := seen.get(Feed(symbol, timeframe.name).key):
                    truth = self._truth(symbol, timeframe.name)
                    judge_series(self._verdicts, found, timeframe, truth, self._record, self._limit)
                    usable_at = self._record.usable_at(symbol, timeframe.name)
                    judge_expiry(self._verdicts.expiry, found, timeframe.ttl_s, usable_at)
                    judge_age(self._verdicts.age, found, TIMEFRAME_MS[timeframe.name] / 1000)
            if found := seen.get(Feed(symbol, PRICE).key):
                usable_at = self._record.usable_at(symbol, "")
                judge_expiry(self._verdicts.expiry, found, PRICE_TTL_S, usable_at)
                others = [price for price in prices if price is not found]
                judge_price_age(self._verdicts.age, found, others, self._record)

    def _truth(self, symbol: str, timeframe: str) -> Truth:
        # 60 candles more than are held: a series with a gap reaches further back.
        rows = self._exchange.klines(symbol, timeframe, self._limit + 60)
        return {row[0]: tuple(float(text) for text in row[1:6]) for row in rows}

    def _sample(self) -> None:
        """Sample only the leader: a standby has not yet allocated what it needs."""
        with suppress(redis.RedisError, psutil.Error):  # Redis is away, or the process has ended
            leader = str(self._client.get(DEFAULT_LEADER_KEY))
            for service, pid in self._processes().items():
                if f":{pid}:" in leader:
                    process = psutil.Process(pid)
                    sample = Sample(process.memory_info().rss, process.num_threads())
                    self._samples[service].append(sample)

    def judge_freshness(
        self, since: float, within_s: Mapping[Feed, float], stale: Mapping[Feed, float]
    ) -> None:
        """Wait until each feed was requested after `since`, at most `within_s`. Some cannot be
        shown any longer than until they are `stale`."""
        ttl_s = {timeframe.name: timeframe.ttl_s for timeframe in self._timeframes}
        ttl_s[PRICE] = PRICE_TTL_S
        waiting = set(within_s)
        while waiting:
            seen, now = self.read(), time.time()
            for feed in sorted(waiting):
                stale_at = stale.get(feed, math.inf)
                if now > stale_at - LOOK_S:
                    waiting.discard(feed)
                    continue
                found = seen.get(feed.key)
                due = min(since + ttl_s[feed.what], stale_at - EXPIRY_SLACK_S)
                fresh = found is not None and found.expires_at >= due
                if fresh or now > since + within_s[feed]:
                    waiting.discard(feed)
                    self._verdicts.fresh.check(
                        fresh,
                        f"{feed.symbol} {feed.what} not {within_s[feed]:.1f} s after {since:.3f}",
                    )
            time.sleep(0.1)

    def judge_restored(self, deleted: Sequence[Deleted]) -> None:
        """Wait until each key is there again, at most RESTORED_S. One that would have expired by
        then tells nothing."""
        waiting = list(deleted)
        while waiting:
            seen, now = self.read(), time.time()
            for each in [*waiting]:
                restored, over = each.key in seen, now > each.at + RESTORED_S
                if restored or over or now > each.expires_at - LOOK_S:
                    waiting.remove(each)
                if restored or over:
                    self._verdicts.restored.check(restored, f"{each.key}, deleted at {each.at:.3f}")
            time.sleep(0.1)


class Listener(threading.Thread):
    """Feeds all commands that Redis receives (MONITOR) to the judge of their database, from `start`
    until `stop`."""

    def __init__(self, url: str, judges: Mapping[int, TransactionJudge]) -> None:
        super().__init__(name="listener", daemon=True)
        self._client, self._judges = redis_log.connect(url), judges
        self._ended = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        while not self._ended.is_set():
            for judge in self._judges.values():
                judge.missed()
            try:
                with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
                    while not self._ended.is_set():
                        line = str(monitor.connection.read_response())
                        self._judges[database(line)].feed(line)
            except redis.RedisError:
                self._ended.wait(0.05)  # Redis is away, or received no commands
            except Exception as error:
                self.error = error
                return

    def stop(self) -> None:
        self._ended.set()
        self.join(10)


class Reader(threading.Thread):
    """A consumer, from `start` until `stop`: judges that it hears only of its own `symbols`,
    whatever is published of other databases."""

    def __init__(
        self, url: str, symbols: Sequence[str], timeframes: Sequence[str], verdict: Verdict
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self._symbols, self._timeframes, self._verdict = {*symbols}, timeframes, verdict
        self._ended = threading.Event()
        self._cache = MarketCache(redis_log.connect(url), "chaos", stopping=self._ended)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for update in self._cache.updates(*self._timeframes, "all"):
                if update:
                    strange = {*update.symbols, *update.failed} - self._symbols
                    self._verdict.check(not strange, f"{update.timeframe}: {sorted(strange)}")
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self._ended.set()
        self.join(10)
