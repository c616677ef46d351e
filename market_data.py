"""The market data service: candles and prices of Binance.US into Redis, for everyone else to read.

The table of contents. One refresh is three lines in `MarketData.refresh`:

    fetcher.py       reads from the exchange     over binance_client.py and binance_answers.py
    store.py         judges and holds            by judge.py; candles.py
    redis_writer.py  sends to Redis              over redis_log.py, as lease.py allows

Each timeframe has a loop of its own, which calls `refresh`; the main thread calls `maintain` once a
second: lease, Redis, holds, loops that hang, the watchdog. HTTP threads only read: health.py,
local_api.py. What journal and systemd hear is in journal.py; settings.py, env_file.py,
show_settings.py, check.py and embedded_redis.py are what their names say.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import redis

import redis_log
from binance_answers import CLOCK_SKEW_MS, BinanceError
from binance_client import BinanceClient
from candles import boot_s
from check import check
from embedded_redis import embedded_redis
from env_file import use_env_file
from environment import Environment, SettingsError
from fetcher import GIVE_UP_SHARE, Fetcher
from health import HealthServer, View, report
from journal import CannotRun, Problems, complain, event, log_bug, notify, write_to
from lease import Lease
from local_api import LocalApi
from rate_limiter import RateLimiter
from redis_log import LoggedRedis, redact
from redis_writer import MAINTAIN_EVERY_S, RedisWriter
from settings import VERSION, Settings, Timeframe
from show_settings import show_settings
from store import Store

# A loop that is late by this hangs. Waiting for a Redis that does not answer takes less.
HANG_S = 15.0
# The longest wait for the next refresh after one that brought nothing.
RETRY_S = 30.0
# The longest that a loop sleeps without a look at the wall clock, which may have been set.
WAKE_S = 2.0
LISTING_EVERY_S, LISTING_RETRY_S = 3600.0, 300.0
# systemd hears READY after this long even without a complete first fill.
READY_AFTER_S = 60.0
STOP_WITHIN_S = 4.0


class RefreshLoop(threading.Timer):
    """Calls `refresh(timeframe)` at once, then at each multiple of the interval plus an offset.

    After a refresh that brought nothing (False) it tries again within RETRY_S. Unlike Timer's, this
    `run` repeats until `cancel`, on one thread. Due times are absolute, by the wall clock: no
    drift, and a missed tick is skipped. A clock that is set back makes one refresh come early.
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
        # The loop hangs if it does nothing until then (monotonic). The loop writes it and the main
        # thread reads it; one float needs no lock.
        self.hangs_at = math.inf
        # Refresh without waiting for the next tick. Set by whoever learns of a new leader, cleared
        # by the loop; one flag needs no lock.
        self.at_once = False

    def run(self) -> None:
        while not self.finished.is_set():
            self.at_once = False
            brought = self._refresh_once()
            self._wait_for_tick(self.interval if brought else min(self.interval, RETRY_S))

    def _refresh_once(self) -> bool:
        """One refresh: whether it brought anything."""
        started, brought = time.monotonic(), True
        self.hangs_at = started + GIVE_UP_SHARE * self.interval + HANG_S
        try:
            brought = self.function(*self.args)
        except Exception as error:  # a bug, which must not end the loop
            log_bug(error)
        if missed := int((time.monotonic() - started) / self.interval):
            event(logging.WARNING, "ticks_skipped", loop=self.name, count=missed)
        return brought

    def _wait_for_tick(self, interval: float) -> None:
        """Wait for the next multiple of `interval`, for `at_once`, or for the end."""
        ticks = math.floor((self._wall_clock() - self._offset_s) / interval) + 1
        due = ticks * interval + self._offset_s
        # Without this bound, a clock that is set back by an hour would stop the loop for an hour.
        latest = time.monotonic() + due - self._wall_clock() + WAKE_S
        self.hangs_at = latest + HANG_S
        while not self.at_once and time.monotonic() < latest:
            if (left_s := due - self._wall_clock()) <= 0:
                return
            # In short waits, because one does not count the time of a suspended machine.
            if self.finished.wait(min(left_s, WAKE_S)):
                return


class MarketData:
    """The service: its parts, wired together, and its life."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self.problems = Problems()
        self.store = Store(settings)
        # Called by the thread that claims, the main one or a committing loop: `on_passed` before a
        # new leader is visible, if another instance led since we did; `on_change` after that.
        self.lease = Lease(
            client,
            settings.leader_key,
            settings.leader_ttl,
            on_passed=self.store.forget,
            on_change=self._wake_loops,
        )
        self.limiter = RateLimiter(
            settings.weight_limit, travel_s=settings.request_timeout, wait=self.stopping.wait
        )
        self.exchange = BinanceClient(
            settings.binance_base_url,
            self.limiter,
            timeout_s=settings.request_timeout,
            wait=self.stopping.wait,
            user_agent=f"coinex-market-data/{VERSION}",
            connections=settings.max_workers,
        )
        self.fetcher = Fetcher(settings, self.exchange, self.store)
        log_key = settings.message_log_key
        self.logged = LoggedRedis(
            client, "market-data", log_key=log_key, log_maxlen=settings.message_log_maxlen
        )
        self.writer = RedisWriter(
            client, self.logged, settings, self.store, self.limiter, self.lease, self.problems
        )
        offset_s = settings.refresh_offset_ms / 1000
        self.loops = [RefreshLoop(t, offset_s, self.refresh) for t in settings.timeframes]
        self._started_at = boot_s()
        # Monotonic; only used by the loop that reads prices.
        self._listing_due_at = self._listing_again_at = 0.0

    def refresh(self, timeframe: Timeframe) -> bool:
        """Read what may have changed in `timeframe` and bring it to Redis: a loop's one turn.
        False if nothing could be read."""
        if self.lease.stands_by():
            return True
        started = time.monotonic()
        with suppress(redis.RedisError):  # commit will tell
            self.writer.learn()
        results = self.fetcher.read(timeframe)
        update = self.store.take(timeframe, results, started)
        self.writer.commit()
        event(
            logging.INFO if update.updated else logging.DEBUG,  # if not, fetch_failing has said so
            "refresh",
            timeframe=timeframe.name,
            updated=len(update.updated),
            failed=len(update.failed),
            duration_ms=update.duration_ms,
            weight=self.limiter.state().used_weight,
        )
        if timeframe == self.settings.price_timeframe and self._listing_is_due(started):
            self._read_listing(give_up_at=started + GIVE_UP_SHARE * timeframe.refresh_s)
        return bool(update.updated)

    def _listing_is_due(self, now: float) -> bool:
        """Once an hour, and soon after a market stopped, to learn whether it was halted."""
        unexplained = now >= self._listing_again_at and self.store.has_unexplained()
        return unexplained or now >= self._listing_due_at

    def _read_listing(self, give_up_at: float) -> None:
        """Which symbols are listed but not traded, and the limits of this address."""
        self._listing_due_at = self._listing_again_at = time.monotonic() + LISTING_RETRY_S
        if self.stopping.is_set():
            return
        try:
            listing = self.fetcher.listing(give_up_at)
        except BinanceError as error:
            event(logging.DEBUG, "listing_unread", reason=error.reason)
            return
        self._listing_due_at = time.monotonic() + LISTING_EVERY_S
        self.store.take_listing(listing)
        for symbol in self.settings.symbols:  # one that is not listed is in unknown_symbols
            status = listing.statuses.get(symbol, "TRADING")
            reason = "" if status == "TRADING" else f"is not traded but {status}"
            self.problems.note(symbol, reason)

    def maintain(self) -> None:
        """Once a second: loops that hang, holds, standstill and clock of the exchange, lease and
        Redis, the log."""
        now = time.monotonic()
        hanging = [loop.name for loop in self.loops if now > loop.hangs_at]
        self.problems.note("loops", f"hanging: {' '.join(hanging)}" if hanging else "")
        self.problems.note("exchange", self._hold())
        self.problems.note("standstill", self.store.standstill())
        self.problems.note("clock", self._clock())
        self.writer.maintain()
        self.problems.note("message_log", self.logged.log_error)

    def _hold(self) -> str:
        """Until when and why the exchange is not asked, "" if it is."""
        _, hold_s, status, _ = self.limiter.state()
        words = self.exchange.last_refusal()
        why = words if words.startswith(f"HTTP {status}") else f"HTTP {status}"
        return f"on hold for {hold_s:.0f} s after {why}" if hold_s else ""

    def _clock(self) -> str:
        offset_s = self.exchange.clock_offset_s() or 0.0
        if abs(offset_s) * 1000 <= CLOCK_SKEW_MS:
            return ""
        return f"the exchange's is {offset_s:+.0f} s off this machine's: use NTP"

    def view(self) -> View:
        """What /health and /metrics are made of."""
        limiter = self.limiter.state()
        return View(
            settings=self.settings,
            store=self.store.view(),
            instance=self.lease.token,
            leader=self.lease.leader,
            problems=self.problems.now(),
            limiter=limiter,
            clock_offset_s=self.exchange.clock_offset_s(),
            requests=self.exchange.answers(),
            message_log_length=self.writer.log_length,
            operations_logged=self.writer.operations_logged,
            started_at=self._started_at,
            now=boot_s(),
            wall_s=time.time(),
        )

    def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of /health."""
        return report(self.view())

    def other_leader(self) -> str:
        """The token of another instance that leads, or ""."""
        return self.lease.other_leader()

    def claim(self) -> None:
        """Take the lease before anything is fetched. Without Redis it is taken later."""
        try:
            self.lease.claim()
        except redis.RedisError as error:
            self.problems.note("redis", error)

    def start(self) -> None:
        self.claim()
        for loop in self.loops:
            loop.start()

    def stop(self, until: float) -> None:
        """End the loops and give the lease back. A refresh in flight may end, but waits for no hold
        and no retry. What is not done by `until` (monotonic) is left undone."""
        self.stopping.set()
        for loop in self.loops:
            loop.cancel()
        for loop in self.loops:
            if loop.is_alive():
                loop.join(max(0.0, until - time.monotonic()))
        self.fetcher.stop()
        self.writer.note_hold()
        with suppress(redis.RedisError):
            self.lease.release()

    def _wake_loops(self) -> None:
        for loop in self.loops:
            loop.at_once = True


def notify_state(service: MarketData, url: str, late: bool) -> None:
    """Tell systemd how things stand and where; if `late`, that the service is ready, whatever it
    lacks."""
    code, health = service.health()
    fresh = " ".join(f"{k}={part['fresh']}" for k, part in health["timeframes"].items())
    lines = [f"STATUS={health['status']}: of {health['symbols']} symbols fresh {fresh} at {url}"]
    if "loops" not in health["problems"]:
        lines.append("WATCHDOG=1")
    if code == 200 or late:
        lines.append("READY=1")
    notify("\n".join(lines))


def once(settings: Settings) -> int:
    """Fill Redis once and print what came; 0 only if every series and price is there that should
    be."""
    service = MarketData(settings, redis_log.connect(settings.redis_url))
    started = time.monotonic()
    try:
        for timeframe in settings.timeframes:
            service.claim()
            if leader := service.other_leader():
                raise CannotRun(f"--once: {leader} is running and keeps Redis filled")
            service.refresh(timeframe)
        committed = service.writer.commit()
    finally:
        service.stop(until=0.0)
    seconds = time.monotonic() - started
    _, health = service.health()
    parts = {**health["timeframes"], "price": health["prices"]}
    print(f"{'':<6}{'fresh':>9}{'candles':>9}  failing")
    for name, part in parts.items():
        fresh = f"{part['fresh']} of {part['expected']}"
        failing = "; ".join(_by_reason(part["failing"]))
        print(f"{name:<6}{fresh:>9}{part.get('candles', ''):>9}  {failing}".rstrip())
    print(
        f"{'in' if committed else 'NOT in'} Redis after {seconds:.1f} s  "
        + "; ".join(f"{what}: {reason}" for what, reason in health["problems"].items())
    )
    complete = all(part["fresh"] >= part["expected"] for part in parts.values())
    return 0 if committed and complete else 1


def _by_reason(failing: dict[str, str]) -> list[str]:
    """Each reason once, behind its symbols. The journal names those that are many."""
    symbols: dict[str, list[str]] = {}
    for symbol, reason in failing.items():
        symbols.setdefault(reason, []).append(symbol)
    return [
        f"{', '.join(named) if len(named) <= 3 else f'{len(named)} symbols'}: {reason}"
        for reason, named in symbols.items()
    ]


class Signals:
    """The SIGTERMs and SIGINTs that come from now on. Their handler only notes: an exception raised
    in one can get lost, and then the program would never end."""

    def __init__(self) -> None:
        self.received: list[tuple[int, float]] = []  # and when, monotonic
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda signum, _: self._note(signum))
        # Each signal writes a byte to it, so one that comes just before a wait ends it, too.
        self._awake, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())

    def _note(self, signum: int) -> None:
        self.received.append((signum, time.monotonic()))

    def wait(self, seconds: float) -> bool:
        """Wait for a signal, at most `seconds`; True if there is one."""
        return bool(select.select([self._awake], [], [], seconds)[0])


def serve(settings: Settings, signals: Signals) -> int:
    """Run until a signal."""
    service = MarketData(settings, redis_log.connect(settings.redis_url))
    server = _listen(service)
    server.start()
    service.start()
    ready_by = time.monotonic() + READY_AFTER_S
    while not signals.wait(MAINTAIN_EVERY_S):
        try:
            service.maintain()
            if os.environ.get("NOTIFY_SOCKET"):
                notify_state(service, server.url, time.monotonic() > ready_by)
        except Exception as error:  # a bug, which must not end the program
            log_bug(error)
    signum, received_at = signals.received[0]
    event(logging.INFO, "stop", signal=signal.Signals(signum).name)
    notify("STOPPING=1")
    service.stop(until=received_at + STOP_WITHIN_S)
    server.stop()
    event(logging.INFO, "stopped")
    return 0


def _listen(service: MarketData) -> HealthServer:
    """The server of /health, /metrics and /api/v3/. Raises CannotRun if it cannot listen."""
    host, port = service.settings.health_host, service.settings.health_port
    api = LocalApi(service.settings, service.store, service.other_leader)
    try:
        server = HealthServer(
            host, port, service.health, api.answer, service.settings.allowed_hosts
        )
    except OSError as error:
        raise CannotRun(
            f"cannot listen on HEALTH_HOST={host} HEALTH_PORT={port}: {error.strerror}"
        ) from error
    event(
        logging.INFO,
        "start",
        version=VERSION,
        exchange=service.settings.binance_base_url,
        redis=redact(service.settings.redis_url),
        health=f"{server.url}/health",
        symbols=len(service.settings.symbols),
        timeframes=",".join(timeframe.name for timeframe in service.settings.timeframes),
    )
    return server


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Brings candles and prices of Binance.US to Redis, for everyone to read there.",
        epilog="Settings are environment variables: see coinex-market-data.env.example.",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="fill Redis once, say what came, exit")
    mode.add_argument("--check", action="store_true", help="check all there is, write nothing")
    mode.add_argument("--settings", action="store_true", help="print the settings in force, exit")
    instead = "take settings from FILE, as systemd reads it, and none from the environment"
    parser.add_argument("--env-file", metavar="FILE", type=Path, help=instead)
    embed = "start a private Redis at REDIS_URL if none is there"
    parser.add_argument("--embedded-redis", action="store_true", help=embed)
    parser.add_argument("--version", action="version", version=f"coinex-market-data {VERSION}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        if arguments.env_file:
            use_env_file(arguments.env_file, os.environ)
        env = Environment(os.environ)
        if arguments.settings:
            return show_settings(env, "file" if arguments.env_file else "environment")
        settings = Settings.read(env)
    except SettingsError as error:
        for problem in error.args:
            complain("market_data", problem)
        return 2
    gc.freeze()  # keeps what exists at the start out of later collections, 30 ms each
    if arguments.once or arguments.check:
        run = once if arguments.once else partial(check, env=env)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        write_to(sys.stderr, settings.log_level)
    else:
        run = partial(serve, signals=Signals())
        write_to(sys.stdout, settings.log_level)
    if not arguments.check:
        env.warn()
    try:
        with embedded_redis(settings.redis_url) if arguments.embedded_redis else nullcontext():
            return run(settings)
    except CannotRun as error:
        complain("market_data", str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit:  # not to be passed on: Python would wait for the workers
        return 143


if __name__ == "__main__":
    try:
        exit_code = main()
    except BrokenPipeError:  # the reader, say head, has closed the pipe
        exit_code = 0
    logging.shutdown()
    with suppress(OSError, AttributeError):  # None where stdout is closed
        sys.stdout.flush()
    os._exit(exit_code)  # a worker may still be in a request, and Python would wait for its end
