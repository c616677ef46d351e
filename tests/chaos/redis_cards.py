"""The faults of Redis, and of the line to it, as events."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import redis_log
from candles import PRICE, Feed
from settings import DEFAULT_LEADER_KEY
from tests.chaos.checker import Deleted
from tests.chaos.environment import Environment
from tests.chaos.events import Event, Events
from tests.chaos.fleet import SETTINGS, SYMBOLS
from tests.chaos.record import Span
from tests.support import Line, RedisServer

REDIS = ("kill", "pause", "empty", "slow", "full", "evicting", "deleted", "slow line")
DELAY_S = (0.05, 0.4)  # of a slow line, each way
BYTES_PER_S = (math.inf, 100_000, 30_000)  # over the thinnest, a refresh takes 4 s
LINE_LASTS_S = 4.0  # longer than other faults: for some refreshes
# In a round trip of twice this no lease expires, and five of them pass before a hold is noted.
LONG_LINE_S, LONG_LINE_NOTE_S = 0.1, 1.0
DELETE_EVERY_S = 0.15
# Who takes over can know of a hold only by market:hold, so without that key the promise that holds
# outlive a service cannot be kept, and is not made: docs/operations.md says when to delete it.
_KEYS_OF_SERVICE = (DEFAULT_LEADER_KEY, f"{DEFAULT_LEADER_KEY}:term", redis_log.DEFAULT_KEY)
# What is shown for longer than a service takes to send it again.
_LASTING = (PRICE, max(SETTINGS.timeframes, key=lambda timeframe: timeframe.ttl_s).name)


class RedisCards:
    """Makes the events. `own` is the environment whose keys are deleted; other faults are of all
    `environments`."""

    def __init__(
        self,
        rng: random.Random,
        events: Events,
        server: RedisServer,
        line: Line,
        own: Environment,
        environments: Sequence[Environment],
    ) -> None:
        self._rng, self._events, self._server, self._line = rng, events, server, line
        self._own, self._environments = own, environments

    def of_redis(self, kind: str) -> list[Event]:
        begin_at, end_at = self._events.span()
        spans: list[tuple[Environment, Span]] = []
        events = [*self._events_of(kind, begin_at, end_at)]
        first, last = events[0][0], events[-1][0]

        def begin() -> None:
            at = time.time()
            for each in self._environments:
                spans.append((each, each.record.begin(f"redis {kind}", None, at)))

        def end() -> None:
            for each, span in spans:
                each.record.end(span)

        return [(first, begin), *events, (last, end)]

    def _events_of(self, kind: str, begin_at: float, end_at: float) -> Iterator[Event]:
        server = self._server
        client: Any = server.client
        shown = f"redis {kind}, for {end_at - begin_at:.1f} s"
        match kind:
            case "kill":
                yield begin_at, self._events.doing(shown, server.kill)
                yield end_at, server.start
            case "pause":
                yield begin_at, self._events.doing(shown, server.pause)
                yield end_at, server.resume
            case "empty":
                yield begin_at, self._events.doing("redis empty", client.flushall)
            case "slow":  # Redis runs a tenth of the time
                yield begin_at, self._events.doing(shown, server.pause)
                at = begin_at + 0.18
                while at < end_at:
                    yield at, server.resume
                    yield at + 0.02, server.pause
                    at += 0.2
                yield end_at + 0.2, server.resume
            case "full":

                def fill() -> None:
                    client.config_set("maxmemory", "1")

                def empty() -> None:
                    client.config_set("maxmemory", "0")

                yield begin_at, self._events.doing(shown, fill)
                yield end_at, empty
            case "evicting":  # Redis evicts any keys

                def evict() -> None:
                    client.config_set("maxmemory-policy", "allkeys-random")
                    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 0.9))

                def keep() -> None:
                    client.config_set("maxmemory", "0")
                    client.config_set("maxmemory-policy", "noeviction")

                yield begin_at, self._events.doing(shown, evict)
                yield end_at, keep
            case "deleted":
                whats = [*(timeframe.name for timeframe in SETTINGS.timeframes), PRICE]
                feeds = [Feed(symbol, what) for symbol in SYMBOLS for what in whats]
                count = int((end_at - begin_at) / DELETE_EVERY_S)
                keys = [*(feed.key for feed in feeds), *_KEYS_OF_SERVICE * (len(feeds) // 10)]
                yield begin_at, self._events.doing(shown, lambda: None)
                yield from self._one_by_one(begin_at, self._rng.sample(keys, count), self._delete)
            case "slow line":
                delay_s, bytes_per_s = self._rng.uniform(*DELAY_S), self._rng.choice(BYTES_PER_S)
                yield from self._of_line(
                    kind, begin_at, end_at + LINE_LASTS_S, delay_s, bytes_per_s
                )

    def of_long_line(self, end_at: float) -> Iterator[Event]:
        """A line over which leases are renewed in time, and holds noted in LONG_LINE_NOTE_S more:
        it hides none, so the record need not have it."""
        yield from self._of_line("long line", 0.0, end_at, LONG_LINE_S, math.inf)

    def _of_line(
        self, kind: str, begin_at: float, end_at: float, delay_s: float, bytes_per_s: float
    ) -> Iterator[Event]:
        line = self._line

        def begin() -> None:
            line.delay_s, line.bytes_per_s = delay_s, bytes_per_s

        def end() -> None:
            line.delay_s, line.bytes_per_s = 0.0, math.inf

        shown = (
            f"redis {kind}, for {end_at - begin_at:.1f} s, {delay_s * 1000:.0f} ms each way, "
            f"{bytes_per_s / 1000:.0f} kB/s"
        )
        yield begin_at, self._events.doing(shown, begin)
        yield end_at, end

    def of_lasting(
        self, begin_at: float, symbols: Sequence[str], count: int
    ) -> tuple[list[Event], list[Deleted]]:
        """Events that delete up to `count` keys of data that is shown for long, one by one; and a
        list to which they add the keys that were there."""
        feeds = [Feed(symbol, what) for symbol in symbols for what in _LASTING]
        deleted: list[Deleted] = []

        def delete(key: str) -> None:
            found = self._delete(key)
            if found.expires_at > found.at:
                deleted.append(found)

        keys = [feed.key for feed in self._rng.sample(feeds, min(count, len(feeds)))]
        return [*self._one_by_one(begin_at, keys, delete)], deleted

    def _one_by_one(
        self, begin_at: float, keys: Sequence[str], delete: Callable[[str], Any]
    ) -> Iterator[Event]:
        for n, key in enumerate(keys):
            yield begin_at + n * DELETE_EVERY_S, partial(delete, key)

    def _delete(self, key: str) -> Deleted:
        if key == DEFAULT_LEADER_KEY:  # whoever leads may lose the lease before it notes a hold
            for name in self._own.fleet.names():
                self._own.record.stop(name)
        pipeline: Any = self._server.client.pipeline(transaction=True)
        pipeline.pttl(key)
        pipeline.delete(key)
        left_ms, _ = pipeline.execute()
        now = time.time()
        return Deleted(key, now, now + left_ms / 1000)
