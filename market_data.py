"""The market data service: candles and prices of Binance.US into Redis, for everyone else to read.

In reading order: Settings, the Series of candles and how reads `join` it, RefreshLoop
(a Timer a timeframe), MarketData (refresh, commit, keep, health), and the program around it.

Three kinds of threads touch the service: each loop calls `refresh`, the executor's workers fetch
for it, and the main thread calls `keep` once a second. HTTP threads only look.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import random
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import redis

import binance_client as binance
import redis_log
from binance_answers import (
    MAX_TICKER_SYMBOLS,
    TIMEFRAME_MS,
    UNKNOWN_SYMBOL,
    BadResponse,
    BinanceError,
    Listing,
    Retryable,
    Stopped,
    Ticker,
)
from candles import (
    PRICE_TTL_S,
    Price,
    Series,
    Update,
    boot_s,
    join,
    ohlcv_key,
    price_key,
    update_channel,
)
from check import check
from embedded_redis import embedded_redis
from environment import SettingsError
from health import HealthServer
from journal import complain, event, log_bug, notify, write_to
from local_api import ApiError, LocalApi, NotFresh
from redis_log import LoggedRedis, iso_ms, redact
from settings import VERSION, Settings, Timeframe

LEADER_KEY = "market:leader"
OVERLAP = 3  # candles read again: the forming one and two that the exchange may still revise
HOURLY_S = 3600.0  # every series is read whole this often, and the listing of symbols
LISTING_RETRY_S = 300.0
LISTING_TTL_S = 2 * HOURLY_S
GIVE_UP_SHARE = 0.8  # of a refresh interval; then no request begins, so refreshes never meet
HANG_S = 15.0  # a loop that is late by this hangs; a commit to a silent Redis takes less
RETRY_S = 30.0  # until the next refresh at most, after one that brought nothing
WAKE_S = 2.0  # the longest that a loop sleeps without a look at the wall clock
KEEP_S = 1.0  # between two looks of the main thread
COMMIT_PAUSE_S = 4.0  # at most, between tries to send what Redis refuses; they double from KEEP_S
REWRITE_PAUSE_S = 5.0  # between two rewrites of keys that vanish again and again (eviction)
READY_AFTER_S = 60.0  # then systemd hears so even without a complete first fill
CLOCK_STEP_S = 0.2  # by so much between two looks a wall clock is set, not slewed
STOP_WITHIN_S = 4.0

# Both take the key and a token. A lease is taken or renewed by whoever holds it, or if nobody does;
# the answer is who holds it then.
_CLAIM = """
    local holder = redis.call('GET', KEYS[1])
    if holder and holder ~= ARGV[1] then return holder end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return ARGV[1]"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


# --- loops ---


class RefreshLoop(threading.Timer):
    """Calls `refresh(timeframe)` at once, then at every multiple of its interval plus an offset;
    after one that brought nothing (False), at every multiple of 30 s if that is sooner.

    Unlike Timer's, this `run` repeats until `cancel`, on one thread. Due times are of the wall
    clock. A missed tick is skipped; a clock that is set back makes one come early.
    """

    def __init__(
        self,
        timeframe: Timeframe,
        offset_s: float,
        refresh: Callable[[Timeframe], bool],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(timeframe.refresh_s, refresh, [timeframe])
        self.name, self.daemon = f"refresh-{timeframe.name}", True
        self._offset_s, self._wall_clock = offset_s, wall_clock
        # Until when (monotonic) silence is no hang. The loop writes it, the main thread reads
        # it; one float needs no lock.
        self.silent_until = math.inf
        # Do not wait for the next tick. Whoever learns that another instance leads, or no longer
        # leads, sets it, this loop clears it; one flag needs no lock.
        self.at_once = False

    def run(self) -> None:
        while not self.finished.is_set():
            self.at_once = False
            started, interval = time.monotonic(), self.interval
            self.silent_until = started + GIVE_UP_SHARE * interval + HANG_S
            try:
                if not self.function(*self.args):
                    interval = min(interval, RETRY_S)
            except Exception as error:  # a bug, which must not end the loop
                log_bug(error)
            if missed := int((time.monotonic() - started) / self.interval):
                event(logging.WARNING, "ticks_skipped", loop=self.name, count=missed)
            ticks = math.floor((self._wall_clock() - self._offset_s) / interval) + 1
            due = ticks * interval + self._offset_s
            # Later only by a clock that is set back; one that is slewed loses less than WAKE_S.
            latest = time.monotonic() + due - self._wall_clock() + WAKE_S
            self.silent_until = latest + HANG_S
            while not self.at_once and time.monotonic() < latest:
                if (left_s := due - self._wall_clock()) <= 0:
                    break
                # Not all at once: a machine that was suspended wakes up in the middle of it.
                if self.finished.wait(min(left_s, WAKE_S)):
                    return


# --- service ---


def _bare(error: BinanceError) -> BinanceError:
    """`error` without what it was raised in, whose variables hold answers of up to 5 MB."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


Results = dict[str, Series | Price | BinanceError]  # by Redis key
Jobs = dict[Future[Results], list[str]]  # and the keys of their results


class MarketData:
    """Fetches, holds, and commits to Redis what docs/redis-schema.md promises its readers."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self.settings, self._redis = settings, client
        self.stopping = threading.Event()
        wait, timeout_s = self.stopping.wait, settings.request_timeout
        self._limiter = binance.RateLimiter(settings.weight_limit, travel_s=timeout_s, wait=wait)
        self._binance = binance.BinanceClient(
            settings.binance_base_url,
            self._limiter,
            timeout_s=timeout_s,
            wait=wait,
            user_agent=f"coinex-market-data/{VERSION}",
            connections=settings.max_workers,
        )
        self._logged = LoggedRedis(
            client,
            "market-data",
            log_key=settings.message_log_key,
            log_maxlen=settings.message_log_maxlen,
        )
        self._executor = ThreadPoolExecutor(settings.max_workers, "fetch")
        offset_s = settings.refresh_offset_ms / 1000
        self._loops = [RefreshLoop(t, offset_s, self.refresh) for t in settings.timeframes]
        self._started_at = boot_s()
        self.token = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        # Held through a whole commit, waiting included: an older commit must not land after a
        # newer one. Nobody takes it who holds _lock.
        self._commit_lock = threading.Lock()
        # Guards all below. Loops, workers and the main thread change it, HTTP threads read it;
        # unlocked, a commit could miss what a refresh is just storing. No waiting inside.
        self._lock = threading.Lock()
        self._leader = ""  # whose token the lease has, as far as it is known
        self._claim_tried_at = boot_s()
        self._held: dict[str, Series | Price] = {}  # by key
        self._failing: dict[str, BinanceError] = {}  # by key: why its last read failed
        self._unwritten: set[str] = set()  # keys of which Redis lacks what is held
        self._unlogged: dict[str, str] = {}  # by key: a failure for the message log
        self._unpublished: dict[str, Update] = {}  # by timeframe
        self._last: dict[str, Update] = {}  # by timeframe: its last refresh
        self._published_since_all: set[str] = set()  # timeframes
        self._filled = False  # whether every timeframe has once been read and published
        self._problems: dict[str, str] = {}  # by what has it; "" when it is over
        self._log_length = self._logged_total = 0
        self._refreshes: dict[str, tuple[int, float]] = {}  # by timeframe: how many, seconds
        self._listing = Listing({}, {}, {})
        self._listing_expires_at = 0.0
        self._listing_due_at = 0.0  # only used by the loop that reads prices
        # Only used by the main thread.
        self._rewrite_after = self._commit_after = 0.0
        self._commit_pause_s = KEEP_S
        self._wall_ahead_s = time.time() - boot_s()  # at its last look

    # --- a refresh: read, store, commit ---

    def refresh(self, timeframe: Timeframe) -> bool:
        """Read what may have changed in `timeframe` and bring it to Redis: a loop's one turn.
        False if nothing could be read."""
        if self.stands_by():
            return True
        started = time.monotonic()
        give_up_at = started + GIVE_UP_SHARE * timeframe.refresh_s
        try:
            jobs = self._ask(timeframe, give_up_at)
        except RuntimeError:  # the executor was shut down: the program is ending
            return True
        results = self._gather(jobs, give_up_at)
        update = self._store(timeframe.name, results, started)
        self.commit()
        event(
            logging.INFO if update.updated else logging.DEBUG,  # if not, fetch_failing has said so
            "refresh",
            timeframe=timeframe.name,
            updated=len(update.updated),
            failed=len(update.failed),
            duration_ms=update.duration_ms,
            weight=self._limiter.state()[0],
        )
        due = timeframe == self.settings.price_timeframe and started >= self._listing_due_at
        if due and not self.stopping.is_set():
            self._check_listing(give_up_at)
        return bool(update.updated)

    def _ask(self, timeframe: Timeframe, give_up_at: float) -> Jobs:
        """The requests of a refresh, on their way."""
        calls: list[tuple[list[str], Callable[[], Results]]] = [
            (
                [ohlcv_key(symbol, timeframe.name)],
                partial(self._fetch_candles, symbol, timeframe, give_up_at),
            )
            for symbol in self.settings.symbols
        ]
        if timeframe == self.settings.price_timeframe:
            calls += [
                (
                    [price_key(symbol) for symbol in group],
                    partial(self._fetch_prices, group, give_up_at),
                )
                for group in self._price_groups()
            ]
        return {self._executor.submit(fetch): keys for keys, fetch in calls}

    def _gather(self, jobs: Jobs, give_up_at: float) -> Results:
        """The results of `jobs`; one that is not done when it should be has failed."""
        wait_for(jobs, timeout=give_up_at - time.monotonic() + 1)
        results: Results = {}
        for job, keys in jobs.items():
            try:
                done = not job.cancel() and job.done()
                failure: BinanceError = Retryable("no answer before the next refresh")
                results |= job.result() if done else dict.fromkeys(keys, failure)
            except Exception as error:  # a bug, which must not harm other symbols
                log_bug(error)
                results |= dict.fromkeys(keys, BinanceError(f"bug: {error!r}"))
        return results

    def _fetch_candles(self, symbol: str, timeframe: Timeframe, give_up_at: float) -> Results:
        """The newest candles if they join what is held, else the whole series."""
        key = ohlcv_key(symbol, timeframe.name)
        limit, step_ms = self.settings.candle_limit, TIMEFRAME_MS[timeframe.name]
        with self._lock:
            held = self._held.get(key)
        klines = partial(self._binance.klines, symbol, timeframe.name)
        asked_at = boot_s()
        try:
            if isinstance(held, Series) and asked_at < held.reread_at:
                begun = int(time.time() * 1000) // step_ms - held.newest_ms // step_ms
                count = max(OVERLAP, OVERLAP - 1 + begun)
                if count < limit:
                    candles = klines(count, give_up_at)
                    if joined := join(held.candles, candles, step_ms, limit):
                        expires_at = asked_at + timeframe.ttl_s
                        return {key: Series(joined, asked_at, expires_at, held.reread_at)}
            asked_at = boot_s()
            candles = klines(limit, give_up_at).part(-limit)
        except BinanceError as error:
            return {key: _bare(error)}
        # At random after the first time, so that not all are read whole in one refresh.
        reread_at = asked_at + HOURLY_S * (1 if held else random.uniform(0.1, 1))
        expires_at = asked_at + timeframe.ttl_s
        return {key: Series(candles, asked_at, expires_at, reread_at)}

    def _price_groups(self) -> list[list[str]]:
        """The symbols in calls of 20; each that the exchange does not know by itself, because it
        rejects a whole call for one of those."""
        with self._lock:
            unknown = [symbol for symbol in self.settings.symbols if self._is_unknown(symbol)]
        known = [symbol for symbol in self.settings.symbols if symbol not in unknown]
        size = MAX_TICKER_SYMBOLS
        groups = [known[start : start + size] for start in range(0, len(known), size)]
        return groups + [[symbol] for symbol in unknown]

    def _is_unknown(self, symbol: str) -> bool:
        """Whether the exchange says that it has no such symbol. Called with _lock held."""
        error = self._failing.get(price_key(symbol))
        return error is not None and error.code == UNKNOWN_SYMBOL

    def _fetch_prices(self, symbols: Sequence[str], give_up_at: float) -> Results:
        asked_at = boot_s()
        try:
            tickers = self._binance.tickers(symbols, give_up_at)
        except BinanceError as error:
            if error.code != UNKNOWN_SYMBOL or len(symbols) == 1:
                return {price_key(symbol): _bare(error) for symbol in symbols}
            half = len(symbols) // 2  # and so on, to learn which one it is
            first = self._fetch_prices(symbols[:half], give_up_at)
            return first | self._fetch_prices(symbols[half:], give_up_at)
        expires_at = asked_at + PRICE_TTL_S
        return {
            price_key(symbol): Price(found, asked_at, expires_at)
            if isinstance(found, Ticker)
            else _bare(found)
            for symbol, found in tickers.items()
        }

    def _store(self, timeframe: str, results: Results, started: float) -> Update:
        """Hold what was read, leave alone what was not, and say what broke or mended."""
        broke: dict[tuple[str, str], list[str]] = {}  # by (timeframe or "price", reason): symbols
        mended: dict[str, list[str]] = {}
        updated: set[str] = set()
        failed: set[str] = set()
        with self._lock:
            now = boot_s()
            for key, read in results.items():
                result, held = read, self._held.get(key)
                if (
                    held
                    and held.expires_at > now
                    and not isinstance(read, BinanceError)
                    and read.newest_ms < held.newest_ms
                ):  # it is believed once held is stale
                    result = BadResponse("the answer is older than what is held")
                _, kind, symbol, *name = key.split(":")
                what = name[0] if name else kind
                if name:
                    (failed if isinstance(result, BinanceError) else updated).add(symbol)
                if isinstance(result, Stopped):
                    continue
                if isinstance(result, BinanceError):
                    if key not in self._failing:
                        broke.setdefault((what, result.reason), []).append(symbol)
                        self._unlogged[key] = result.reason
                    self._failing[key] = result
                    continue
                if self._failing.pop(key, None):
                    mended.setdefault(what, []).append(symbol)
                self._held[key] = result
                self._unwritten.add(key)
            duration_ms = round((time.monotonic() - started) * 1000)
            update = Update(updated, failed, round(time.time() * 1000), duration_ms)
            self._last[timeframe] = update
            count, seconds = self._refreshes.get(timeframe, (0, 0.0))
            self._refreshes[timeframe] = count + 1, seconds + duration_ms / 1000
            self._unpublished[timeframe] = update.including(self._unpublished.get(timeframe))
        for (what, reason), symbols in broke.items():
            event(
                logging.WARNING,
                "fetch_failing",
                what=what,
                symbols=",".join(symbols),
                reason=reason,
            )
        for what, symbols in mended.items():
            event(logging.INFO, "fetch_mended", what=what, symbols=",".join(symbols))
        return update

    def _check_listing(self, give_up_at: float) -> None:
        """Once an hour: which symbols are listed but not traded."""
        self._listing_due_at = time.monotonic() + LISTING_RETRY_S
        try:
            listing = self._binance.exchange_info(self.settings.symbols, give_up_at)
        except BinanceError as error:
            event(logging.DEBUG, "listing_unread", reason=error.reason)
            return
        self._listing_due_at = time.monotonic() + HOURLY_S
        with self._lock:
            self._listing, self._listing_expires_at = listing, boot_s() + LISTING_TTL_S
        for symbol, status in listing.statuses.items():
            self._note(symbol, "" if status == "TRADING" else f"is not traded but {status}")

    # --- Redis ---

    def commit(self, wait: bool = True) -> bool:
        """Send Redis all that it lacks, a transaction a timeframe; False if it did not take it, or
        if `wait` is False and another thread is at it."""
        if not self._commit_lock.acquire(blocking=wait):
            return False
        try:
            done = all(self._send(timeframe.name) for timeframe in self.settings.timeframes)
            if done:
                self._note("redis", "")
            return done
        finally:
            self._commit_lock.release()

    def _send(self, timeframe: str, again: bool = True) -> bool:
        """The part of `commit` for what is read with `timeframe`. Called with _commit_lock held."""
        if self.stands_by():
            return False
        names = [each.name for each in self.settings.timeframes]
        keys = [*self._keys(timeframe).values()]
        if timeframe == self.settings.price_timeframe.name:
            keys += self._keys("price").values()
        with self._lock:
            now = boot_s()
            entries = {key: self._held[key] for key in keys if key in self._unwritten}
            errors = {key: self._unlogged[key] for key in keys if key in self._unlogged}
            update, last = self._unpublished.get(timeframe), dict(self._last)
            gone = {name: self._gone(name, now) for name in last}
            brought = {timeframe} if update and update.updated else set()
            since_all = (self._published_since_all | brought) & self._last.keys()
            # What tells of all goes with the last that Redis lacks.
            behind = bool(self._unwritten - set(keys) or self._unpublished.keys() - {timeframe})
            all_done = len(since_all) == len(names) and not behind
        if not (entries or errors or update):
            return True
        batch = self._logged.batch()
        for key, entry in entries.items():
            text, summary = entry.json(), entry.summary()
            # Looked at only now: this thread may have been stopped since (SIGSTOP, a suspension).
            if (left_s := entry.expires_at - boot_s()) > 0:
                batch.cache_write(key, text, left_s, summary)
        for key, reason in errors.items():
            batch.error(key, reason)
        if update:
            told = update.without(gone[timeframe])
            batch.publish(update_channel(timeframe), told.json(timeframe=timeframe), told.summary())
        if all_done:
            of_all = Update.of_all([last[name].without(gone[name]) for name in names])
            batch.publish(update_channel("all"), of_all.json(timeframes=names), of_all.summary())
        try:
            self._logged.send(batch, fence=(LEADER_KEY, self.token))
        except redis_log.Fenced:  # by another instance, or the lease went with what Redis had
            return again and bool(self.claim()) and self._send(timeframe, again=False)
        except redis.RedisError as error:
            self._note_redis_failure(error)
            return False
        with self._lock:
            self._unwritten -= {key for key in entries if self._held.get(key) is entries[key]}
            for key in errors:
                self._unlogged.pop(key, None)
            if update and self._unpublished.get(timeframe) is update:
                del self._unpublished[timeframe]
            self._published_since_all = set() if all_done else since_all
            self._filled = self._filled or all_done
            self._logged_total += 0 if self._logged.log_error else len(batch.entries)
        return True

    def _gone(self, timeframe: str, now: float) -> set[str]:
        """The symbols whose candles are too old to be shown. Called with _lock held."""
        return {
            symbol
            for symbol, key in self._keys(timeframe).items()
            if key not in self._held or self._held[key].expires_at <= now
        }

    def _keys(self, name: str) -> dict[str, str]:
        """By symbol the key of its candles in the timeframe `name`, or of its "price"."""
        symbols = self.settings.symbols
        return {s: price_key(s) if name == "price" else ohlcv_key(s, name) for s in symbols}

    def _note(self, what: str, problem: object) -> None:
        """Log a problem of `what` when it begins, and its end, which is a `problem` of "".
        /health shows those that there are."""
        text = (str(problem) or type(problem).__name__) if problem else ""
        with self._lock:
            before, self._problems[what] = self._problems.get(what, ""), text
        if text and not before:
            event(logging.WARNING, "problem", what=what, reason=text)
        elif before and not text:
            event(logging.INFO, "problem_over", what=what)

    def _note_redis_failure(self, error: redis.RedisError) -> None:
        """What Redis had may be lost with it (a fail-over), so all of it is sent again."""
        self._note("redis", error)
        with self._lock:
            self._unwritten.update(self._held)

    def claim(self, *commands: redis_log.Command) -> list[Any]:
        """Take or renew the lease. Returns who has it, and the answers to `commands`, which share
        its round trip; nothing if Redis does not answer, which changes nothing: whoever fetched
        goes on, in memory."""
        if self.stopping.is_set():
            return []
        ttl_ms, tried_at = int(self.settings.leader_ttl * 1000), boot_s()
        with self._lock:
            before_at, self._claim_tried_at = self._claim_tried_at, tried_at
        pipeline: Any = self._redis.pipeline(transaction=False)
        for command in [("EVAL", _CLAIM, 1, LEADER_KEY, self.token, ttl_ms), *commands]:
            pipeline.execute_command(*command)
        try:
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            holder = answers[0]
            if isinstance(holder, Exception):
                raise holder
        except redis.RedisError as error:
            self._note_redis_failure(error)
            return []
        with self._lock:
            before, self._leader = self._leader, holder
            # Longer than the lease lasts and than a try at a Redis that hangs.
            slept = tried_at - before_at > self.settings.leader_ttl + 2 * redis_log.SOCKET_TIMEOUT_S
            passed_on = holder != before and (before or holder != self.token)
            if slept or passed_on:  # what is in memory may be older than what another one wrote
                for memory in (
                    self._held,
                    self._failing,
                    self._unwritten,
                    self._unlogged,
                    self._unpublished,
                    self._last,
                    self._published_since_all,
                ):
                    memory.clear()
            self._filled = self._filled and not passed_on
        if holder != before:
            event(logging.INFO, "leader" if holder == self.token else "standby", leader=holder)
            for loop in self._loops:
                loop.at_once = True
        return answers

    def release(self) -> None:
        """Give the lease back, for another instance to take at once."""
        with suppress(redis.RedisError):
            self._redis.eval(_RELEASE, 1, LEADER_KEY, self.token)

    def stands_by(self) -> bool:
        """Whether another instance leads."""
        with self._lock:
            return self._leader not in ("", self.token)

    def _mend_redis(self) -> None:
        """Renew the lease, see whether Redis has what it should, and send it what it lacks."""
        with self._lock:
            now = boot_s()
            live = [
                key
                for key, entry in self._held.items()
                if key not in self._unwritten and entry.expires_at - now > KEEP_S
            ]
        answers = self.claim(
            ("EXISTS", *live, "market:none"),  # which is never there: EXISTS needs a key
            ("XLEN", self.settings.message_log_key),
        )
        if not answers:
            return
        _, present, length = answers
        before_s, self._wall_ahead_s = self._wall_ahead_s, time.time() - boot_s()
        step_s = self._wall_ahead_s - before_s
        if stepped := abs(step_s) > CLOCK_STEP_S:  # Redis, too, expires keys by the wall clock
            event(logging.WARNING, "clock_stepped", seconds=f"{step_s:+.1f}")
        missing = 0 if isinstance(present, Exception) else len(live) - present
        vanished = f"{missing} keys vanished before their time" if missing > 0 else ""
        self._note("keys", present if isinstance(present, Exception) else vanished)
        rewriting = stepped or (missing > 0 and now >= self._rewrite_after)
        if rewriting:
            self._rewrite_after = now + REWRITE_PAUSE_S
        with self._lock:
            self._log_length = length if isinstance(length, int) else 0
            self._unwritten.update(self._held if rewriting else [])
            behind = bool(self._unwritten or self._unpublished or self._unlogged)
        if not behind:
            self._note("redis", "")
            self._commit_pause_s = KEEP_S
        elif now >= self._commit_after and not self.commit(wait=False):
            self._commit_pause_s = min(2 * self._commit_pause_s, COMMIT_PAUSE_S)
            self._commit_after = now + self._commit_pause_s

    # --- life ---

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def keep(self) -> None:
        """Once a second: look at the lease, Redis, a hold, the message log, and whether loops
        turn."""
        self._mend_redis()
        _, held_s, status = self._limiter.state()
        self._note("exchange", f"on hold for {held_s:.0f} s after HTTP {status}" if held_s else "")
        self._note("message_log", self._logged.log_error)
        now = time.monotonic()
        hanging = [loop.name for loop in self._loops if now > loop.silent_until]
        self._note("loops", f"hanging: {' '.join(hanging)}" if hanging else "")

    def stop(self, until: float) -> None:
        """End the loops. A refresh in flight may end, but waits for no hold and no retry.

        `until` is in monotonic seconds: what is not done by then is left undone.
        """
        self.stopping.set()
        for loop in self._loops:
            loop.cancel()
        for loop in self._loops:
            if loop.is_alive():
                loop.join(max(0.0, until - time.monotonic()))
        self._executor.shutdown(wait=False, cancel_futures=True)

    # --- what others see ---

    # What local_api.Market asks for.

    def _fresh(self, symbol: str, key: str) -> Any:
        """What is held under `key`; ApiError if it is too old, or not there."""
        with self._lock:
            held, error, leader = self._held.get(key), self._failing.get(key), self._leader
        if error and error.code == UNKNOWN_SYMBOL:
            raise ApiError(error.code, "Invalid symbol.")
        if held and held.expires_at > boot_s():
            return held
        if leader not in ("", self.token):
            raise NotFresh(f"{leader} fetches, this instance stands by.")
        why = error.reason if error else "It was not read yet."
        raise NotFresh(f"There is no fresh data of {symbol}: {why}")

    def series(self, symbol: str, timeframe: str) -> Series:
        series: Series = self._fresh(symbol, ohlcv_key(symbol, timeframe))
        return series

    def ticker(self, symbol: str) -> bytes:
        price: Price = self._fresh(symbol, price_key(symbol))
        return price.ticker.row

    def listing(self) -> Listing:
        with self._lock:
            if self._listing_expires_at > boot_s():
                return self._listing
        raise NotFresh("There is no fresh list of symbols; it is read once an hour.")

    def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of /health. Asks nobody: it looks at what the others noted."""
        symbols = self.settings.symbols
        weight, held_s, _ = self._limiter.state()
        with self._lock:
            now, wall = boot_s(), time.time()
            timeframes = {t.name: self._health_of(t.name, now) for t in self.settings.timeframes}
            prices = self._health_of("price", now)
            filled = self._filled
            problems = {what: problem for what, problem in self._problems.items() if problem}
            unknown = [symbol for symbol in symbols if self._is_unknown(symbol)]
            log_length, logged_total = self._log_length, self._logged_total
            leader = self._leader
        parts = [prices, *timeframes.values()]
        whole = all(part["fresh"] == len(symbols) and not part["failing"] for part in parts)
        nothing_fresh = filled and not all(part["fresh"] for part in timeframes.values())
        if "redis" in problems or nothing_fresh:
            status = "down"
        elif leader not in ("", self.token):
            status = "standby"
        elif not filled:
            status = "starting"
        else:
            status = "ok" if whole and not held_s and not problems else "degraded"
        return 200 if status in ("ok", "degraded", "standby") else 503, {
            "status": status,
            "leader": leader or None,
            "instance": self.token,
            "version": VERSION,
            "uptime_s": round(now - self._started_at, 1),
            "symbols": len(symbols),
            "unknown_symbols": unknown,
            "problems": problems,
            "timeframes": timeframes,
            "prices": prices,
            "redis": {
                "up": "redis" not in problems,
                "message_log_length": log_length,
                "operations_logged": logged_total,
            },
            "exchange": {
                "used_weight": weight,
                "weight_limit": self.settings.weight_limit,
                "hold_until": iso_ms(wall + held_s) if held_s else None,
                "hold_s": round(held_s, 1),
                "requests": self._binance.answers(),
            },
        }

    def _health_of(self, name: str, now: float) -> dict[str, Any]:
        """A timeframe's part of /health, or that of "price". Called with _lock held."""
        keys = self._keys(name)
        held = [self._held[key] for key in keys.values() if key in self._held]
        at = max((entry.asked_at for entry in held), default=None)
        body: dict[str, Any] = {
            "last_success": iso_ms(time.time() - (now - at)) if at else None,
            "age_s": round(now - at, 1) if at else None,
            "fresh": sum(entry.expires_at > now for entry in held),
        }
        if name != "price":
            count, seconds = self._refreshes.get(name, (0, 0.0))
            body |= {"refreshes": count, "refresh_seconds": round(seconds, 3)}
            body["candles"] = sum(
                len(entry.candles.times) for entry in held if isinstance(entry, Series)
            )
        errors = {symbol: self._failing.get(key) for symbol, key in keys.items()}
        return body | {"failing": {s: error.reason for s, error in errors.items() if error}}


# --- program ---


def notify_state(service: MarketData, late: bool) -> None:
    """Tell systemd how things stand; if `late`, that the service is ready, whatever it lacks."""
    code, health = service.health()
    fresh = " ".join(f"{k}={part['fresh']}" for k, part in health["timeframes"].items())
    lines = [f"STATUS={health['status']}: of {health['symbols']} symbols fresh {fresh}"]
    if "loops" not in health["problems"]:
        lines.append("WATCHDOG=1")
    if code == 200 or late:
        lines.append("READY=1")
    notify("\n".join(lines))


def once(settings: Settings) -> int:
    """Fill Redis once and print what came; 0 only if every series and price is there."""
    service = MarketData(settings, redis_log.connect(settings.redis_url))
    started = time.monotonic()
    service.claim()
    if service.stands_by():
        leader = service.health()[1]["leader"]
        raise RuntimeError(f"--once: {leader} is running and keeps Redis filled")
    for timeframe in settings.timeframes:
        service.refresh(timeframe)
    committed = service.commit()
    service.release()
    seconds = time.monotonic() - started
    service.stop(until=0.0)
    _, health = service.health()
    parts = {**health["timeframes"], "price": health["prices"]}
    print(f"{'':<6}{'fresh':>9}{'candles':>9}  failing")
    for name, part in parts.items():
        failing = "; ".join(f"{symbol}: {reason}" for symbol, reason in part["failing"].items())
        fresh = f"{part['fresh']} of {health['symbols']}"
        print(f"{name:<6}{fresh:>9}{part.get('candles', ''):>9}  {failing}".rstrip())
    print(
        f"{'in' if committed else 'NOT in'} Redis after {seconds:.1f} s  "
        + "; ".join(health["problems"].values())
    )
    complete = all(part["fresh"] == health["symbols"] for part in parts.values())
    return 0 if committed and complete else 1


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the handlers only note, this thread acts."""
    received: list[tuple[int, float]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: received.append((signum, time.monotonic())))
    # Each writes to it a byte, so that also one that comes just before a wait ends it.
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    service = MarketData(settings, redis_log.connect(settings.redis_url))
    host, port = settings.health_host, settings.health_port
    names = [timeframe.name for timeframe in settings.timeframes]
    api = LocalApi(service, settings.symbols, names, settings.candle_limit)
    try:
        server = HealthServer(host, port, service.health, api.answer)
    except OSError as error:
        raise RuntimeError(
            f"cannot listen on HEALTH_HOST={host} HEALTH_PORT={port}: {error.strerror}"
        ) from error
    event(
        logging.INFO,
        "start",
        version=VERSION,
        exchange=settings.binance_base_url,
        redis=redact(settings.redis_url),
        health=f"{server.url}/health",
        symbols=len(settings.symbols),
        timeframes=",".join(names),
    )
    server.start()
    service.claim()
    service.start()
    ready_by = time.monotonic() + READY_AFTER_S
    while not received:
        if select.select([awake], [], [], KEEP_S)[0]:
            continue
        try:
            service.keep()
        except Exception as error:  # a bug, which must not end the program
            log_bug(error)
        if os.environ.get("NOTIFY_SOCKET"):
            notify_state(service, time.monotonic() > ready_by)
    signum, received_at = received[0]
    event(logging.INFO, "stop", signal=signal.Signals(signum).name)
    notify("STOPPING=1")
    service.stop(until=received_at + STOP_WITHIN_S)
    service.release()
    server.stop()
    event(logging.INFO, "stopped")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Brings candles and prices of Binance.US to Redis, for everyone to read there.",
        epilog="Settings are environment variables, all optional: see README.md.",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="fill Redis once, say what came, exit")
    mode.add_argument("--check", action="store_true", help="check all there is, write nothing")
    embed = "start a private Redis at REDIS_URL if none is there"
    parser.add_argument("--embedded-redis", action="store_true", help=embed)
    parser.add_argument("--version", action="version", version=f"coinex-market-data {VERSION}")
    arguments = parser.parse_args(argv)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        for problem in error.args:
            complain("market_data", problem)
        return 2
    gc.freeze()  # what is there now stays: not to be looked through again, 30 ms at a time
    run = once if arguments.once else check if arguments.check else serve
    code = 0 if run is serve else 143  # serve soon has a handler of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
    write_to(sys.stdout if run is serve else sys.stderr, settings.log_level)
    try:
        with embedded_redis(settings.redis_url) if arguments.embedded_redis else nullcontext():
            return run(settings)
    except RuntimeError as error:
        complain("market_data", str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit:  # not to be passed on: Python would wait for the workers
        return code


if __name__ == "__main__":
    exit_code = main()
    with suppress(OSError, AttributeError):  # None where stdout is closed
        sys.stdout.flush()
    os._exit(exit_code)  # a worker may still be in a request, and Python would wait for its end
