"""Random faults from a seed: rounds of simultaneous faults of the exchange, of Redis and of the
service, each followed by a calm in which all data must become fresh again. Judges only what it
observes itself: exit codes, and defects in the services' logs."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from demo import faults
from demo.exchange import Exchange
from settings import DEFAULT_LEADER_KEY, Settings, Timeframe
from tests.chaos.checker import Checker, Verdicts
from tests.chaos.record import Door, Record, Span
from tests.support import RedisServer, Service, free_port

SYMBOLS = (
    "BTCUSDT",
    "ETHUSDT",
    "SOLUSDT",
    "XRPUSDT",
    "ADAUSDT",
    "DOGEUSDT",
    "AVAXUSDT",
    "LINKUSDT",
    "DOTUSDT",
    "LTCUSDT",
)
# Short intervals, so that much happens in little time. Eight workers, so that two services have
# fewer requests in flight than REFUSALS_TO_BAN.
ENVIRON = {
    "SYMBOLS": ",".join(SYMBOLS),
    "TIMEFRAMES": "1m:2:10,5m:3:15,1h:4:20",
    "CANDLE_LIMIT": "60",
    "LEADER_TTL": "3",
    "REQUEST_TIMEOUT": "1",
    "MAX_WORKERS": "8",
}
SETTINGS = Settings.from_env(ENVIRON)

BEGIN_WITHIN_S = 3.0  # all faults of a round begin in this time
LAST_S = (1.0, 5.0)  # the shortest and the longest fault
CALM_S = 3.0  # after all is fresh again, for the checker to observe it
ROUND_S = 22.0  # the usual maximum: no round begins with less time left
LONG_HOLD_S = 70.0  # the cost of no_retry_after: the service then backs off for a minute
START_S = 5.0  # for a new process to get to work, on a busy machine
BUSY_S = 4.0  # the most by which a busy machine delays a refresh
EXIT_S = 15.0  # the service takes up to 4 s to end; the rest allows for a busy machine

# `revised` may only change the last candle, because older ones are final; the other defaults are
# too long for a storm of minutes.
_DETAILS: dict[str, dict[str, Any]] = {
    "hold": {"seconds": 4},
    "ban": {"seconds": 6},
    "used_weight": {"weight": 200},
    "revised": {"candles": 1},
    "lagging": {"seconds": 45},
    "huge": {"megabytes": 6},
    "drip": {"seconds": 0.2},
}
_STATUSES = (400, 404, 451, 500, 502, 503)
# `late` is always on: a candle is not final until so long after its close. Less than two refreshes
# of any timeframe.
LATE_S = 3
_CARDS = tuple(kind for kind in faults.KINDS if kind != "late")
_REACH = ("gone", "delisted", "halted")  # faults other than those of answers
_REDIS = ("kill", "pause", "empty", "slow", "full", "evicting")
_SERVICE = ("kill", "pause", "terminate", "second")


class Deck:
    """Deals each card once in random order, then reshuffles."""

    def __init__(self, rng: random.Random, cards: tuple[str, ...]) -> None:
        self._rng, self._cards = rng, cards
        self._left: list[str] = []

    def deal(self) -> str:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


class Fleet:
    """The services: one that should always run, and at times a second. Each process has its own
    name and its own door to the exchange."""

    def __init__(
        self, folder: Path, url: str, exchange: Exchange, record: Record, verdicts: Verdicts
    ) -> None:
        self._folder, self._url, self._exchange = folder, url, exchange
        self._record, self._verdicts = record, verdicts
        self._running: dict[str, Service] = {}  # by name; replaced, not mutated: others read it
        self._all: list[Service] = []
        self._doors: list[Door] = []

    def start(self) -> str:
        name = f"service{len(self._all)}"
        door = Door(self._exchange, self._record, name).start()
        self._doors.append(door)
        environ = {
            **ENVIRON,
            "REDIS_URL": self._url,
            "BINANCE_BASE_URL": door.url,
            "HEALTH_PORT": str(free_port()),
            "MALLOC_ARENA_MAX": "2",  # as the systemd unit sets it
        }
        service = Service(self._folder / f"{name}.log", [], environ)
        self._all.append(service)
        self._running = {**self._running, name: service}
        return name

    def names(self) -> list[str]:
        return list(self._running)

    def pids(self) -> dict[str, int]:
        return {name: service.process.pid for name, service in self._running.items()}

    def kill(self, name: str) -> None:
        service = self._leave(name)
        service.process.kill()
        service.process.wait()

    def pause(self, name: str) -> None:
        self._running[name].process.send_signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        if name in self._running:
            self._running[name].process.send_signal(signal.SIGCONT)
            self._record.wake(name)

    def terminate(self, name: str) -> None:
        """Send SIGTERM as soon as the service has started, and judge its exit code."""
        service = self._leave(name)
        give_up_at = time.monotonic() + START_S
        while not service.lines("event=start ") and time.monotonic() < give_up_at:
            time.sleep(0.05)
        service.process.send_signal(signal.SIGTERM)
        try:
            code: int | None = service.process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            code = None
        self._verdicts.exits.check(code == 0, f"{name}: {code} within {EXIT_S:.0f} s")

    def _leave(self, name: str) -> Service:
        service = self._running[name]
        self._running = {n: other for n, other in self._running.items() if n != name}
        return service

    def close_doors(self) -> None:
        """Cut all services off from the exchange."""
        for door in self._doors:
            door.stop()

    def open_doors(self) -> None:
        for door in self._doors:
            door.start()

    def judge_logs(self) -> None:
        for service in self._all:
            bad = service.lines("event=bug") + service.lines("Traceback")
            self._verdicts.bugs.check(not bad, f"{service.log.name}: {bad[:1]}")

    def end(self) -> None:
        """Kill the processes that still run."""
        for service in self._all:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
        self.close_doors()


Event = tuple[float, Callable[[], None]]  # seconds into the round, and what to do then


class Storm:
    def __init__(
        self,
        seed: int,
        seconds: float,
        server: RedisServer,
        exchange: Exchange,
        fleet: Fleet,
        record: Record,
        checker: Checker,
    ) -> None:
        self._rng = random.Random(seed)
        self._seconds, self._server, self._exchange = seconds, server, exchange
        self._fleet, self._record, self._checker = fleet, record, checker
        self._redis, self._services = Deck(self._rng, _REDIS), Deck(self._rng, _SERVICE)
        self._faults = Deck(self._rng, (*_CARDS, *_REACH))
        self._began = time.monotonic()
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        self._exchange.fault("late", seconds=LATE_S)
        self._fleet.start()
        self._fleet.start()
        self._calm(START_S)
        while self._left_s() > ROUND_S:
            self._round()
        for name in self._fleet.names():
            self._fleet.terminate(name)

    def _left_s(self) -> float:
        return self._seconds - (time.monotonic() - self._began)

    def _round(self) -> None:
        events: list[Event] = []
        kinds = {self._faults.deal() for _ in range(self._rng.randint(2, 5))}
        if not any(asked.hold_s for asked in self._record.asked()):
            kinds.add(self._rng.choice(tuple(faults.REFUSALS)))  # also in a short run
        if self._left_s() < ROUND_S + LONG_HOLD_S:
            kinds.discard("no_retry_after")
        if kinds & {*faults.REFUSALS, "no_retry_after"}:
            kinds -= {*faults.WIRE, "gone"}  # a service that cannot see its ban may send on
        for kind in sorted(kinds):
            events += self._of_reach(kind) if kind in _REACH else self._of_exchange(kind)
        events += self._of_redis(self._redis.deal())
        touched = self._rng.random() < 0.8
        if touched:
            events += self._of_service(self._services.deal())
        began = time.monotonic()
        for at, act in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            act()
        if not self._fleet.names():
            self._fleet.start()
        self._calm(SETTINGS.leader_ttl + 1 + START_S if touched else 0.0)

    def _calm(self, more_s: float) -> None:
        """From here on no fault is active: all must be fresh after one refresh, not counting the
        one in progress, plus `more_s`."""
        held_until = max(self._record.held_until(name) for name in self._fleet.names())
        if (held_s := held_until - time.time()) > 0:
            self._say(f"calm, on hold for {held_s:.1f} s")
            time.sleep(held_s)
        within_s = {t.name: self._refresh_s(t) + more_s for t in SETTINGS.timeframes}
        since = time.time()
        self._checker.judge_freshness(since, within_s)
        self._say(f"calm, all judged after {time.time() - since:.1f} s")
        time.sleep(CALM_S)

    @staticmethod
    def _refresh_s(timeframe: Timeframe) -> float:
        return 2 * timeframe.refresh_s + SETTINGS.refresh_offset_ms / 1000 + BUSY_S

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {what}", flush=True)

    def _span(self) -> tuple[float, float]:
        """A random begin and end of a fault, in seconds into its round."""
        begin = self._rng.uniform(0, BEGIN_WITHIN_S)
        return begin, begin + self._rng.uniform(*LAST_S)

    def _doing(self, what: str, act: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            self._say(what)
            self.done[what.split(",")[0]] += 1
            act()

        return do

    # the faults

    def _of_exchange(self, kind: str) -> Iterator[Event]:
        begin_at, end_at = self._span()
        some = kind not in faults.REFUSALS and self._rng.random() < 0.4
        symbol = self._rng.choice(SYMBOLS) if some else None
        detail = dict(_DETAILS.get(kind, {}))
        if kind == "status":
            detail["status"] = self._rng.choice(_STATUSES)
        if kind == "gap":
            detail["start"] = time.time() - self._rng.uniform(2, 20) * 60
            detail["end"] = detail["start"] + self._rng.uniform(1, 5) * 60

        on: list[tuple[int, Span]] = []

        def begin() -> None:  # the record never has a fault that the exchange lacks
            at = time.time()
            number = self._exchange.fault(kind, symbol=symbol, **detail)
            on.append((number, self._record.begin(kind, symbol, at, **detail)))

        def end() -> None:
            [(number, span)] = on
            self._record.end(span)
            self._exchange.clear(number)

        shown = f"exchange {kind}, {symbol or 'all'}, for {end_at - begin_at:.1f} s"
        yield begin_at, self._doing(f"{shown} {detail or ''}".rstrip(), begin)
        yield end_at, end

    def _of_reach(self, kind: str) -> Iterator[Event]:
        begin_at, end_at = self._span()
        symbol, exchange = self._rng.choice(SYMBOLS), self._exchange
        shown = f"exchange {kind}, {symbol}, for {end_at - begin_at:.1f} s"
        match kind:
            case "gone":
                shown = f"exchange gone, for {end_at - begin_at:.1f} s"
                yield begin_at, self._doing(shown, self._fleet.close_doors)
                yield end_at, self._fleet.open_doors
            case "delisted":
                yield begin_at, self._doing(shown, lambda: exchange.delist(symbol))
                yield end_at, lambda: exchange.list(symbol)
            case "halted":
                yield begin_at, self._doing(shown, lambda: exchange.halt(symbol))
                yield end_at, lambda: exchange.resume(symbol)

    def _of_redis(self, kind: str) -> Iterator[Event]:
        begin_at, end_at = self._span()
        server = self._server
        client: Any = server.client
        shown = f"redis {kind}, for {end_at - begin_at:.1f} s"
        match kind:
            case "kill":
                yield begin_at, self._doing(shown, server.kill)
                yield end_at, server.start
            case "pause":
                yield begin_at, self._doing(shown, server.pause)
                yield end_at, server.resume
            case "empty":
                yield begin_at, self._doing("redis empty", client.flushall)
            case "slow":  # Redis runs a tenth of the time
                yield begin_at, self._doing(shown, server.pause)
                at = begin_at + 0.18
                while at < end_at:
                    yield at, server.resume
                    yield at + 0.02, server.pause
                    at += 0.2
                yield end_at + 0.2, server.resume
            case "full":

                def fill() -> None:
                    spans.append(self._record.begin("redis full", None, time.time()))
                    client.config_set("maxmemory", "1")

                def empty() -> None:
                    client.config_set("maxmemory", "0")
                    self._record.end(spans[0])

                spans: list[Span] = []
                yield begin_at, self._doing(shown, fill)
                yield end_at, empty
            case "evicting":  # Redis evicts any keys

                def evict() -> None:
                    client.config_set("maxmemory-policy", "allkeys-random")
                    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 0.9))

                def keep() -> None:
                    client.config_set("maxmemory", "0")
                    client.config_set("maxmemory-policy", "noeviction")

                yield begin_at, self._doing(shown, evict)
                yield end_at, keep

    def _of_service(self, kind: str) -> Iterator[Event]:
        begin_at, end_at = self._span()
        match kind:
            case "second":  # a second one runs until the next kill or terminate
                if len(self._fleet.names()) == 1:
                    yield begin_at, self._doing("service second", self._start)
            case "pause":
                paused: list[str] = []
                shown = f"service pause, for {end_at - begin_at:.1f} s"
                yield begin_at, self._doing(shown, lambda: paused.append(self._victim()))
                yield begin_at, lambda: self._fleet.pause(paused[0])
                yield end_at, lambda: self._fleet.wake(paused[0])
            case "kill":
                yield begin_at, self._doing("service kill", lambda: self._end(self._fleet.kill))
                yield end_at, self._start_if_none
            case "terminate":
                act = self._fleet.terminate
                yield begin_at, self._doing("service terminate", lambda: self._end(act))
                yield end_at, self._start_if_none

    def _start(self) -> None:
        self._fleet.start()

    def _start_if_none(self) -> None:
        if not self._fleet.names():
            self._start()

    def _end(self, how: Callable[[str], None]) -> None:
        """In the second half of the run, spare the oldest, so that its memory can be judged."""
        name = self._victim()
        if self._left_s() < self._seconds / 2:
            if len(self._fleet.names()) == 1:
                self._start()
            name = self._fleet.names()[-1]
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
