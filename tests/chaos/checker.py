"""Compares the contents of Redis with the truth, and keeps a verdict on each promise.

The `judge_` functions decide from their arguments alone; Checker and Listener only observe, each
in its own thread and on its own connection. The truth is the exchange without faults
(`Exchange.klines`) and the Record of the run.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import psutil
import redis

import redis_log
from binance_answers import LIMITS, TIMEFRAME_MS
from candles import PRICE, PRICE_TTL_S, Feed
from demo.exchange import Exchange
from settings import DEFAULT_LEADER_KEY, Timeframe
from tests.chaos.record import Asked, Record

LOOK_S = 0.5  # twice a second
SHOWN = 3  # the first violations of each promise
# Tolerance for the expiry of a key: the service computes that instant while its threads share a
# busy processor, and PTTL and TIME round to a millisecond.
EXPIRY_SLACK_S = 0.25
# A request that is in flight when another one is refused cannot know about the refusal.
IN_FLIGHT_S = 1.0  # the longest a request may take (REQUEST_TIMEOUT)
# The exchange counts Retry-After by the wall clock, the service by the monotonic clock.
CLOCK_SLACK_S = 0.1
MIN_SAMPLES = 24  # to judge a process, which fills its caches in the first quarter of its life
MEMORY_SLACK_B = 16_000_000  # three of the largest answers, which workers may be holding
THREADS_SLACK = 2  # an HTTP request, and a worker that was not needed before

Truth = Mapping[int, tuple[float, ...]]  # by open time in ms: open, high, low, close, volume


class Verdict:
    """How often a promise was checked, and its violations. Thread-safe."""

    def __init__(self, promise: str) -> None:
        self.promise, self.checks, self.broken = promise, 0, 0
        self.shown: list[str] = []
        self._lock = threading.Lock()

    def check(self, kept: bool, what: str) -> None:
        """Count a check; `what` describes the violation if the promise is not `kept`."""
        with self._lock:
            self.checks += 1
            self.broken += not kept
            if not kept and len(self.shown) < SHOWN:
                self.shown.append(what)

    @property
    def fine(self) -> bool:
        """A promise that was never checked does not count as kept."""
        return self.checks > 0 and not self.broken


@dataclass
class Verdicts:
    truth: Verdict = field(default_factory=lambda: Verdict("closed candles equal the exchange's"))
    order: Verdict = field(default_factory=lambda: Verdict("candles ascend, none of the future"))
    expiry: Verdict = field(default_factory=lambda: Verdict("no key outlives its TTL"))
    publishes: Verdict = field(default_factory=lambda: Verdict("a publish comes after its writes"))
    log: Verdict = field(default_factory=lambda: Verdict("log entries = operations that happened"))
    holds: Verdict = field(default_factory=lambda: Verdict("no request while banned or held"))
    weight: Verdict = field(default_factory=lambda: Verdict("weight within the limit in any 60 s"))
    fresh: Verdict = field(default_factory=lambda: Verdict("all fresh a refresh after the faults"))
    flat: Verdict = field(default_factory=lambda: Verdict("threads and memory are flat"))
    exits: Verdict = field(default_factory=lambda: Verdict("SIGTERM ends it with exit code 0"))
    bugs: Verdict = field(default_factory=lambda: Verdict("no defect is logged"))

    def all(self) -> list[Verdict]:
        return list(vars(self).values())


class Seen(NamedTuple):
    """A key as read at `now`, in epoch seconds of Redis' clock; it expires at `expires_at`."""

    key: str
    value: str
    now: float
    expires_at: float


# --- judging the contents of Redis ---


def judge_series(
    verdicts: Verdicts, seen: Seen, timeframe: Timeframe, truth: Truth, record: Record, limit: int
) -> None:
    """Judge the candles of one key. `truth` reaches further back than its `limit` candles."""
    symbol, step_ms = seen.key.split(":")[2], TIMEFRAME_MS[timeframe.name]
    candles = {c.pop("timestamp"): tuple(c.values()) for c in json.loads(seen.value)}
    times = list(candles)
    rising = seen.value.count('"timestamp"') == len(times) and all(
        a < b for a, b in pairwise(times)
    )
    verdicts.order.check(
        rising and times[-1] <= seen.now * 1000 and all(t % step_ms == 0 for t in times),
        f"{seen.key} at {seen.now:.3f}: {times[-3:]}",
    )
    # The request was sent no earlier than this, unless the key outlives its TTL.
    asked_at = seen.expires_at - timeframe.ttl_s - EXPIRY_SLACK_S
    if any(
        span.concerns(symbol) and asked_at <= span.ended_at and span.begun_at <= seen.now
        for span in record.spans("lagging", "revised")
    ):
        return  # the service cannot tell such an answer from a right one
    gaps = [span.detail for span in record.spans("gap") if span.concerns(symbol)]
    final_ms = (asked_at - 2 * timeframe.refresh_s) * 1000
    wrong = {
        time_ms: found
        for time_ms, found in candles.items()
        if time_ms + step_ms <= final_ms and found != truth.get(time_ms)
    }
    missing = [
        time_ms
        for time_ms in truth
        if times[0] <= time_ms <= asked_at * 1000
        and time_ms not in candles
        and not any(gap["start"] <= time_ms / 1000 < gap["end"] for gap in gaps)
    ]

    examples = {time_ms: (found, truth.get(time_ms)) for time_ms, found in [*wrong.items()][:1]}
    verdicts.truth.check(
        not wrong and not missing and len(times) == limit,
        f"{seen.key} asked for at {asked_at:.3f}: {len(times)} held, missing {missing[:3]}, "
        f"wrong {len(wrong)}, like (found, right) {examples}",
    )


def judge_expiry(verdict: Verdict, seen: Seen, ttl_s: float, usable_at: float) -> None:
    """`usable_at` is when the last answer was requested that this key may be made from."""
    over_s = seen.expires_at - (usable_at + ttl_s)
    verdict.check(
        over_s <= EXPIRY_SLACK_S, f"{seen.key} at {seen.now:.3f}: expires {over_s:.3f} s too late"
    )


# --- judging transactions ---


class TransactionJudge:
    """Judges the transactions of the services in the order in which MONITOR shows them."""

    def __init__(
        self,
        verdicts: Verdicts,
        timeframes: Iterable[str],
        log_key: str,
        is_full: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self._verdicts, self._timeframes, self._log_key = verdicts, set(timeframes), log_key
        self._is_full = is_full
        self._open: dict[str, list[list[str]]] = {}  # by client: its transaction so far
        self.missed()

    def missed(self) -> None:
        """Commands may have been missed: forget the state from before."""
        self._open.clear()
        self._set: dict[str, set[str]] = defaultdict(set)  # by timeframe: written since published
        self._since_all: set[str] | None = None  # published since the last "all"; None: unknown

    def feed(self, line: str) -> None:
        """Take in one line of MONITOR."""
        client = line.partition("]")[0].rpartition(" ")[2]
        words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
        name = words[0].upper() if words else ""
        if name == "MULTI":
            self._open[client] = []
        elif name == "EXEC":
            self.judge(self._open.pop(client, []), float(line.split()[0]))
        elif client in self._open:
            self._open[client].append(words)

    def judge(self, commands: Sequence[Sequence[str]], at: float = 0.0) -> None:
        """Judge one transaction that was executed at `at` (epoch seconds).

        A full Redis takes a publish but no log entry: then the publish goes without one.
        """
        done: Counter[tuple[str, str]] = Counter()
        said: Counter[tuple[str, str]] = Counter()
        published: set[str] = set()
        for name, *words in commands:
            match name.upper():
                case "SET":
                    done["cache_write", words[0]] += 1
                    _, _, symbol, *timeframe = words[0].split(":")
                    if timeframe:
                        self._set[timeframe[0]].add(symbol)
                        self._verdicts.publishes.check(
                            timeframe[0] not in published, f"{words[0]} comes after it"
                        )
                case "PUBLISH":
                    done["publish", words[0]] += 1
                    update = json.loads(words[1])
                    published.add(update.get("timeframe", "all"))
                    self._judge_publish(words[0].split(":")[-1], update)
                case "XADD" if words[0] == self._log_key:
                    fields = words[words.index("*") + 1 :]
                    entry = dict(zip(fields[::2], fields[1::2], strict=True))
                    said[entry["type"], entry["channel"]] += entry["type"] != "error"
        log_refused = not said and self._is_full(at) and {type_ for type_, _ in done} == {"publish"}
        if (done or said) and not log_refused:
            self._verdicts.log.check(
                done == +said, f"done {dict(done - said)}, said {dict(said - done)}"
            )

    def _judge_publish(self, name: str, update: dict[str, Any]) -> None:
        publishes = self._verdicts.publishes
        if name != "all":
            unwritten = set(update["symbols"]) - self._set[name]
            publishes.check(not unwritten, f"{name}: {sorted(unwritten)} not written")
            self._set[name].clear()
            if self._since_all is not None:
                self._since_all.add(name)
            return
        if self._since_all is not None:
            lacks = self._timeframes - self._since_all
            publishes.check(not lacks, f"all, without {sorted(lacks)}")
        self._since_all = set()


# --- judging requests to the exchange ---


def judge_holds(
    verdict: Verdict, asked: Sequence[Asked], woken_at: Callable[[str], list[float]]
) -> None:
    """A service on hold sends no requests, but one resumed from SIGSTOP may finish the current."""
    for service in {each.service for each in asked}:
        own = [each for each in asked if each.service == service]
        woken = woken_at(service)
        for told in own:
            if not told.hold_s:
                continue
            first, last = told.at + IN_FLIGHT_S, told.at + told.hold_s - CLOCK_SLACK_S
            early = [
                each.at
                for each in own
                if first < each.at < last
                and not any(0 <= each.at - at < IN_FLIGHT_S for at in woken)
            ]
            verdict.check(
                not early,
                f"{told.service} was told at {told.at:.3f} to wait {told.hold_s:.0f} s, and asked "
                f"at {', '.join(f'{at:.3f}' for at in early[:3])}",
            )


def judge_weight(
    verdict: Verdict, asked: Sequence[Asked], limit: int = LIMITS.weight.units
) -> None:
    """Judge the weight of all services together, as the exchange counts it by address."""
    window: deque[Asked] = deque()
    used = 0
    for each in sorted(asked):
        window.append(each)
        used += each.weight
        while window[0].at <= each.at - 60:
            used -= window.popleft().weight
        verdict.check(used <= limit, f"{used} in the 60 s before {each.at:.3f}")


# --- judging processes ---


class Sample(NamedTuple):
    memory: int  # resident bytes
    threads: int


def judge_flatness(verdict: Verdict, service: str, samples: Sequence[Sample]) -> None:
    """Compare the last quarter of a process's life with the second."""
    if len(samples) < MIN_SAMPLES:
        return
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    memory = [statistics.median(sample.memory for sample in part) for part in (early, late)]
    threads = [max(sample.threads for sample in part) for part in (early, late)]
    verdict.check(
        memory[1] <= memory[0] + MEMORY_SLACK_B and threads[1] <= threads[0] + THREADS_SLACK,
        f"{service}: {memory[0]:.0f} B, then {memory[1]:.0f}; threads {threads}",
    )


# --- observing ---


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
        seen = self.read()
        for symbol in self._symbols:
            for timeframe in self._timeframes:
                if found := seen.get(Feed(symbol, timeframe.name).key):
                    truth = self._truth(symbol, timeframe.name)
                    judge_series(self._verdicts, found, timeframe, truth, self._record, self._limit)
                    usable_at = self._record.usable_at(symbol, timeframe.name)
                    judge_expiry(self._verdicts.expiry, found, timeframe.ttl_s, usable_at)
            if found := seen.get(Feed(symbol, PRICE).key):
                usable_at = self._record.usable_at(symbol, "")
                judge_expiry(self._verdicts.expiry, found, PRICE_TTL_S, usable_at)

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

    def judge_freshness(self, since: float, within_s: Mapping[str, float]) -> None:
        """Wait until each series was requested after `since`, at most `within_s` per timeframe."""
        waiting = {(s, t) for s in self._symbols for t in self._timeframes}
        while waiting:
            seen, now = self.read(), time.time()
            for symbol, timeframe in sorted(waiting):
                found = seen.get(Feed(symbol, timeframe.name).key)
                fresh = found is not None and found.expires_at - timeframe.ttl_s >= since
                late = now > since + within_s[timeframe.name]
                if fresh or late:
                    waiting.discard((symbol, timeframe))
                    promised_s = within_s[timeframe.name]
                    self._verdicts.fresh.check(
                        fresh, f"{symbol} {timeframe.name} not {promised_s:.1f} s after {since:.3f}"
                    )
            time.sleep(0.1)


class Listener(threading.Thread):
    """Feeds `judge` all commands that Redis receives (MONITOR), from `start` until `stop`."""

    def __init__(self, url: str, judge: TransactionJudge) -> None:
        super().__init__(name="listener", daemon=True)
        self._client, self._judge = redis_log.connect(url), judge
        self._ended = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        while not self._ended.is_set():
            self._judge.missed()
            try:
                with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
                    while not self._ended.is_set():
                        self._judge.feed(str(monitor.connection.read_response()))
            except redis.RedisError:
                self._ended.wait(0.05)  # Redis is away, or received no commands
            except Exception as error:
                self.error = error
                return

    def stop(self) -> None:
        self._ended.set()
        self.join(10)
