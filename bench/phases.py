"""The measurements of the contenders, and their schedule."""

from __future__ import annotations

import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import redis

from bench.hour import (
    an_hour,
    hourly_extras,
    kinds_between,
    refresh_lines,
    refreshes_an_hour,
    refreshes_seen,
)
from bench.measure import Program, Publishes, Stage
from bench.programs import BEFORE, LIMIT, QUICK, SERVICE, SYMBOLS, Contender, Run, Schedule
from bench.tls import PLAIN
from demo import market
from redis_log import LoggedRedis, connect, read_log
from settings import LISTING_WEIGHT

STARTED_AT_S = 4.0  # after a tick, to keep contenders apart from the service and each other
WINDOW_AFTER_S = 56.0  # by then all have started
PHASES = 4  # of a poller, relative to the close of a candle, as if started at any moment
FILLED_AFTER_S = 8.0  # by then the service and all programs of QUICK have done their first fill
QUICK_WINDOW_S = 30
LOG_LENGTH, LOG_QUERIES = 10_000, 200


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)


def sleep_until(at: float) -> None:
    """Sleep until `at`, epoch seconds."""
    time.sleep(max(0.0, at - time.time()))


# --- steady state: counts, bytes, CPU and memory ---


class Steady:
    """A contender in steady state: `figures` are those of the window from `begin` to `end`."""

    def __init__(self, contender: Contender, stage: Stage) -> None:
        self.contender, self.stage = contender, stage
        self.programs: list[Program] = []

    def start(self, stack: ExitStack, runs: Iterable[Run], **environ: str) -> None:
        self.programs += [
            stack.enter_context(run.start(self.stage, counted=True, **environ)) for run in runs
        ]

    def filled(self) -> None:
        """Note the CPU time of the start and the first fill; to be called soon after them."""
        self._fill_cpu_s = sum(program.cpu_s() for program in self.programs)

    def begin(self) -> None:
        for program in self.programs:
            program.check()
        self.began, self._before = time.time(), self.stage.totals()
        self._counts = self.stage.proxy.counts.refreshes()
        self._start_cpu_s = sum(program.cpu_s() for program in self.programs)

    def end(self) -> None:
        self.window_s = time.time() - self.began
        for program in self.programs:
            program.check()
        self._cpu_s = sum(program.cpu_s() for program in self.programs) - self._start_cpu_s
        self._peak_mb = sum(program.peak_mb() for program in self.programs)
        self._after = self.stage.totals()
        self._counts = self.stage.proxy.counts.refreshes() - self._counts
        self._weight = self._after["weight"] - self._before["weight"]
        self._kinds = kinds_between(self._before, self._after)
        self._requests = max(1, sum(kind.requests for kind in self._kinds.values()))

    def _refused(self) -> int:
        return sum(n for status, n in self._after["statuses"].items() if status != "200")

    def figures(self) -> dict[str, float]:
        """Figures of an hour, whatever part of the schedule the window had, and of a refresh."""
        kinds, first = self._kinds, kinds_between({}, self._before)
        hourly, by_name = refreshes_an_hour(self.contender.runs()), refreshes_seen(kinds)
        if hourly.keys() != by_name.keys():  # the hour would lack this timeframe
            raise RuntimeError(f"{self.contender.title}: in the window only {dict(by_name)}")
        seen = by_name.total()
        requests, sent = an_hour(kinds, hourly)
        weight = requests * self._weight / self._requests
        cpu_s = self._cpu_s * hourly.total() / seen
        if self.contender == SERVICE:
            more_requests, more_sent = hourly_extras(first, kinds)
            requests, sent = requests + more_requests, sent + more_sent
            weight += LISTING_WEIGHT
            cpu_s += self._fill_cpu_s  # includes the start, so more than the hourly read
        return {
            "requests_h": requests,
            "weight_h": weight,
            "bytes_h": sent,
            "cpu_h_s": cpu_s,
            "peak_mb": self._peak_mb,
            "refused": self._refused(),
            "refreshes": seen,
            "turns": self._counts["turns"] / seen,
            "commands": self._counts["commands"] / seen,
        }

    def growth_figures(self) -> dict[str, Any]:
        """Figures of the service with more symbols, among them from its log the duration of
        refreshes in ms, and failures."""
        took: dict[str, list[int]] = {}
        failed, failed_at_start, skipped = 0, 0, 0
        for at, said in refresh_lines(self.stage.log.read_text()):
            inside = at >= self.began
            if said["event"] == "ticks_skipped":
                skipped += inside
            elif inside:
                failed += int(said["failed"])
                took.setdefault(said["timeframe"], []).append(int(said["duration_ms"]))
            else:
                failed_at_start += int(said["failed"])
        return {
            "cpu_share": self._cpu_s / self.window_s,
            "peak_mb": self._peak_mb,
            "weight_min": self._weight * 60 / self.window_s,
            "requests_5min": self._requests * 300 / self.window_s,
            "median_ms": {name: statistics.median(ms) for name, ms in took.items()},
            "longest_ms": {name: max(ms) for name, ms in took.items()},
            "failed": failed,
            "failed_at_start": failed_at_start,
            "skipped": skipped,
            "refused": self._refused(),
        }


def compressed(run: Run) -> Run:
    """The same run at a sixth of the intervals, shorter than the window but within the limits."""
    schedule = {
        name: (min(every // 6, QUICK_WINDOW_S - 5), ttl)
        for name, (every, ttl) in run.schedule.items()
    }
    return Run(run.module, schedule, run.prefix, run.option)


# --- freshness ---


def freshness_runs(contender: Contender) -> list[Run]:
    """Programs with a 1m timeframe: each poller in several phases relative to the close of a
    candle; the service aligns itself with the wall clock."""
    if contender == SERVICE:
        return [Run("market_data.py", {"1m": (30, 120)}, "market")]
    schedules: list[Schedule] = [{"1m": (30, 120)}]
    if contender == BEFORE:
        schedules += [{"1m": (60, 120), "1h": (60, 120), "4h": (60, 120)}]
    return [
        Run(contender.module, schedule, f"{contender.key}{number}x{phase}", contender.option)
        for number, schedule in enumerate(schedules)
        for phase in range(PHASES)
    ]


def delays(log: Path) -> list[float]:
    """The delays that bench.freshness printed, in seconds."""
    return [float(found[1]) for found in re.finditer(r"^\w+ ([0-9.]+)$", log.read_text(), re.M)]


# --- times, one contender at a time ---


class Fill(NamedTuple):
    """From the start of a contender's programs until the last series is in Redis and published."""

    seconds: float
    peak_mb: float


def cold_fill(contender: Contender, stage: Stage, transport: str = PLAIN) -> Fill:
    stage.client.flushall()
    with ExitStack() as stack:
        publishes = stack.enter_context(Publishes(stage))
        runs = contender.runs()
        missing = set.union(*(run.channels() for run in runs))
        programs = [stack.enter_context(run.start(stage, transport=transport)) for run in runs]
        at = 0.0
        while missing:
            heard = publishes.next(within_s=60)
            if heard is None:
                raise RuntimeError(f"{contender.title}: no {missing} within 60 s")
            missing.discard(heard[0])
            at = heard[1]
        peak_mb = sum(program.peak_mb() for program in programs)
        _check_filled(runs, stage)
        return Fill(at - programs[0].started_at, peak_mb)


def _check_filled(runs: Iterable[Run], stage: Stage) -> None:
    for run in runs:
        for name in run.schedule:
            keys = [f"{run.prefix}:ohlcv:{symbol}:{name}" for symbol in market.symbols(SYMBOLS)]
            values: Any = stage.client.mget(keys)
            counts = {len(json.loads(value or b"[]")) for value in values}
            if counts != {LIMIT}:
                raise RuntimeError(f"{run.module}: {name} has {counts} candles a series")


class Refreshes(NamedTuple):
    """Several refreshes of 29 symbols in one timeframe: the seconds of each, from its first request
    until its publish arrives, and the CPU time of one, what the program does in between included.
    """

    seconds: list[float]
    cpu_s: float


def refreshes(contender: Contender, stage: Stage, times: int, transport: str = PLAIN) -> Refreshes:
    every_s = 4 if contender.module in ("before", "ccxt_sync") else 2
    run = Run(contender.module, {"5m": (every_s, 60)}, contender.runs()[0].prefix, contender.option)
    stage.client.flushall()
    with Publishes(stage) as publishes, run.start(stage, transport=transport) as program:
        ends, filled_cpu_s = [_publish_at(publishes)], program.cpu_s()
        ends += [_publish_at(publishes) for _ in range(times)]
        cpu_s = program.cpu_s() - filled_cpu_s
    asked = [r["at"] for r in stage.totals()["requests"] if "exchangeInfo" not in r["path"]]
    return Refreshes(spans(asked, ends), cpu_s / times)


def _publish_at(publishes: Publishes) -> float:
    heard = publishes.next(within_s=30)
    if heard is None:
        raise RuntimeError("no refresh within 30 s")
    return heard[1]


def spans(asked: Sequence[float], ends: Sequence[float]) -> list[float]:
    """Seconds from the first of `asked` after each end to the next end."""
    found = []
    for before, end in pairwise(ends):
        first = min((at for at in asked if before < at < end), default=None)
        if first is not None:
            found.append(end - first)
    return found


# --- the message log ---


def log_queries_ms(stage: Stage) -> tuple[list[float], list[float]]:
    """How long `read_log` takes, in ms, over full streams: for a common type that no entry has, and
    for a rare type that all entries of its stream have."""
    stage.client.flushall()
    client = connect(stage.redis_url)
    logged = LoggedRedis(client, "market-data", log_maxlen=LOG_LENGTH)
    summary = "500 candles to 2026-11-24T03:07:00.000Z"
    for type_ in ("error", "cache_write"):  # the second fills the log, and leaves the errors alone
        for _ in range(LOG_LENGTH // 500 + 1):
            batch = logged.batch()
            for symbol in market.symbols(500):
                key = f"market:ohlcv:{symbol}:5m"
                batch.entries.append(batch._entry(type_, key, summary, 52_000))
            logged.send(batch)
    gc.freeze()  # as consumers/program.py does for the programs that make such queries
    return _query_ms(client, "cache_read"), _query_ms(client, "error")


def _query_ms(client: redis.Redis, type_: str) -> list[float]:
    took = []
    for _ in range(LOG_QUERIES):
        started = time.perf_counter()
        read_log(client, limit=20, type=type_)
        took.append((time.perf_counter() - started) * 1000)
    return took


# --- all at the same time ---


class Together:
    """A window of steady state with the real intervals: all contenders, the freshness of each,
    and the service with more symbols, each with an exchange and a Redis of its own.

    They start at different moments, so that no refresh waits for one of another program.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        contenders: Sequence[Contender],
        stages: Mapping[str, Stage],
        growth: Sequence[int],
    ) -> None:
        self._stack, self._folder, self._contenders = stack, folder, contenders
        self._pollers: list[Program] = []
        self._steady = {c.key: Steady(c, stages[c.key]) for c in contenders}
        self._fresh = {
            c.key: Stage(stack, folder, f"fresh-{c.key}", prepare="1m,1h,4h") for c in contenders
        }
        self._grown = {
            n: Steady(SERVICE, Stage(stack, folder, f"growth-{n}", symbols=n)) for n in growth
        }
        for own in [*self._steady.values(), *self._grown.values()]:
            own.stage.wait()
        for stage in self._fresh.values():
            stage.wait()

    def measure(self, tick: float, window_s: float) -> dict[str, Any]:
        """The figures of a window of `window_s`; the first programs start at `tick`, a half minute
        in epoch seconds."""
        starts = [start for place in range(len(self._contenders)) for start in self._starts(place)]
        for n, own in self._grown.items():
            environ = {
                "SYMBOLS": ",".join(market.symbols(n)),
                "REFRESH_OFFSET_MS": "10000",
                "LOG_LEVEL": "DEBUG",  # also says refreshes that updated nothing
            }
            starts.append((0.0, partial(own.start, self._stack, SERVICE.runs(), **environ)))
        starts.append((FILLED_AFTER_S, self._steady[SERVICE.key].filled))
        for after_s, start in sorted(starts, key=lambda each: each[0]):
            sleep_until(tick + after_s)
            start()
        sleep_until(tick + WINDOW_AFTER_S)
        say(f"all programs run; measuring {window_s:.0f} s of steady state")
        windows = [*self._steady.values(), *self._grown.values()]
        for own in windows:
            own.begin()
        sleep_until(windows[0].began + window_s)
        for own in windows:
            own.end()
        for poller in self._pollers:
            poller.check()
        return {
            "steady": {key: own.figures() for key, own in self._steady.items()},
            "fresh": {c.key: delays(self._log(c)) for c in self._contenders},
            "growth": {str(n): own.growth_figures() for n, own in self._grown.items()},
        }

    def _log(self, contender: Contender) -> Path:
        return self._folder / f"delays-{contender.key}.log"

    def _starts(self, place: int) -> Iterator[tuple[float, Callable[[], Any]]]:
        """For the contender at `place`: (seconds after the tick, function that starts programs)."""
        contender = self._contenders[place]
        own, stage = self._steady[contender.key], self._fresh[contender.key]
        apart_s = 0.0 if contender == SERVICE else STARTED_AT_S + place / 2
        # Not at the same moment as the service whose freshness is measured.
        environ = {"REFRESH_OFFSET_MS": "2500"} if contender == SERVICE else {}
        yield apart_s, partial(own.start, self._stack, contender.runs(), **environ)
        reader = [
            sys.executable,
            "-m",
            "bench.freshness",
            stage.redis_url,
            ",".join(market.symbols(SYMBOLS)),
        ]
        self._stack.enter_context(Program(self._log(contender), reader))
        for number, run in enumerate(freshness_runs(contender)):
            every_s = max(every for every, _ in run.schedule.values())
            phase_s = number % PHASES * every_s / PHASES
            yield apart_s + phase_s, partial(self._start_fresh, run, stage)

    def _start_fresh(self, run: Run, stage: Stage) -> None:
        self._pollers.append(self._stack.enter_context(run.start(stage)))


def quickly(stack: ExitStack, stages: Mapping[str, Stage]) -> dict[str, dict[str, float]]:
    """Only counts, from a short window with short intervals; an hour has the real intervals."""
    steady = {c.key: Steady(c, stages[c.key]) for c in QUICK}
    for own in steady.values():
        own.start(stack, [compressed(run) for run in own.contender.runs()])
    time.sleep(FILLED_AFTER_S)
    for own in steady.values():
        own.filled()
        own.begin()
    time.sleep(QUICK_WINDOW_S)
    for own in steady.values():
        own.end()
    return {key: own.figures() for key, own in steady.items()}
