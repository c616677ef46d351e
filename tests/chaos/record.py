"""The record of a run: which faults were on, and the requests of each service with their answers.
Judges nothing. Instants are epoch seconds."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from demo import faults, rules
from demo.exchange import Exchange
from demo.faults import Fault, Reply
from rate_limiter import HOLD_S

# Faults that make candles unusable, so that they refresh nothing. (Answers of the clock and of the
# candles look right; so does one with a `hole`, and most of one with a `bad_row` is used.
# `price_zero` affects prices only.)
SPOILING = frozenset(faults.KINDS) - {
    faults.BLOCKED,
    *faults.REFUSALS,
    *faults.CLOCK,
    *faults.CANDLES,
    *faults.WIRE,
    "hole",
    "bad_row",
    "used_weight",
    "price_zero",
}
# Spans in which right candles cannot be told from wrong ones, as judges.doubted_from says which.
# halted: a market's candles stand still; rewritten: those of its last day have become others.
LIES = (*faults.CLOCK, "revised", "hole", "mixed_up", "halted", "rewritten")
# As the path of a `frozen`: a market that is not traded, whose candles go on without volume.
TICKERS = "ticker/24hr"
# A request that is in flight when another one is refused cannot know about the refusal.
IN_FLIGHT_S = 1.0  # the longest a request may take (REQUEST_TIMEOUT)
# The longest from a refusal to its note in Redis: the service writes it once a second.
NOTE_S = 1.5
# The one fault of Redis that hides no hold: market:hold is not among the keys that it deletes.
DELETED = "redis deleted"


@dataclass
class Span:
    """A fault of the exchange, for one symbol or (None) for all, or of Redis; and its time."""

    kind: str
    symbol: str | None
    begun_at: float
    ended_at: float = math.inf
    detail: dict[str, Any] = field(default_factory=dict)

    def concerns(self, symbol: str) -> bool:
        return self.symbol in (None, symbol)


class Asked(NamedTuple):
    """One request of a `service` and its answer: `hold_s` is the length of the hold that it was
    told to keep, `usable` whether the service may use the answer."""

    at: float
    service: str
    symbols: tuple[str, ...]
    interval: str  # "" for prices
    weight: int
    hold_s: float
    usable: bool
    answered_at: float = 0.0


class Record:
    def __init__(self) -> None:
        # Guards all fields below: the storm, the exchange's connections and the checker share them.
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._asked: list[Asked] = []
        self._usable_at: dict[tuple[str, str], float] = {}  # by symbol and interval
        self._stopped_at: dict[str, list[float]] = defaultdict(list)  # by service
        self._woken_at: dict[str, list[float]] = defaultdict(list)

    def begin(self, kind: str, symbol: str | None, at: float, /, **detail: Any) -> Span:
        span = Span(kind, symbol, at, detail=detail)
        with self._lock:
            self._spans.append(span)
        return span

    def end(self, span: Span) -> None:
        with self._lock:
            span.ended_at = time.time()

    def spans(self, *kinds: str) -> list[Span]:
        with self._lock:
            return [span for span in self._spans if span.kind in kinds]

    def was_on(self, kind: str, at: float) -> bool:
        """Whether a fault of that kind was on at `at` (epoch seconds)."""
        return any(span.begun_at <= at <= span.ended_at for span in self.spans(kind))

    def spoils(self, symbols: tuple[str, ...]) -> bool:
        """Whether a fault is on that makes the candles of one of `symbols` unusable."""
        with self._lock:
            return any(
                span.kind in SPOILING
                and span.ended_at == math.inf
                and any(span.concerns(symbol) for symbol in symbols)
                for span in self._spans
            )

    def ask(self, asked: Asked) -> None:
        with self._lock:
            self._asked.append(asked)
            for symbol in asked.symbols if asked.usable else ():
                self._usable_at[symbol, asked.interval] = asked.at

    def asked(self) -> list[Asked]:
        """All requests, in the order of their answers."""
        with self._lock:
            return list(self._asked)

    def usable_at(self, symbol: str, interval: str) -> float:
        """When the last usable answer was requested; -inf if there was none."""
        with self._lock:
            return self._usable_at.get((symbol, interval), -math.inf)

    def held_until(self) -> float:
        """When the last hold ends, whichever service was told: those that take over obey it."""
        with self._lock:
            return max((asked.at + asked.hold_s for asked in self._asked), default=0.0)

    def stop(self, service: str) -> None:
        """Note that `service` is killed or stopped (SIGSTOP) now, or loses its lease."""
        with self._lock:
            self._stopped_at[service].append(time.time())

    def wake(self, service: str) -> None:
        """Note that `service` was stopped (SIGSTOP) until now."""
        with self._lock:
            self._woken_at[service].append(time.time())

    def woken_at(self, service: str) -> list[float]:
        with self._lock:
            return list(self._woken_at[service])

    def hides(self, told: Asked, at: float) -> bool:
        """Whether another service may not know at `at` of the hold that `told` began: Redis has
        lost it or could not be reached (over a slow line, leases expire), or the service that was
        told had no time to note it."""
        with self._lock:
            stopped = self._stopped_at[told.service]
            return any(-IN_FLIGHT_S < since - told.at < NOTE_S for since in stopped) or any(
                span.kind.startswith("redis ")
                and span.kind != DELETED
                and span.begun_at <= at
                and told.at <= span.ended_at + NOTE_S
                for span in self._spans
            )


class Door(Exchange):
    """A port to the exchange `behind` for one service only, to attribute requests to it."""

    def __init__(self, behind: Exchange, record: Record, service: str) -> None:
        super().__init__()
        self._behind, self._record, self._service = behind, record, service

    def serve(self, method: str, path: str, query: str, address: str) -> tuple[Reply, Fault | None]:
        call, at = rules.read_call(method, path, query), time.time()
        spoiled = self._record.spoils(call.symbols)
        reply, wire = self._behind.serve(method, path, query, address)
        spoiled = spoiled and self._record.spoils(call.symbols)  # for the whole request
        told = wire is None and reply.status in HOLD_S
        hold_s = float(reply.headers.get("Retry-After", HOLD_S[reply.status])) if told else 0.0
        usable = reply.status == 200 and wire is None and not (call.interval and spoiled)
        if not call.interval and not path.endswith(TICKERS):
            usable = False
        self._record.ask(
            Asked(
                at,
                self._service,
                call.symbols,
                call.interval,
                call.weight,
                hold_s,
                usable,
                time.time(),
            )
        )
        return reply, wire
