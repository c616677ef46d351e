"""Brings to Redis what the store holds: the one fenced transaction, and maintenance each second.

Of the exchange it knows only until when not to ask it. What a transaction promises its readers is
in docs/redis-schema.md.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from typing import Any

import redis

from candles import PRICE, Feed, boot_s, update_channel
from check_redis import clock_problem
from journal import Problems, event
from lease import Lease
from rate_limiter import RateLimiter
from redis_log import Batch, Fenced, LoggedRedis
from settings import Settings
from store import Pending, Store

MAINTAIN_EVERY_S = 1.0
# The longest pause between tries to send what Redis refuses. The pauses are 2, 4, 4, ... s.
COMMIT_PAUSE_S = 4.0
# The pause between two rewrites of keys that vanish again and again: Redis would only evict again.
REWRITE_PAUSE_S = 5.0
# A wall clock that moves by more than this within a second was set; a slewed one moves less.
CLOCK_STEP_S = 0.2
# One voided transaction is a change of leader; this many in a row are a problem.
VOIDED_IN_A_ROW = 3
# The exchange's own longest: a later end of a hold is none of its making.
LONGEST_BAN_S = 3 * 86400
# The end of a value, which has the time of its newest data.
END_BYTES = 400


class RedisWriter:
    """Sends what `store` has pending, while this program has the `lease`."""

    def __init__(
        self,
        client: redis.Redis,
        logged: LoggedRedis,
        settings: Settings,
        store: Store,
        limiter: RateLimiter,
        lease: Lease,
        problems: Problems,
    ) -> None:
        self._client, self._logged, self._limiter = client, logged, limiter
        self._store, self._lease, self._problems = store, lease, problems
        self._log_key, self._hold_key = settings.message_log_key, settings.hold_key
        whats = (*(timeframe.name for timeframe in settings.timeframes), PRICE)
        self._feeds = [Feed(symbol, what) for symbol in settings.symbols for what in whats]
        # Held through a whole commit, waiting for Redis included: an older one must not land after
        # a newer one. It comes first: nobody takes it who holds another lock.
        self._commit_lock = threading.Lock()
        self._voided = 0  # transactions in a row; guarded by _commit_lock
        # The term in which Redis was asked what it holds. Loops and the committing thread may ask
        # twice; one reference needs no lock.
        self._learned = ("", "")
        # Counters for /health: written by one thread at a time, read by any.
        self.operations_logged = 0
        self.log_length = 0
        # Only used by the main thread.
        self._rewrite_after = self._commit_after = 0.0
        self._hold_written_until = 0.0  # wall clock
        self._pause_s = MAINTAIN_EVERY_S
        self._wall_ahead_s = time.time() - boot_s()

    def learn(self) -> None:
        """Once a term: what Redis still holds counts as seen, and a hold that was told to another
        instance, or before a restart, is obeyed."""
        fence = self._lease.fence()
        if fence == self._learned:
            return
        pipeline: Any = self._client.pipeline(transaction=False)
        pipeline.get(self._hold_key)
        for feed in self._feeds:
            pipeline.getrange(feed.key, -END_BYTES, -1)
        hold, *ends = pipeline.execute(raise_on_error=False)
        self._store.saw(dict(zip(self._feeds, map(_newest_ms, ends), strict=True)))
        if left := hold_left(hold):
            self._limiter.hold(*left)
        self._learned = fence

    def commit(self, wait: bool = True) -> bool:
        """Send Redis all that it lacks. False if it did not take it, or if `wait` is False and
        another thread is at it."""
        if not self._commit_lock.acquire(blocking=wait):
            return False
        try:
            return self._send() or (self._reclaim() and self._send())
        except redis.RedisError as error:
            self._fail(error)
            return False
        finally:
            self._commit_lock.release()

    def _send(self) -> bool:
        """One transaction with all that is pending; False if it was voided or is not allowed."""
        if self._lease.stands_by():
            self._note_voided(0)
            return False
        # The fence first: if the lease passes on and comes back while this thread is stopped, the
        # data below is from before, and must not be sent in the new term.
        fence = self._lease.fence()
        self.learn()
        pending = self._store.pending()
        if not pending:
            return True
        batch = self._batch(pending)
        try:
            self._logged.send(batch, fence=fence)
        except Fenced:
            self._note_voided(self._voided + 1)
            return False
        self._store.sent(pending)
        self.operations_logged += 0 if self._logged.log_error else len(batch.entries)
        self._note_voided(0)
        self._problems.note("redis", "")
        return True

    def _reclaim(self) -> bool:
        """After a voided transaction, claim the lease. True if nobody else has it: Redis had lost
        the term with all its data, and the transaction may be sent in a new one."""
        if not self._voided:
            return False
        self._lease.claim()
        return not self._lease.stands_by()

    def _note_voided(self, in_a_row: int) -> None:
        self._voided = in_a_row
        reason = f"{in_a_row} transactions in a row were voided"
        self._problems.note("fence", reason if in_a_row >= VOIDED_IN_A_ROW else "")

    def _batch(self, pending: Pending) -> Batch:
        """The transaction: values, failures for the log, and what tells of them."""
        batch, db = self._logged.batch(), self._logged.db
        expired: set[Feed] = set()
        for feed, entry in pending.entries.items():
            text, summary = entry.json(), entry.summary()
            # Only now: this thread may have been stopped since pending() (SIGSTOP, a suspension).
            if (left_s := entry.expires_at - boot_s()) > 0:
                batch.cache_write(feed.key, text, left_s, summary)
            else:
                expired.add(feed)
        for feed, reason in pending.errors.items():
            batch.error(feed.key, reason)
        for timeframe, update in pending.updates.items():
            told = update.without({feed.symbol for feed in expired if feed.what == timeframe})
            payload = told.json(db, timeframe=timeframe)
            batch.publish(update_channel(timeframe), payload, told.summary())
        if pending.of_all:
            told = pending.of_all.without({feed.symbol for feed in expired if feed.what != PRICE})
            names = pending.timeframes
            batch.publish(update_channel("all"), told.json(db, timeframes=names), told.summary())
        return batch

    def _fail(self, error: redis.RedisError) -> None:
        """Redis may come back without what it had (a restart, a fail-over): send all again."""
        self._problems.note("redis", error)
        self._store.resend()

    def maintain(self) -> None:
        """Once a second: renew the lease, see whether Redis still has what it must have, and send
        what it lacks."""
        try:
            self._lease.claim()
            expected = self._store.expected_in_redis(MAINTAIN_EVERY_S)
            # "market:none" is never there: EXISTS needs a key.
            pipeline: Any = self._client.pipeline(transaction=False)
            pipeline.exists(*(feed.key for feed in expected), "market:none")
            pipeline.xlen(self._log_key)
            pipeline.time()
            asked_at = time.time()
            present, length, redis_time = pipeline.execute(raise_on_error=False)
        except redis.RedisError as error:
            self._fail(error)
            return
        self.log_length = length if isinstance(length, int) else 0
        self._problems.note("redis_clock", clock_problem(redis_time, asked_at, time.time()))
        self.note_hold()
        stepped = self._clock_has_stepped()
        vanished = self._have_vanished(present, len(expected))
        now = boot_s()
        if stepped or (vanished and now >= self._rewrite_after):
            self._rewrite_after = now + REWRITE_PAUSE_S
            self._store.resend()
        self._send_what_is_open(now)

    def note_hold(self) -> None:
        """Let whoever leads next know how long the exchange must not be asked."""
        _, hold_s, status, _ = self._limiter.state()
        until = time.time() + hold_s
        if not hold_s or until < self._hold_written_until + CLOCK_STEP_S:
            return
        value = json.dumps({"until": round(until * 1000), "status": status})
        try:
            self._client.set(self._hold_key, value, pxat=math.ceil(until * 1000))
        except redis.ResponseError as error:  # no permission: nothing else is the worse for it
            self._problems.note("hold", error)
            return
        except redis.RedisError as error:
            self._fail(error)
            return
        self._problems.note("hold", "")
        self._hold_written_until = until

    def _clock_has_stepped(self) -> bool:
        """Whether the wall clock was set since the last look. Redis expires keys by it, so all that
        was written before expires at the wrong time."""
        before_s, self._wall_ahead_s = self._wall_ahead_s, time.time() - boot_s()
        step_s = self._wall_ahead_s - before_s
        if abs(step_s) <= CLOCK_STEP_S:
            return False
        event(logging.WARNING, "clock_stepped", seconds=f"{step_s:+.1f}")
        return True

    def _have_vanished(self, present: Any, expected: int) -> bool:
        """Whether keys are missing whose TTL has not passed: deleted, flushed, evicted."""
        if isinstance(present, Exception):
            self._problems.note("keys", present)
            return False
        missing = expected - present
        self._problems.note(
            "keys", f"{missing} keys vanished before their time" if missing > 0 else ""
        )
        return bool(missing > 0)

    def _send_what_is_open(self, now: float) -> None:
        """Commit, unless a refresh is at it; ever more rarely while Redis refuses."""
        if not self._store.is_behind():
            self._problems.note("redis", "")
            self._pause_s = MAINTAIN_EVERY_S
        elif now >= self._commit_after and not self.commit(wait=False):
            self._pause_s = min(2 * self._pause_s, COMMIT_PAUSE_S)
            self._commit_after = now + self._pause_s


def _newest_ms(end: Any) -> int:
    """The time in the `end` of a value; 0 if it has none."""
    times = re.findall(r'"timestamp":([0-9]{1,15})[,}]', end) if isinstance(end, str) else []
    return int(times[-1]) if times else 0


def hold_left(value: Any) -> tuple[float, int] | None:
    """Seconds left of a hold as Redis has it, and the HTTP status behind it; None without one."""
    try:
        hold = json.loads(value)
        left_s, status = hold["until"] / 1000 - time.time(), int(hold["status"])
    except (TypeError, ValueError, KeyError):
        return None
    return (min(left_s, LONGEST_BAN_S), status) if left_s > 0 else None
