"""Random faults from a seed: rounds of simultaneous faults of the exchange, of Redis and of the
service, each followed by a calm in which all data must become fresh again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from binance_answers import TIMEFRAME_MS
from candles import PRICE, PRICE_TTL_S, Feed
from demo import faults
from settings import Timeframe
from tests.chaos.cards import (
    BACKING_OFF,
    CARDS,
    HEIR,
    HEIR_HOLD_S,
    REACH,
    SERVICE,
    STANDING,
    Cards,
)
from tests.chaos.environment import Environment
from tests.chaos.events import Deck, Event, Events
from tests.chaos.fleet import SETTINGS, START_S, SYMBOLS
from tests.chaos.judges import PRICE_STALE_S, stale_at
from tests.chaos.redis_cards import LONG_LINE_NOTE_S, REDIS, RedisCards
from tests.support import Line, RedisServer

CALM_S = 3.0  # after all is fresh again, for the checker to observe it
ROUND_S = 22.0  # the usual maximum: no round begins with less time left
BUSY_S = 4.0  # the most by which a busy machine delays a refresh
# `late` is always on: a candle is not final until so long after its close. Less than two refreshes
# of any timeframe.
LATE_S = 3
# The whole exchange is frozen until nothing of the shortest timeframe may be shown any more.
STANDSTILL, STANDSTILL_S = "standstill", 130.0
# What takes long, and so comes once a run at most, with its cost in time.
_LONG = {**dict.fromkeys(BACKING_OFF, 70.0), STANDSTILL: STANDSTILL_S + 20}
LONG_SHARE = 0.3  # of the rounds, while there are such cards and time for them
STANDING_S = 150.0  # longer than the shortest series may be shown
HEIR_SHARE = 0.2  # of the rounds, besides the first one
TOLD_S = 3.0  # into a round: by then the service was told of the hold that it begins with
RESTORE_SHARE = 0.1  # of the rounds, besides the first one
RESTORE_KEYS = 12
# After another service has started: until it leads and has begun to work.
TAKEOVER_S = SETTINGS.leader_ttl + 1 + START_S


def refreshed_within_s(timeframe: Timeframe, contradicted: bool = False) -> float:
    """How long the refresh in progress and the next one may take. The first answer that contradicts
    final candles is not believed: then it takes one refresh more, for a second one that agrees."""
    refreshes = 3 if contradicted else 2
    return refreshes * timeframe.refresh_s + SETTINGS.refresh_offset_ms / 1000 + BUSY_S


@dataclass
class Standing:
    """What one market is in for many rounds."""

    kind: str
    symbol: str
    since: float  # epoch seconds
    end: Callable[[], None]


class Storm:
    """Over the environment `own`. Its `neighbour` in another database shares Redis' faults only."""

    def __init__(
        self,
        seed: int,
        seconds: float,
        server: RedisServer,
        line: Line,
        own: Environment,
        neighbour: Environment,
    ) -> None:
        self._rng = random.Random(seed)
        self._seconds, self._neighbour = seconds, neighbour
        self._exchange, self._fleet = own.exchange, own.fleet
        self._record, self._checker = own.record, own.checker
        self._redis, self._services = Deck(self._rng, REDIS), Deck(self._rng, SERVICE)
        self._faults, self._heirs = Deck(self._rng, (*CARDS, *REACH)), Deck(self._rng, HEIR)
        self._states = Deck(self._rng, STANDING)
        self._long = self._rng.sample(tuple(_LONG), len(_LONG))
        self._standing: Standing | None = None
        self._began = time.monotonic()
        self._events = Events(self._rng)
        self.done = self._events.done
        # In the second half of the run, the oldest is spared, so that its memory can be judged.
        self._cards = Cards(
            self._rng,
            self._events,
            server,
            own,
            neighbour,
            lambda: self._left_s() < seconds / 2,
        )
        self._redis_cards = RedisCards(self._rng, self._events, server, line, own, (own, neighbour))
        # The neighbour is judged in a thread of its own, beside the rounds.
        self._beside = ThreadPoolExecutor(1)
        self._judging: list[Future[None]] = []

    def run(self) -> None:
        self._exchange.fault("late", seconds=LATE_S)
        self._fleet.start()
        self._fleet.start()
        self._neighbour.fleet.start()
        self._cards.neighbour_restarted = True
        self._calm(START_S)
        self._heir_round()  # these two in each run, however short
        self._restore_round()
        while self._left_s() > ROUND_S:
            self._change_standing()
            if long := self._deal_long():
                self._long_round(long)
            elif (drawn := self._rng.random()) < HEIR_SHARE:
                self._heir_round()
            elif drawn < HEIR_SHARE + RESTORE_SHARE:
                self._restore_round()
            else:
                self._round()
        for fleet in (self._fleet, self._neighbour.fleet):
            for name in fleet.names():
                fleet.terminate(name)

    def _left_s(self) -> float:
        return self._seconds - (time.monotonic() - self._began)

    def _deal_long(self) -> str:
        """One of the cards that take long; "" for none."""
        affordable = [kind for kind in self._long if self._left_s() > ROUND_S + _LONG[kind]]
        if not affordable or self._rng.random() > LONG_SHARE:
            return ""
        self._long.remove(affordable[0])
        return affordable[0]

    # rounds

    def _round(self) -> None:
        kinds = {self._faults.deal() for _ in range(self._rng.randint(2, 5))}
        if kinds & {*faults.REFUSALS}:
            kinds -= {*faults.WIRE, "gone"}  # a service that cannot see its ban may send on
        events = [*self._of_kinds(kinds), *self._redis_cards.of_redis(self._redis.deal())]
        touched = self._rng.random() < 0.8
        if touched:
            events += self._cards.of_service(self._services.deal())
        self._play(events, touched)

    def _long_round(self, kind: str) -> None:
        """Only with what adds to no hold, and lets the service see it."""
        kinds = self._harmless(self._rng.randint(0, 2)) - {"frozen"}
        events = [*self._of_kinds(kinds), *self._redis_cards.of_redis(self._redis.deal())]
        touched = kind == STANDSTILL and self._rng.random() < 0.5
        if kind == STANDSTILL:
            self._end_standing()  # else its market would go on, and back when this ends
            events += self._cards.of_exchange("frozen", None, (1.0, STANDSTILL_S), {})
        else:
            events += self._cards.of_exchange(kind, None)
        if touched:
            events += self._cards.of_service(self._services.deal())
        self._play(events, touched)

    def _heir_round(self) -> None:
        """The exchange refuses, and whoever takes over must know of it. Nothing hides the hold."""
        how = self._heirs.deal()
        if how != "restart" and len(self._fleet.names()) == 1:
            self._fleet.start()
            time.sleep(START_S)
        events: list[Event] = []
        more_s = 0.0
        if self._rng.random() < 0.5:
            events += self._redis_cards.of_long_line(HEIR_HOLD_S)
            more_s = LONG_LINE_NOTE_S
        events += self._cards.of_heir(how, self._rng.choice(tuple(faults.REFUSALS)), more_s)
        events += self._of_kinds(self._harmless(self._rng.randint(0, 2)))
        self._judge_neighbour(time.time() + TOLD_S)  # it was told of no hold
        self._play(events, touched=True)

    def _restore_round(self) -> None:
        """Keys are deleted while the exchange is gone: only the service's memory has their data."""
        began, past = time.time(), time.time() - PRICE_TTL_S
        # A market that was idle lately may have a price that the service no longer holds.
        symbols = [s for s in self._other_symbols() if self._cards.idle_until.get(s, 0.0) < past]
        self._events.doing(
            "redis keys deleted while the exchange is gone", self._fleet.close_doors
        )()
        events, deleted = self._redis_cards.of_lasting(1.0, symbols, RESTORE_KEYS)
        self._judge_neighbour(began)
        self._run(events)
        self._checker.judge_restored(deleted)
        self._fleet.open_doors()
        self._calm(0.0)

    def _harmless(self, count: int) -> set[str]:
        """Faults that hide no hold."""
        kinds = {self._faults.deal() for _ in range(count)}
        return kinds - {*faults.REFUSALS, *faults.WIRE, "gone"}

    def _of_kinds(self, kinds: set[str]) -> list[Event]:
        """The events of these faults of the exchange. Each changes the state of another market."""
        symbols = self._rng.sample(self._other_symbols(), len(REACH))
        events: list[Event] = []
        if self._standing and self._standing.kind in ("frozen", "quiet"):
            kinds -= {"frozen"}  # a later one would let that market go on, and back when it ends
        for kind in sorted(kinds):
            if kind in REACH:
                events += self._cards.of_reach(kind, symbols.pop())
            else:
                some = kind not in faults.REFUSALS and self._rng.random() < 0.4
                events += self._cards.of_exchange(kind, self._rng.choice(SYMBOLS) if some else None)
        return events

    def _other_symbols(self) -> list[str]:
        """Those whose market has been in nothing for long."""
        busy = {self._standing.symbol} if self._standing else set()
        return [symbol for symbol in SYMBOLS if symbol not in busy]

    def _play(self, events: list[Event], touched: bool) -> None:
        """Let everything happen, then judge the calm. `touched`: the leader may be another."""
        self._run(events)
        if not self._fleet.names():
            self._fleet.start()
        self._calm(TAKEOVER_S if touched else 0.0)

    def _run(self, events: list[Event]) -> None:
        began = time.monotonic()
        for at, act in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            act()

    def _calm(self, more_s: float) -> None:
        """From here on no fault is active, but that of one market perhaps: all must be fresh after
        one refresh, not counting the one in progress, plus `more_s`."""
        self._judge_neighbour(time.time())
        if (held_s := self._record.held_until() - time.time()) > 0:
            self._events.say(f"calm, on hold for {held_s:.1f} s")
            time.sleep(held_s)
        within_s: dict[Feed, float] = {}
        for symbol in SYMBOLS:
            contradicted = symbol in self._cards.contradicted
            for timeframe in SETTINGS.timeframes:
                feed = Feed(symbol, timeframe.name)
                within_s[feed] = refreshed_within_s(timeframe, contradicted) + more_s
            if self._cards.idle_until.get(symbol, 0.0) < time.time():
                # An old ticker is believed together with the candles.
                contradicted &= symbol not in self._other_symbols()
                price_s = refreshed_within_s(SETTINGS.price_timeframe, contradicted)
                within_s[Feed(symbol, PRICE)] = price_s + more_s
        since = time.time()
        self._checker.judge_freshness(since, within_s, self._stale())
        while self._judging:
            self._judging.pop().result()
        self._events.say(f"calm, all judged after {time.time() - since:.1f} s")
        self._cards.contradicted.clear()
        fault = self._cards.lie_once(self._rng.choice(self._other_symbols()))
        time.sleep(CALM_S)
        self._exchange.clear(fault)

    def _judge_neighbour(self, since: float) -> None:
        """The neighbour is fresh a refresh after `since`, whatever ails the exchange or services of
        the storm's own environment."""
        more_s = TAKEOVER_S if self._cards.neighbour_restarted else 0.0
        self._cards.neighbour_restarted = False
        timeframes = {timeframe.name: timeframe for timeframe in SETTINGS.timeframes}
        timeframes[PRICE] = SETTINGS.price_timeframe
        within_s = {
            Feed(symbol, what): refreshed_within_s(timeframe) + more_s
            for symbol in self._neighbour.symbols
            for what, timeframe in timeframes.items()
        }
        judge = self._neighbour.checker.judge_freshness
        self._judging.append(self._beside.submit(judge, since, within_s, {}))

    def _stale(self) -> dict[Feed, float]:
        """Until when something may be shown of a market that stands still (epoch seconds)."""
        if not self._standing or self._standing.kind not in ("frozen", "halted"):
            return {}
        symbol, since = self._standing.symbol, self._standing.since
        stale = {Feed(symbol, PRICE): since + PRICE_STALE_S}
        for timeframe in SETTINGS.timeframes:
            step_s = TIMEFRAME_MS[timeframe.name] / 1000
            stale[Feed(symbol, timeframe.name)] = stale_at(since, step_s)
        return stale

    # one market for many rounds

    def _change_standing(self) -> None:
        if self._standing is None:
            if self._left_s() > STANDING_S + 2 * ROUND_S:
                self._standing = self._stand(self._states.deal(), self._rng.choice(SYMBOLS))
        elif time.time() - self._standing.since > STANDING_S:
            self._end_standing()

    def _end_standing(self) -> None:
        if standing := self._standing:
            self._standing = None
            self._events.say(f"exchange no longer {standing.kind}, {standing.symbol}")
            standing.end()

    def _stand(self, kind: str, symbol: str) -> Standing:
        since = time.time()
        begin, end = self._cards.of_market(kind, symbol)
        self._events.doing(f"exchange {kind} for long, {symbol}", begin)()
        return Standing(kind, symbol, since, end)
