"""The faults of the exchange and of the services as events, and what the calm after them must allow
for. Those of Redis are in redis_cards.py."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from binance_answers import TIMEFRAME_MS
from demo import faults
from settings import DEFAULT_LEADER_KEY
from tests.chaos.environment import Environment
from tests.chaos.events import Event, Events
from tests.chaos.fleet import SETTINGS, START_S, SYMBOLS
from tests.chaos.record import NOTE_S, TICKERS, Span
from tests.support import RedisServer

# `revised` may only change the last candle, because older ones are final; the other defaults are
# too long for a storm of minutes.
_DETAILS: dict[str, dict[str, Any]] = {
    "hold": {"seconds": 4},
    "ban": {"seconds": 6},
    "used_weight": {"weight": 200},
    "revised": {"candles": 1},
    "huge": {"megabytes": 6},
    "drip": {"seconds": 0.2},
}
# Answers of a fresh service may be that old: they are believed, or too old for the shortest series.
_AGES_S = (45, 90, 200)
# After these, final candles are others than those that are held: the first answer that says so is
# not believed, a second one is.
_CONTRADICTING = (*faults.CLOCK, "revised", "mixed_up", "idle")
# A single lie that must not be believed: it is of final candles. (`revised` is of the last closed
# one, which is not judged before it is final.)
_LIES: dict[str, dict[str, Any]] = {"hole": {"back": 2}, "mixed_up": {}, "revised": {"candles": 1}}
_STATUSES = (400, 404, 500, 502, 503)
_BLOCKED = (403, 451)
# After these without Retry-After the service backs off for a minute.
BACKING_OFF = ("no_retry_after", "blocked")
CARDS = tuple(kind for kind in faults.KINDS if kind not in ("late", *BACKING_OFF))
REACH = ("gone", "delisted", "halted", "idle")  # faults other than those of answers
SERVICE = ("kill", "pause", "terminate", "second", "neighbour")
HEIR = ("kill", "terminate", "restart", "pause")
_BAD_ROWS = ("off_grid", "high_below_open", "low_zero")
# What one market may be in for many rounds; quiet: its ticker stands still, its candles go on.
STANDING = ("frozen", "halted", "idle", "quiet")
# A market that is traded again may have to wait for its first trade.
FIRST_TRADE_S = 60.0
HEIR_HOLD_S = 12


class Cards:
    """Makes the events of the environment `own` and its `neighbour`, another database number.
    `spares()` says whether to spare the oldest service."""

    def __init__(
        self,
        rng: random.Random,
        events: Events,
        server: RedisServer,
        own: Environment,
        neighbour: Environment,
        spares: Callable[[], bool],
    ) -> None:
        self._rng, self._events, self._server = rng, events, server
        self._exchange, self._fleet, self._record = own.exchange, own.fleet, own.record
        self._neighbour, self._spares = neighbour.fleet, spares
        # What the calm must allow for: symbols whose final candles were contradicted since it was
        # cleared, until when a market may have no price, in epoch seconds, and whether the service
        # of the neighbour is another since this was cleared.
        self.contradicted: set[str] = set()
        self.idle_until: dict[str, float] = {}
        self.neighbour_restarted = False

    # of the exchange

    def of_exchange(
        self,
        kind: str,
        symbol: str | None,
        span: tuple[float, float] | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Iterator[Event]:
        begin_at, end_at = span or self._events.span()
        detail = self._detail(kind) if detail is None else detail
        on: list[tuple[int, Span]] = []

        def begin() -> None:  # the record never has a fault that the exchange lacks
            at = time.time()
            number = self._exchange.fault(kind, symbol=symbol, **detail)
            on.append((number, self._record.begin(kind, symbol, at, **detail)))

        def end() -> None:
            [(number, span)] = on
            self._record.end(span)
            self._exchange.clear(number)
            self._note_contradiction(kind, symbol)

        shown = f"exchange {kind}, {symbol or 'all'}, for {end_at - begin_at:.1f} s"
        yield begin_at, self._events.doing(f"{shown} {detail or ''}".rstrip(), begin)
        yield end_at, end

    def _detail(self, kind: str) -> dict[str, Any]:
        rng, now = self._rng, time.time()
        match kind:
            case "status":
                return {"status": rng.choice(_STATUSES)}
            case "blocked":
                return {"status": rng.choice(_BLOCKED)}
            case "gap":
                start = now - rng.uniform(2, 20) * 60
                return {"start": start, "end": start + rng.uniform(1, 5) * 60}
            case "lagging":
                return {"seconds": rng.choice(_AGES_S)}
            case "frozen" if rng.random() < 0.5:  # else at the moment of the injection
                return {"at": now - rng.choice(_AGES_S)}
            case "bad_row":  # one of the newest, which refuses the answer, or an old one
                timeframe = rng.choice(SETTINGS.timeframes).name
                step_ms, back = TIMEFRAME_MS[timeframe], rng.choice((0, 1, 2, 40))
                open_ms = (int(now * 1000) // step_ms - back) * step_ms
                return {"interval": timeframe, "open_ms": open_ms, "how": rng.choice(_BAD_ROWS)}
        return dict(_DETAILS.get(kind, {}))

    def lie_once(self, symbol: str) -> int:
        """Let one answer lie. It is not recorded, for the service, which holds all candles, must
        not believe it: nothing is forgiven. Returns the fault's id."""
        kind = self._rng.choice(tuple(_LIES))
        self._events.done[f"lie once by {kind}"] += 1
        return self._exchange.fault(kind, symbol=symbol, times=1, **_LIES[kind])

    def of_reach(self, kind: str, symbol: str) -> Iterator[Event]:
        begin_at, end_at = self._events.span()
        what = "gone" if kind == "gone" else f"{kind}, {symbol}"
        begin, end = self.of_market(kind, symbol)
        if kind == "gone":
            begin, end = self._fleet.close_doors, self._fleet.open_doors
        shown = f"exchange {what}, for {end_at - begin_at:.1f} s"
        yield begin_at, self._events.doing(shown, begin)
        yield end_at, end

    def of_market(self, kind: str, symbol: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """How the state of one market begins and ends."""
        exchange = self._exchange
        on: list[tuple[Span, int | None]] = []

        def begin() -> None:
            at = time.time()
            match kind:
                case "frozen":
                    on.append(
                        (self._record.begin(kind, symbol, at), exchange.fault(kind, symbol=symbol))
                    )
                case "quiet":
                    fault = exchange.fault("frozen", symbol=symbol, path=TICKERS)
                    on.append((self._record.begin(kind, symbol, at, path=TICKERS), fault))
                case "halted":
                    on.append((self._record.begin(kind, symbol, at), None))
                    exchange.halt(symbol)
                case "idle":
                    self.idle_until[symbol] = math.inf
                    span = self._record.begin("rewritten", symbol, at)
                    exchange.idle(symbol)
                    self._record.end(span)
                case "delisted":
                    exchange.delist(symbol)

        def end() -> None:
            if kind in ("idle", "halted", "delisted"):
                exchange.list(symbol)
            if kind == "idle":
                self.idle_until[symbol] = time.time() + FIRST_TRADE_S
            for span, fault in on:
                self._record.end(span)
                if fault is not None:
                    exchange.clear(fault)
            self._note_contradiction(kind, symbol)

        return begin, end

    def _note_contradiction(self, kind: str, symbol: str | None) -> None:
        if kind in _CONTRADICTING:
            self.contradicted.update(SYMBOLS if symbol is None else [symbol])

    # of the services

    def of_service(self, kind: str) -> Iterator[Event]:
        begin_at, end_at = self._events.span()
        match kind:
            case "second":  # a second one runs until the next kill or terminate
                if len(self._fleet.names()) == 1:
                    yield begin_at, self._events.doing("service second", self._start)
            case "pause":
                paused: list[str] = []
                shown = f"service pause, for {end_at - begin_at:.1f} s"
                yield begin_at, self._events.doing(shown, lambda: paused.append(self._victim()))
                yield begin_at, lambda: self._fleet.pause(paused[0])
                yield end_at, lambda: self._fleet.wake(paused[0])
            case "kill":
                yield (
                    begin_at,
                    self._events.doing("service kill", lambda: self._end(self._fleet.kill)),
                )
                yield end_at, self._start_if_none
            case "terminate":
                act = self._fleet.terminate
                yield begin_at, self._events.doing("service terminate", lambda: self._end(act))
                yield end_at, self._start_if_none
            case "neighbour":
                how = self._rng.choice((self._neighbour.kill, self._neighbour.terminate))
                shown = f"service neighbour, away for {end_at - begin_at:.1f} s"
                yield begin_at, self._events.doing(shown, lambda: self._end_neighbour(how))
                yield end_at, self._start_neighbour

    def of_heir(self, how: str, refusal: str, more_s: float) -> Iterator[Event]:
        """The exchange refuses, and the service that leads ends: another one must know of it.
        `more_s` is how much longer than NOTE_S a hold may take to be noted."""
        span = (0.0, HEIR_HOLD_S / 2)
        yield from self.of_exchange(refusal, None, span, {"seconds": HEIR_HOLD_S})
        # A service that is killed needs a second to note the hold; one that ends orderly does not.
        after_s = self._rng.uniform(0.2 if how == "terminate" else NOTE_S + 0.1, 3.0) + more_s
        began, paused = time.time(), list[str]()

        def end() -> None:
            self._await_hold(began)
            time.sleep(after_s)
            match how:
                case "kill":
                    self._end(self._fleet.kill)
                case "terminate":
                    self._end(self._fleet.terminate)
                case "restart":
                    for name in self._fleet.names():
                        self._fleet.kill(name)
                    self._start()
                case "pause":
                    paused.append(self._victim())
                    self._fleet.pause(paused[0])

        def wake() -> None:
            for name in paused:
                self._fleet.wake(name)

        yield 0.1, self._events.doing(f"service heir by {how}, {after_s:.1f} s later", end)
        yield HEIR_HOLD_S + 1.0, wake

    def _await_hold(self, since: float) -> None:
        """Wait until a service was told to hold, at most a few refreshes."""
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at:
            if any(asked.hold_s and asked.at >= since for asked in self._record.asked()):
                return
            time.sleep(0.05)

    def _start(self) -> None:
        self._fleet.start()

    def _start_if_none(self) -> None:
        if not self._fleet.names():
            self._start()

    def _end(self, how: Callable[[str], None]) -> None:
        """End the victim, or the youngest service to spare the oldest."""
        name = self._victim()
        if self._spares():
            if len(self._fleet.names()) == 1:
                self._start()
            name = self._fleet.names()[-1]
        how(name)

    def _start_neighbour(self) -> None:
        self._neighbour.start()

    def _end_neighbour(self, how: Callable[[str], None]) -> None:
        self.neighbour_restarted = True
        [name] = self._neighbour.names()
        how(name)

    def _victim(self) -> str:
        """The leader if it can be determined, else the oldest."""
        try:
            token = str(self._server.client.get(DEFAULT_LEADER_KEY))
        except redis.RedisError:
            token = ""
        for name, pid in self._fleet.pids().items():
            if f":{pid}:" in token:
                return name
        return self._fleet.names()[0]
