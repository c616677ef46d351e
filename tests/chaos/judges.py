"""The promises, a verdict on each, and the `judge_` functions, which decide from their arguments
alone. The truth is the exchange without faults (`Exchange.klines`) and the Record of the run."""

from __future__ import annotations

import json
import math
import statistics
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from binance_answers import TIMEFRAME_MS
from candles import PRICE_TTL_S
from demo import rules
from settings import Timeframe
from tests.chaos.record import IN_FLIGHT_S, LIES, TICKERS, Asked, Record, Span

SHOWN = 3  # the first violations of each promise
# Tolerance for the expiry of a key: the service computes that instant while its threads share a
# busy processor, and PTTL and TIME round to a millisecond.
EXPIRY_SLACK_S = 0.25
# The exchange counts Retry-After by the wall clock, the service by the monotonic clock.
CLOCK_SLACK_S = 0.1
LEADS_S = 4.0  # who asked so short a time ago still leads: two refreshes of the fastest timeframe
STALE_LENGTHS = 2  # a series is stale so many lengths after its newest candle opened
PRICE_STALE_S = 2 * PRICE_TTL_S  # the age of a ticker that is not believed
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
    age: Verdict = field(default_factory=lambda: Verdict("nothing is older than its data allows"))
    publishes: Verdict = field(default_factory=lambda: Verdict("a publish comes after its writes"))
    log: Verdict = field(default_factory=lambda: Verdict("log entries = operations that happened"))
    holds: Verdict = field(default_factory=lambda: Verdict("no request while banned or held"))
    heirs: Verdict = field(
        default_factory=lambda: Verdict("a hold outlives the service told of it")
    )
    weight: Verdict = field(default_factory=lambda: Verdict("weight within the limit in any 60 s"))
    fresh: Verdict = field(default_factory=lambda: Verdict("all fresh a refresh after the faults"))
    restored: Verdict = field(default_factory=lambda: Verdict("what is deleted is sent again"))
    apart: Verdict = field(default_factory=lambda: Verdict("no key is in another's database"))
    payloads: Verdict = field(default_factory=lambda: Verdict("a payload says its database"))
    readers: Verdict = field(default_factory=lambda: Verdict("readers hear their database alone"))
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
    # A lie is over with the fault: a read that contradicts final candles is not believed until a
    # second one agrees, and until then nothing is written. (`truth` was read after Redis was, and
    # may have been rewritten between the two.)
    lies = [
        span
        for span in record.spans(*LIES)
        if span.concerns(symbol)
        and asked_at <= span.ended_at
        and (span.begun_at <= seen.now or span.kind == "rewritten")
    ]
    doubted_ms = doubted_from(lies, step_ms / 1000) * 1000
    gaps = [span.detail for span in record.spans("gap") if span.concerns(symbol)]
    # A bad candle is left out, and that is not noticed before the next whole read, in an hour.
    bad = {
        span.detail["open_ms"]
        for span in record.spans("bad_row")
        if span.concerns(symbol) and span.detail["interval"] == timeframe.name
    }
    final_ms = (asked_at - 2 * timeframe.refresh_s) * 1000
    wrong = {
        time_ms: found
        for time_ms, found in candles.items()
        if time_ms + step_ms <= final_ms and time_ms < doubted_ms and found != truth.get(time_ms)
    }
    absent = {
        time_ms for time_ms in truth if times[0] <= time_ms <= asked_at * 1000
    } - candles.keys()
    missing = [
        time_ms
        for time_ms in sorted(absent - bad)
        if time_ms < doubted_ms
        and not any(gap["start"] <= time_ms / 1000 < gap["end"] for gap in gaps)
    ]
    # Only a candle that is cut out of an answer makes it shorter; others reach further back.
    cut_out = len(absent & bad) + any(span.kind == "hole" for span in lies)
    examples = {time_ms: (found, truth.get(time_ms)) for time_ms, found in [*wrong.items()][:1]}
    verdicts.truth.check(
        not wrong and not missing and limit - cut_out <= len(times) <= limit,
        f"{seen.key} at {seen.now:.3f}, asked for at {asked_at:.3f}: {len(times)} held, missing "
        f"{missing[:3]}, wrong {len(wrong)}, like (found, right) {examples}",
    )


def doubted_from(lies: Sequence[Span], step_s: float) -> float:
    """The open time from which candles may be wrong or missing while `lies` are told."""
    if any(span.kind in ("mixed_up", "rewritten") for span in lies):
        return -math.inf
    # The earliest moment that an answer may have shown. What closed two refreshes before that is
    # right, but for the last closed candle, which `revised` changes and `hole` leaves out.
    shown_at: float = min((span.detail.get("at", span.begun_at) for span in lies), default=math.inf)
    lag_s: float = sum(span.detail["seconds"] for span in lies if span.kind == "lagging")
    return shown_at - lag_s - 2 * step_s


def stale_at(newest_s: float, step_s: float) -> float:
    """When a series is stale whose newest candle is that of `newest_s`."""
    return newest_s // step_s * step_s + STALE_LENGTHS * step_s


def judge_age(verdict: Verdict, seen: Seen, step_s: float) -> None:
    """A series is gone once its newest candle opened two lengths ago."""
    newest_s = json.loads(seen.value)[-1]["timestamp"] / 1000
    over_s = seen.expires_at - stale_at(newest_s, step_s)
    verdict.check(
        over_s <= EXPIRY_SLACK_S,
        f"{seen.key} at {seen.now:.3f}: of {newest_s:.0f}, expires {over_s:.3f} s too late",
    )


def judge_price_age(verdict: Verdict, seen: Seen, others: Iterable[Seen], record: Record) -> None:
    """A price was of a recent ticker when it was asked for. A market that is not traded is excused
    while its candles go on, if the tickers of `others` are newer."""
    symbol = seen.key.split(":")[2]
    asked_at = seen.expires_at - PRICE_TTL_S - EXPIRY_SLACK_S
    oldest_s = asked_at - PRICE_STALE_S
    ticker_s = _ticker_s(seen)
    excused = any(_ticker_s(other) >= oldest_s for other in others) and any(
        span.symbol == symbol
        and span.detail.get("path") == TICKERS
        and span.begun_at <= seen.now
        and asked_at <= span.ended_at
        for span in record.spans("quiet")
    )
    verdict.check(
        ticker_s >= oldest_s or excused,
        f"{seen.key} at {seen.now:.3f}: of {ticker_s:.3f}, asked for at {asked_at:.3f}",
    )


def _ticker_s(price: Seen) -> float:
    return float(json.loads(price.value)["timestamp"] / 1000)


def judge_expiry(verdict: Verdict, seen: Seen, ttl_s: float, usable_at: float) -> None:
    """`usable_at` is when the last answer was requested that this key may be made from."""
    over_s = seen.expires_at - (usable_at + ttl_s)
    verdict.check(
        over_s <= EXPIRY_SLACK_S, f"{seen.key} at {seen.now:.3f}: expires {over_s:.3f} s too late"
    )


def judge_keys(verdict: Verdict, db: int, keys: Iterable[str], symbols: Sequence[str]) -> None:
    """The keys of candles and prices in database `db` are of the `symbols` of its services."""
    of_symbols = [key for key in keys if key.startswith(("market:ohlcv:", "market:price:"))]
    strange = sorted(key for key in of_symbols if key.split(":")[2] not in symbols)
    verdict.check(not strange, f"in database {db}: {strange[:3]}")


# --- judging requests to the exchange ---


def judge_holds(
    verdict: Verdict, asked: Sequence[Asked], woken_at: Callable[[str], list[float]]
) -> None:
    """A service on hold sends no requests, but one resumed from SIGSTOP may finish the current.
    After the hold one request goes first: the others wait for its answer."""
    for service in {each.service for each in asked}:
        woken = woken_at(service)
        own = sorted(each for each in asked if each.service == service)
        for told in (each for each in own if each.hold_s):
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
            end = told.at + told.hold_s
            if any(other.at <= end < other.at + other.hold_s for other in own):
                continue  # the hold was extended
            after = [each for each in own if each.at > last]
            if len(after) > 1:
                probe, second = after[:2]
                verdict.check(
                    second.at >= probe.answered_at,
                    f"{told.service} asked at {probe.at:.3f}, after a hold, and again at "
                    f"{second.at:.3f}, before it was answered at {probe.answered_at:.3f}",
                )


def judge_heirs(
    verdict: Verdict,
    asked: Sequence[Asked],
    woken_at: Callable[[str], list[float]],
    hides: Callable[[Asked, float], bool],
) -> None:
    """A service that starts or takes over keeps to the hold that another was told, unless something
    `hides` it. One that leads already need not know of it: it will be told itself."""
    times: dict[str, list[float]] = defaultdict(list)
    for each in sorted(asked):
        if not any(0 <= each.at - at < IN_FLIGHT_S for at in woken_at(each.service)):
            times[each.service].append(each.at)
    for told in asked:
        last = told.at + told.hold_s - CLOCK_SLACK_S
        for heir, own in times.items() if told.hold_s else ():
            after = bisect_right(own, told.at + IN_FLIGHT_S)
            before = bisect_right(own, told.at)
            leads = before > 0 and own[before - 1] > told.at - LEADS_S
            if heir == told.service or leads or after == len(own) or hides(told, own[after]):
                continue
            verdict.check(
                own[after] >= last,
                f"{told.service} was told at {told.at:.3f} to wait {told.hold_s:.0f} s, and {heir} "
                f"asked at {own[after]:.3f}",
            )


def judge_weight(verdict: Verdict, asked: Sequence[Asked], limit: int = rules.WEIGHT_LIMIT) -> None:
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
