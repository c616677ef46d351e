"""All candles and prices that the service holds, and what Redis still lacks of them.

Knows nothing of Redis and HTTP, and asks nobody: loops put in what was read, the writer takes out
what is to be sent, everyone else looks.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from binance_answers import (
    UNKNOWN_SYMBOL,
    BinanceError,
    Idle,
    Listing,
    Outdated,
    Retryable,
    Stopped,
)
from candles import PRICE, Feed, Price, Series, Update, boot_s
from journal import event
from judge import Judge, Results
from settings import Settings, Timeframe

LISTING_TTL_S = 7200.0  # the listing is read once an hour, and may fail once


@dataclass(frozen=True)
class Pending:
    """What Redis lacks at one moment, to be sent in one transaction."""

    entries: dict[Feed, Series | Price]
    errors: dict[Feed, str]  # failures for the message log
    updates: dict[str, Update]  # by timeframe; they name nothing that has expired
    of_all: Update | None  # for market:update:all
    timeframes: list[str]  # that of_all is about
    # For Store.sent:
    since_all: set[str]  # timeframes that, with this, are published since the last of_all
    resends: int  # how often everything had to be sent again before
    forgets: int  # how often everything was dropped before

    def __bool__(self) -> bool:
        return bool(self.entries or self.errors or self.updates)


class StoreView(NamedTuple):
    """A copy of what is held, for those who only look."""

    held: dict[Feed, Series | Price]
    failing: dict[Feed, BinanceError]  # why the last read of each failed
    failing_since: dict[Feed, float]  # when the first of these failures came, epoch seconds
    newest_ms: dict[Feed, int]  # ever seen
    idle: list[str]  # symbols without a trade in 24 h
    halted: dict[str, str]  # symbols that are listed but not traded: their status
    refreshes: dict[str, tuple[int, float]]  # by timeframe: how many, and their seconds
    filled: bool  # whether every timeframe has been read and published once


class _News:
    """What a refresh tells the journal, in one line for all symbols of which the same is true."""

    def __init__(self) -> None:
        self._symbols: dict[tuple[str, str, str], list[str]] = {}  # by event, what and reason

    def add(self, name: str, feed: Feed, reason: str = "") -> None:
        self._symbols.setdefault((name, feed.what, reason), []).append(feed.symbol)

    def log(self) -> None:
        for (name, what, reason), symbols in self._symbols.items():
            why = {"reason": reason} if reason else {}
            event(
                logging.WARNING if reason else logging.INFO,
                name,
                what=what,
                symbols=",".join(symbols),
                **why,
            )


class Store:
    """Held data and open deliveries for the symbols and timeframes of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._symbols = settings.symbols
        self._timeframes = [timeframe.name for timeframe in settings.timeframes]
        # Guards all fields below. Loops take results, their workers and HTTP threads read, the
        # writer collects what is pending and notes what was sent, whoever claims the lease makes it
        # forget. Unlocked, a commit could miss what a refresh is just storing, or note as sent what
        # has replaced it. Nobody waits or logs inside.
        self._lock = threading.Lock()
        self._judge = Judge(settings.candle_limit)
        self._held: dict[Feed, Series | Price] = {}
        self._failing: dict[Feed, BinanceError] = {}
        self._failing_since: dict[Feed, float] = {}  # of each that is failing, epoch seconds
        self._idle: dict[Feed, Idle] = {}
        self._unwritten: set[Feed] = set()  # Redis lacks what is held
        self._unlogged: dict[Feed, str] = {}  # failures that the message log lacks
        self._unpublished: dict[str, Update] = {}  # by timeframe: not yet collected
        self._in_flight: dict[str, Update] = {}  # by timeframe: collected, and not known as sent
        self._last: dict[str, Update] = {}  # by timeframe: its last refresh
        self._since_all: set[str] = set()  # timeframes published since the last market:update:all
        self._filled = False
        self._resends = self._forgets = 0
        self._forgot_at = -math.inf  # monotonic
        self._refreshes: dict[str, tuple[int, float]] = {}
        self._listing: tuple[Listing, float] | None = None  # and when it expires

    # --- what was read ---

    def take(self, timeframe: Timeframe, results: Results, started: float) -> Update:
        """Hold what a refresh that `started` (monotonic) has read, keep what it has not, and log
        what began to fail and what works again.

        Nothing is taken of a refresh that started before the store forgot everything: another
        instance led since, and what it wrote may be newer.
        """
        news = _News()
        with self._lock:
            if started <= self._forgot_at:
                return Update(set(), set(), round(time.time() * 1000), 0)
            judged, replaced = self._judge.judge(timeframe, results, self._held)
            for feed, reason in replaced.items():
                news.add("candles_replaced", feed, reason)
            for feed, result in judged.items():
                self._take_one_locked(feed, result, news)
            update = self._note_refresh_locked(timeframe.name, judged, started)
        news.log()
        return update

    def _take_one_locked(
        self, feed: Feed, result: Series | Price | BinanceError, news: _News
    ) -> None:
        before = self._failing.get(feed)
        if isinstance(result, Stopped):  # the program is ending: neither read nor failed
            return
        if isinstance(result, BinanceError) and not isinstance(result, Idle):
            if is_unknown(before) and isinstance(result, Retryable):
                return  # a passing trouble does not make the symbol known
            if before is None:
                news.add("fetch_failing", feed, result.reason)
                self._unlogged[feed] = result.reason
                self._failing_since[feed] = time.time()
            self._failing[feed] = result
            return
        if self._failing.pop(feed, None):
            del self._failing_since[feed]
            news.add("fetch_mended", feed)
        if isinstance(result, Idle):
            self._drop_locked(feed)
            self._idle[feed] = result
            return
        for reason in self._new_bad_locked(feed, result):
            news.add("candle_left_out", feed, reason)
        self._idle.pop(feed, None)
        self._held[feed] = result
        self._unwritten.add(feed)

    def _new_bad_locked(self, feed: Feed, read: Series | Price) -> list[str]:
        """The reasons for candles that were left out of `read`, if not of what is held."""
        if not isinstance(read, Series):
            return []
        held = self._held.get(feed)
        known = held.candles.bad if isinstance(held, Series) else ()
        return [bad.reason for bad in read.candles.bad if bad not in known]

    def _drop_locked(self, feed: Feed) -> None:
        self._held.pop(feed, None)
        self._unwritten.discard(feed)

    def _note_refresh_locked(self, timeframe: str, judged: Results, started: float) -> Update:
        """Note one refresh of `timeframe`, to be published."""
        candles = {feed.symbol: result for feed, result in judged.items() if feed.what != PRICE}
        duration_s = time.monotonic() - started
        update = Update(
            updated={symbol for symbol, each in candles.items() if isinstance(each, Series)},
            failed={
                symbol
                for symbol, each in candles.items()
                if isinstance(each, BinanceError) and not isinstance(each, Stopped)
            },
            timestamp=round(time.time() * 1000),
            duration_ms=round(duration_s * 1000),
        )
        count, seconds = self._refreshes.get(timeframe, (0, 0.0))
        self._refreshes[timeframe] = count + 1, seconds + duration_s
        if update.updated or update.failed:
            self._last[timeframe] = update
            self._unpublished[timeframe] = update.including(self._unpublished.get(timeframe))
        return update

    def take_listing(self, listing: Listing) -> None:
        with self._lock:
            self._listing = listing, boot_s() + LISTING_TTL_S

    def saw(self, newest_ms: dict[Feed, int]) -> None:
        """Redis holds data up to these times, so nothing older is believed any more."""
        with self._lock:
            for feed, seen_ms in self._judge.saw(newest_ms).items():
                if (held := self._held.get(feed)) and held.newest_ms < seen_ms:
                    self._drop_locked(feed)

    def forget(self) -> None:
        """Drop everything but what is known of the exchange: another instance led meanwhile, and
        what it wrote may be newer."""
        with self._lock:
            self._forgets += 1
            self._forgot_at = time.monotonic()
            self._held.clear()
            self._failing.clear()
            self._failing_since.clear()
            self._idle.clear()
            self._judge.forget()
            self._unwritten.clear()
            self._unlogged.clear()
            self._unpublished.clear()
            self._in_flight.clear()
            self._last.clear()
            self._since_all.clear()
            self._filled = False

    # --- what Redis lacks ---

    def pending(self) -> Pending:
        """Everything that Redis lacks. Call `sent` once Redis has it, or `pending` again. One
        caller at a time: the writer's commit lock sees to it.
        """
        with self._lock:
            # Whatever is in flight still was not sent: it is told with what came since.
            for name, update in self._in_flight.items():
                newer = self._unpublished.get(name)
                self._unpublished[name] = newer.including(update) if newer else update
            self._in_flight, self._unpublished = self._unpublished, {}
            now, updates = boot_s(), self._in_flight
            fresh = {
                name: updates.get(name, last).without(self._expired_locked(name, now))
                for name, last in self._last.items()
            }
            brought = {name for name, update in updates.items() if update.updated}
            since_all = (self._since_all | brought) & self._last.keys()
            of_all = None
            if len(since_all) == len(self._timeframes):
                of_all = Update.of_all(list(fresh.values()))
            return Pending(
                entries={feed: self._held[feed] for feed in _in_order(self._unwritten)},
                errors=dict(self._unlogged),
                updates={name: fresh[name] for name in updates},
                of_all=of_all,
                timeframes=self._timeframes,
                since_all=since_all,
                resends=self._resends,
                forgets=self._forgets,
            )

    def sent(self, pending: Pending) -> None:
        """Redis has `pending`. What came since stays pending."""
        with self._lock:
            if pending.forgets != self._forgets:  # nothing of it is held any more
                return
            for feed, entry in pending.entries.items():
                # After a resend() meanwhile, Redis may have lost even this.
                if self._held.get(feed) is entry and pending.resends == self._resends:
                    self._unwritten.discard(feed)
            for feed, reason in pending.errors.items():
                if self._unlogged.get(feed) == reason:
                    del self._unlogged[feed]
            self._in_flight.clear()
            self._since_all = set() if pending.of_all else pending.since_all
            self._filled = self._filled or pending.of_all is not None

    def is_behind(self) -> bool:
        """Whether Redis lacks anything."""
        with self._lock:
            updates = self._unpublished or self._in_flight
            return bool(self._unwritten or self._unlogged or updates)

    def resend(self) -> None:
        """Redis may have lost what it had, so it lacks all that is held."""
        with self._lock:
            self._resends += 1
            self._unwritten.update(self._held)

    def expected_in_redis(self, for_s: float) -> list[Feed]:
        """What Redis must have, for the next `for_s` seconds at least."""
        with self._lock:
            now = boot_s()
            return [
                feed
                for feed, entry in self._held.items()
                if feed not in self._unwritten and entry.expires_at - now > for_s
            ]

    # --- what others see ---

    def held(self, feed: Feed) -> Series | Price | None:
        """What is held, however old."""
        with self._lock:
            return self._held.get(feed)

    def fresh(self, feed: Feed) -> Series | Price | None:
        """What is held, if it is younger than its TTL."""
        held = self.held(feed)
        return held if held and held.expires_at > boot_s() else None

    def failure(self, feed: Feed) -> BinanceError | None:
        """Why the last read failed, or brought no price."""
        with self._lock:
            return self._failing.get(feed) or self._idle.get(feed)

    def is_disputed(self, feed: Feed) -> bool:
        """Whether answers contradicted each other lately, so that only whole ones can tell."""
        with self._lock:
            return self._judge.is_disputed(feed)

    def standstill(self) -> str:
        """What is old of most symbols: then it is the exchange that stands still. Else ""."""
        with self._lock:
            traded = [symbol for symbol in self._symbols if symbol not in self._halted_locked()]
            for what in (*self._timeframes, PRICE):
                failing = [self._failing.get(Feed(symbol, what)) for symbol in traded]
                old = [error.reason for error in failing if isinstance(error, Outdated)]
                if len(old) > len(traded) / 2:
                    return f"{what} of {len(old)} of {len(traded)} symbols: {old[0]}"
        return ""

    def has_unexplained(self) -> bool:
        """Whether a market stands still that the listing, as last read, has as traded."""
        with self._lock:
            old = {feed.symbol for feed, e in self._failing.items() if isinstance(e, Outdated)}
            return bool(old - self._halted_locked().keys())

    def unknown_symbols(self) -> list[str]:
        """Symbols that the exchange says it has not."""
        with self._lock:
            return [s for s in self._symbols if is_unknown(self._failing.get(Feed(s, PRICE)))]

    def listing(self) -> Listing | None:
        """The last listing of symbols, if it is fresh."""
        with self._lock:
            found = self._listing
        return found[0] if found and found[1] > boot_s() else None

    def view(self) -> StoreView:
        with self._lock:
            return StoreView(
                held=dict(self._held),
                failing=dict(self._failing),
                failing_since=dict(self._failing_since),
                newest_ms=dict(self._judge.newest_ms),
                idle=[feed.symbol for feed in self._idle],
                halted=self._halted_locked(),
                refreshes=dict(self._refreshes),
                filled=self._filled,
            )

    def _halted_locked(self) -> dict[str, str]:
        listing = self._listing[0].statuses if self._listing else {}
        return {symbol: status for symbol, status in listing.items() if status != "TRADING"}

    def _expired_locked(self, timeframe: str, now: float) -> set[str]:
        """The symbols whose candles are too old to be shown."""
        feeds = {symbol: self._held.get(Feed(symbol, timeframe)) for symbol in self._symbols}
        return {symbol for symbol, held in feeds.items() if not held or held.expires_at <= now}


def _in_order(feeds: Iterable[Feed]) -> list[Feed]:
    """Candles by timeframe, then prices, as they go into the message log."""
    return sorted(feeds, key=lambda feed: (feed.what == PRICE, feed.what, feed.symbol))


def is_unknown(error: BinanceError | None) -> bool:
    """Whether the exchange says that it has no such symbol."""
    return error is not None and error.code == UNKNOWN_SYMBOL
