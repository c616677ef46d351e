"""Trades paper money on the signals of the TA service: no exchange, no orders, no fees.

An up signal buys for a fixed stake unless a position in that coin is open. A down signal of the
timeframe that opened a position sells all of it, even if it was published while this program was
away. The price is always `market:price:{symbol}`: without a fresh one nothing is bought, and a sale
waits until there is one. Of several instances one trades, and the others stand by.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import redis

import journal
from consumers import program
from consumers.market_cache import (
    BAD_DATA,
    SYMBOL,
    TOO_LARGE,
    MarketCache,
    NoData,
    check_time,
    now_ms,
    parse_json,
    price_key,
    timeframe_ms,
    update_channel,
)
from consumers.ta_service import (
    SIGNALS,
    SIGNALS_CHANNEL,
    Signal,
    parse_signal,
    parse_state,
    state_key,
)
from environment import Environment, decimal
from lease import Lease
from redis_log import Fenced

POSITIONS_KEY, TRADES_CHANNEL, LEADER_KEY = "paper:positions", "paper:trades", "paper:leader"
LEASE_TTL_S = 10.0
RENEW_EVERY_S = 2.0  # so that one lost renewal, or a few, do not cost the lease
MAX_AGE_S = 60.0  # of a signal to buy; a sale has no limit: late is better than never
MAX_CANDLES = 2  # that a signal to buy may span; a longer span means that it may be old
MISSED_DOWN = "missed_down"  # the exit signal for one that was published while nobody traded
CLOCK_SKEW_S = 5.0  # how far ahead of ours the clock of the TA service may be


@dataclass(frozen=True)
class Position:
    """`quantity` coins bought at `price` each at `opened` (ms UTC). `exit_signal` says why the
    position must be sold as soon as there is a price; "" if it need not be."""

    timeframe: str
    signal: str
    quantity: float
    price: float
    opened: int
    exit_signal: str = ""

    def check(self, symbol: str) -> None:
        """Raises market_cache.BAD_DATA if no trader has such a position in `symbol`."""
        if not SYMBOL.fullmatch(symbol):
            raise ValueError(f"{symbol!r} is not a symbol")
        timeframe_ms(self.timeframe)
        if self.signal not in SIGNALS or self.exit_signal not in ("", MISSED_DOWN, *SIGNALS):
            raise ValueError("an unknown signal")
        for number in (self.quantity, self.price):
            if type(number) not in (int, float) or not 0 < number < TOO_LARGE:
                raise ValueError(f"{symbol}: {number!r} is no quantity and no price")
        check_time(self.opened)


@dataclass(frozen=True)
class Book:
    """Open positions by symbol, and the profit of the closed ones. `revision` counts changes."""

    positions: dict[str, Position] = field(default_factory=dict)
    profit: float = 0.0
    trades: int = 0
    revision: int = 0

    @classmethod
    def from_json(cls, text: str) -> Book:
        """Raises market_cache.BAD_DATA if that is not a book."""
        body = dict(parse_json(text))
        positions = {symbol: Position(**each) for symbol, each in body.pop("positions").items()}
        book = cls(positions, **body)
        for symbol, position in positions.items():
            position.check(symbol)
        if {type(book.trades), type(book.revision)} != {int} or min(book.trades, book.revision) < 0:
            raise ValueError("a count is not a whole number")
        if type(book.profit) not in (int, float):
            raise ValueError("the profit is not a number")
        return book

    def changed(self, symbol: str, position: Position | None, **changes: Any) -> Book:
        """The next revision, with that position (None: no position) in `symbol`."""
        positions = {name: each for name, each in self.positions.items() if name != symbol}
        if position:
            positions[symbol] = position
        return replace(self, positions=positions, revision=self.revision + 1, **changes)


class PaperTrader:
    """Takes a turn at each signal and at each refresh."""

    def __init__(self, cache: MarketCache, stake: float) -> None:
        self._cache, self._stake = cache, stake
        self._lease = Lease(cache.client, LEADER_KEY, LEASE_TTL_S)
        # The fence of this turn, taken before anything is read: after a change of leader, even one
        # that the thread renewing the lease has already noticed, nothing of the turn is written.
        self._fence: tuple[str, str] | None = None
        self._book = Book()
        # The fence under which `_book` was what Redis has; None if that is not known.
        self._in_step_under: tuple[str, str] | None = None
        self._waiting: deque[Signal] = deque()  # received, not yet acted on
        self._refused: set[str] = set()  # symbols whose sale waits for a price, logged once

    def run(self) -> None:
        """Until the program ends; then another trader may go on at once."""
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        try:
            for message in self._cache.messages(SIGNALS_CHANNEL, update_channel("*")):
                with self._cache.attempt():
                    self.turn(message)
        finally:
            with suppress(redis.RedisError):
                self._lease.release()

    def _renew(self) -> None:
        """Messages come too rarely to renew the lease with them."""
        while True:
            time.sleep(RENEW_EVERY_S)
            with suppress(redis.RedisError):
                self._lease.claim()

    def turn(self, message: tuple[str, str] | None) -> None:
        """Act on a message, then on whatever is left to do, unless another trader leads."""
        if message is None:
            self._lease.claim()
        for _ in range(2):  # again if Redis lost the term with its data, but nobody took over
            self._fence = self._lease.fence()
            if self._lease.stands_by():
                self._waiting.clear()
                return
            try:
                self._work(message)
                return
            except Fenced:
                self._in_step_under = None
                self._lease.claim()
                message = None

    def _work(self, message: tuple[str, str] | None) -> None:
        if message and message[0] == SIGNALS_CHANNEL and (signal := _signal(message[1])):
            self._waiting.append(signal)
        # Redis may have lost the book without a failure: deleted, flushed, evicted.
        lost = self._book.revision and not self._cache.client.exists(POSITIONS_KEY)
        if message is None or lost or self._in_step_under != self._fence:
            self._load()
            self._catch_up()
        while self._waiting:
            self._act(self._waiting[0])
            self._waiting.popleft()
        for symbol, position in self._book.positions.items():
            if position.exit_signal:
                self._sell(symbol, position)

    def _load(self) -> None:
        """Keep the later of the books in memory and in Redis.

        Redis may be ahead: a trade whose answer was lost may have been executed. It may be behind:
        it was emptied, or restored from a copy. Raises program.Failure if the key holds anything
        but a book.
        """
        [read] = self._cache.logged.cache_read(POSITIONS_KEY)
        try:
            if read.value is None and read.left_s:
                raise TypeError("another type of key")
            stored = Book() if read.value is None else Book.from_json(read.value)
        except BAD_DATA as error:
            raise program.Failure(
                f"{POSITIONS_KEY} in Redis is not a book of positions ({error!r}). "
                f"To start afresh: redis-cli rename {POSITIONS_KEY} {POSITIONS_KEY}:broken"
            ) from None
        if stored.revision >= self._book.revision:
            self._book = stored
        else:
            journal.event(logging.WARNING, "positions_lost", positions=len(self._book.positions))
            self._keep(self._book)
        self._in_step_under = self._fence

    def _keep(self, book: Book) -> None:
        batch = self._cache.logged.batch()
        batch.cache_write(POSITIONS_KEY, json.dumps(asdict(book)))
        self._cache.logged.send(batch, fence=self._fence)
        self._book = book

    def _catch_up(self) -> None:
        """Sell each position for which a down signal was published that this program missed."""
        positions = self._book.positions
        keys = {symbol: state_key(symbol, each.timeframe) for symbol, each in positions.items()}
        states, _ = self._cache.read(keys, parse_state)
        for symbol, state in states.items():
            position = positions[symbol]
            if state.last_down > position.opened and not position.exit_signal:
                self._sell(symbol, replace(position, exit_signal=MISSED_DOWN))

    def _act(self, signal: Signal) -> None:
        position = self._book.positions.get(signal.symbol)
        rises = signal.signal.endswith("_up")
        if rises and position is None:
            self._buy(signal)
        elif not rises and position and position.timeframe == signal.timeframe:
            self._sell(signal.symbol, replace(position, exit_signal=signal.signal))

    def _buy(self, signal: Signal) -> None:
        symbol, age_s = signal.symbol, (now_ms() - signal.timestamp) / 1000
        candles = (signal.candle - signal.previous_candle) / timeframe_ms(signal.timeframe)
        if not -CLOCK_SKEW_S <= age_s <= MAX_AGE_S:
            self._refuse(symbol, f"{signal.signal} is {age_s:.0f} s old: not bought")
            return
        if candles > MAX_CANDLES:
            self._refuse(symbol, f"{signal.signal} came within {candles:.0f} candles: not bought")
            return
        try:
            price = self._cache.price(symbol).price
        except NoData as error:
            self._refuse(symbol, f"{error}: not bought on {signal.signal}")
            return
        position = Position(
            signal.timeframe, signal.signal, self._stake / price, price, opened=now_ms()
        )
        self._trade("buy", symbol, position, price, self._book.changed(symbol, position))

    def _sell(self, symbol: str, position: Position) -> None:
        """Sell if there is a price; else record in the book that the position must be sold."""
        try:
            price = self._cache.price(symbol).price
        except NoData as error:
            if symbol not in self._refused:
                self._refused.add(symbol)
                self._refuse(symbol, f"{error}: to be sold once there is a price")
            if self._book.positions[symbol] != position:
                self._keep(self._book.changed(symbol, position))
            return
        self._refused.discard(symbol)
        profit = (price - position.price) * position.quantity
        book = self._book.changed(symbol, None, profit=self._book.profit + profit)
        self._trade("sell", symbol, position, price, book, profit)

    def _trade(
        self,
        action: str,
        symbol: str,
        position: Position,
        price: float,
        book: Book,
        profit: float | None = None,
    ) -> None:
        """Write `book` and publish the trade in one transaction."""
        book = replace(book, trades=book.trades + 1)
        why = position.exit_signal or position.signal
        trade: dict[str, Any] = {
            "action": action,
            "symbol": symbol,
            "price": price,
            "quantity": position.quantity,
            "profit": profit,
            "signal": why,
            "timeframe": position.timeframe,
            "timestamp": now_ms(),
            "db": self._cache.logged.db,
        }
        summary = f"{action} {position.quantity:.8g} {symbol} at {price!r} on {why}"
        if profit is not None:
            summary += f", profit {profit:+.2f}"
        batch = self._cache.logged.batch()
        batch.cache_write(POSITIONS_KEY, json.dumps(asdict(book)))
        batch.trade(TRADES_CHANNEL, json.dumps(trade), summary)
        self._in_step_under = (
            None  # if the answer is lost, only Redis knows whether it was executed
        )
        self._cache.logged.send(batch, fence=self._fence)
        self._book, self._in_step_under = book, self._fence
        journal.event(logging.INFO, "trade", what=summary)

    def _refuse(self, symbol: str, reason: str) -> None:
        self._cache.logged.error(price_key(symbol), reason)
        journal.event(logging.WARNING, "refused", symbol=symbol, reason=reason)


def _signal(payload: str) -> Signal | None:
    """The Signal in a payload; None, with a warning, if the TA service cannot have published it."""
    try:
        return parse_signal(payload)
    except BAD_DATA:
        journal.event(logging.WARNING, "bad_signal", payload=payload[:500])
        return None


def main(env: Environment, _: argparse.Namespace) -> int:
    connection = program.Connection.read(env)
    stake = env.read("PAPER_STAKE", "100", decimal(0.01, 999_999_999))
    env.check()
    journal.event(logging.INFO, "start", stake=f"{stake:g}")
    PaperTrader(connection.cache("trader-bot"), stake).run()
    return 0


if __name__ == "__main__":
    settings = "  PAPER_STAKE                              100, in USDT a position"
    program.run(
        main,
        argparse.ArgumentParser(
            "paper_trader", description="Trades paper money on the signals of the TA service."
        ),
        settings,
    )
