"""Trades paper money on the signals of the TA service: no exchange, no orders, no fees.

An up signal buys for a fixed stake where no position in that coin is open; a down signal of the
timeframe that opened a position sells all of it, even if it was published while this program was
away. Both at `market:price:{symbol}`, and at no other: without a fresh price nothing is bought, and
a sale waits until there is one. Run only one of it.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from consumers import program
from consumers.market_cache import (
    BAD_DATA,
    MarketCache,
    NoData,
    now_ms,
    parse_json,
    price_key,
    timeframe_ms,
    update_channel,
)
from consumers.ta_service import SIGNALS_CHANNEL, Signal, parse_signal, parse_state, state_key

POSITIONS_KEY, TRADES_CHANNEL = "paper:positions", "paper:trades"
MAX_AGE_S = 60.0  # of a signal to buy; to sell late is better than not to sell
MAX_CANDLES = 2  # between the two that such a signal lies between, or it may be old news
CLOCK_S = 5.0  # by which a signal may seem to come from the future

log = logging.getLogger("paper_trader")


@dataclass(frozen=True)
class Position:
    """`price` was paid for each of `quantity` coins at `opened` (ms UTC). `exit_signal` is why it
    is to be sold as soon as there is a price, "" if it is not."""

    timeframe: str
    signal: str
    quantity: float
    price: float
    opened: int
    exit_signal: str = ""


@dataclass(frozen=True)
class Book:
    """All there is to remember: open positions by symbol, and what the closed ones brought.
    `revision` counts its changes."""

    positions: dict[str, Position] = field(default_factory=dict)
    profit: float = 0.0
    trades: int = 0
    revision: int = 0

    @classmethod
    def from_json(cls, text: str) -> Book:
        """Raises market_cache.BAD_DATA if it is none."""
        body = dict(parse_json(text))
        positions = {symbol: Position(**each) for symbol, each in body.pop("positions").items()}
        book = cls(positions, **body)
        if not all(each.quantity > 0 and each.price > 0 for each in positions.values()):
            raise ValueError("a position of nothing")
        if type(book.trades) is not int or type(book.revision) is not int:
            raise ValueError("counts that are no whole numbers")
        return replace(book, profit=float(book.profit))

    def changed(self, symbol: str, position: Position | None, **changes: Any) -> Book:
        """The next one, with that position, or none, in `symbol`."""
        positions = {name: each for name, each in self.positions.items() if name != symbol}
        if position:
            positions[symbol] = position
        return replace(self, positions=positions, revision=self.revision + 1, **changes)


class PaperTrader:
    """Takes a turn at each signal and at each refresh."""

    def __init__(self, cache: MarketCache, stake: float) -> None:
        self._cache, self._stake = cache, stake
        self._book = Book()
        self._sure = False  # whether `_book` is what Redis has
        self._waiting: deque[Signal] = deque()  # heard, not yet acted on
        self._refused: set[str] = set()  # symbols whose sale waits for a price, once said

    def run(self) -> None:
        for message in self._cache.messages(SIGNALS_CHANNEL, update_channel("*")):
            with self._cache.attempt():
                self.turn(message)

    def turn(self, message: tuple[str, str] | None) -> None:
        """Act on a message; on what is left to be done in any case."""
        if message and message[0] == SIGNALS_CHANNEL and (signal := _signal(message[1])):
            self._waiting.append(signal)
        if message is None or not self._sure:
            self._load()
            self._catch_up()
        while self._waiting:
            self._act(self._waiting[0])
            self._waiting.popleft()
        for symbol, position in self._book.positions.items():
            if position.exit_signal:
                self._sell(symbol, position)

    def _load(self) -> None:
        """The later book of memory and Redis is the true one: a trade whose answer was lost may
        have been done, and a Redis that was emptied or restored from a copy knows less than this
        program. Raises program.Failure if there is something else."""
        [read] = self._cache.logged.cache_read(POSITIONS_KEY)
        try:
            if read.value is None and read.left_s:
                raise TypeError("another type of key")
            stored = Book() if read.value is None else Book.from_json(read.value)
        except BAD_DATA as error:
            raise program.Failure(
                f"{POSITIONS_KEY} in Redis is no book of positions ({error!r}). "
                f"To begin with none: redis-cli rename {POSITIONS_KEY} {POSITIONS_KEY}:broken"
            ) from None
        if stored.revision >= self._book.revision:
            self._book = stored
        else:
            log.warning("event=positions_lost positions=%d", len(self._book.positions))
            self._keep(self._book)
        self._sure = True

    def _keep(self, book: Book) -> None:
        self._cache.logged.cache_write(POSITIONS_KEY, json.dumps(asdict(book)))
        self._book = book

    def _catch_up(self) -> None:
        """Sell what a down signal was published for that this program cannot have heard."""
        positions = self._book.positions
        keys = {symbol: state_key(symbol, each.timeframe) for symbol, each in positions.items()}
        states, _ = self._cache.read(keys, parse_state)
        for symbol, state in states.items():
            position = positions[symbol]
            if state.last_down > position.opened and not position.exit_signal:
                self._sell(symbol, replace(position, exit_signal="missed_down"))

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
        if not -CLOCK_S <= age_s <= MAX_AGE_S:
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
        """Sell if there is a price; else note in Redis that it is to be sold."""
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
        """Make `book` the one that holds, and tell of the trade: one transaction."""
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
        }
        summary = f"{action} {position.quantity:.8g} {symbol} at {price!r} on {why}"
        if profit is not None:
            summary += f", profit {profit:+.2f}"
        batch = self._cache.logged.batch()
        batch.cache_write(POSITIONS_KEY, json.dumps(asdict(book)))
        batch.trade(TRADES_CHANNEL, json.dumps(trade), summary)
        self._sure = False  # if the answer is lost, only Redis knows whether it was done
        self._cache.logged.send(batch)
        self._book, self._sure = book, True
        log.info("event=trade what=%s", json.dumps(summary))

    def _refuse(self, symbol: str, reason: str) -> None:
        self._cache.logged.error(price_key(symbol), reason)
        log.warning("event=refused symbol=%s reason=%s", json.dumps(symbol), json.dumps(reason))


def _signal(payload: str) -> Signal | None:
    """None, with a warning, if it is not what the TA service publishes."""
    try:
        return parse_signal(payload)
    except BAD_DATA:
        log.warning("event=bad_signal payload=%s", json.dumps(payload[:500]))
        return None


def main(connection: program.Connection, _: argparse.Namespace) -> int:
    stake = program.number("PAPER_STAKE", 100, 0.01, 999_999_999)
    log.info("event=start stake=%g", stake)
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
