"""Trades paper money on the signals of the TA service: no exchange, no orders, no fees.

An up signal buys for a fixed stake where no position in that coin is open; a down signal of the
timeframe that opened a position sells all of it. Both at `market:price:{symbol}`, and at no other:
without a fresh price nothing is bought, and a sale waits until there is one. Run only one of it.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from consumers import program
from consumers.market_cache import MarketCache, NoData, now_ms, price_key, update_channel
from consumers.ta_service import SIGNALS_CHANNEL, Signal

POSITIONS_KEY, TRADES_CHANNEL = "paper:positions", "paper:trades"
MAX_AGE_S = 60.0  # of a signal to buy; to sell late is better than not to sell

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
    """All there is to remember: open positions by symbol, and what the closed ones brought."""

    positions: dict[str, Position] = field(default_factory=dict)
    profit: float = 0.0
    trades: int = 0

    @classmethod
    def from_json(cls, text: str) -> Book:
        """Raises TypeError or ValueError if it is none."""
        body = dict(json.loads(text))
        positions = {symbol: Position(**each) for symbol, each in body.pop("positions").items()}
        if not all(each.quantity > 0 and each.price > 0 for each in positions.values()):
            raise ValueError("a position of nothing")
        return cls(positions, **body)

    def with_position(self, symbol: str, position: Position) -> Book:
        return replace(self, positions={**self.positions, symbol: position})

    def without(self, symbol: str) -> Book:
        rest = {name: each for name, each in self.positions.items() if name != symbol}
        return replace(self, positions=rest)


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
        while self._waiting:
            self._act(self._waiting[0])
            self._waiting.popleft()
        for symbol, position in self._book.positions.items():
            if position.exit_signal:
                self._sell(symbol, position)

    def _load(self) -> None:
        """Read the book. What Redis has is what happened, but a Redis that came back empty gets
        the book that is in memory. Raises program.Failure if there is something else there."""
        [read] = self._cache.logged.cache_read(POSITIONS_KEY)
        if read.value is not None:
            try:
                self._book = Book.from_json(read.value)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise program.Failure(
                    f"{POSITIONS_KEY} in Redis is no book of positions ({error!r}). "
                    f"To begin with none: redis-cli rename {POSITIONS_KEY} {POSITIONS_KEY}:broken"
                ) from None
        elif self._book != Book():
            log.warning("event=positions_lost positions=%d", len(self._book.positions))
            self._cache.logged.cache_write(POSITIONS_KEY, json.dumps(asdict(self._book)))
        self._sure = True

    def _act(self, signal: Signal) -> None:
        position = self._book.positions.get(signal.symbol)
        rises = signal.signal.endswith("_up")
        if rises and position is None:
            self._buy(signal)
        elif not rises and position and position.timeframe == signal.timeframe:
            self._sell(signal.symbol, replace(position, exit_signal=signal.signal))

    def _buy(self, signal: Signal) -> None:
        symbol, age_s = signal.symbol, (now_ms() - signal.timestamp) / 1000
        if age_s > MAX_AGE_S:
            self._refuse(symbol, f"{signal.signal} is {age_s:.0f} s old: not bought")
            return
        try:
            price = self._cache.price(symbol).price
        except NoData as error:
            self._refuse(symbol, f"{error}: not bought on {signal.signal}")
            return
        position = Position(
            signal.timeframe, signal.signal, self._stake / price, price, opened=now_ms()
        )
        self._trade("buy", symbol, position, price, self._book.with_position(symbol, position))

    def _sell(self, symbol: str, position: Position) -> None:
        """Sell if there is a price; else note in Redis that it is to be sold."""
        try:
            price = self._cache.price(symbol).price
        except NoData as error:
            if symbol not in self._refused:
                self._refused.add(symbol)
                self._refuse(symbol, f"{error}: to be sold once there is a price")
            if self._book.positions[symbol] != position:
                book = self._book.with_position(symbol, position)
                self._cache.logged.cache_write(POSITIONS_KEY, json.dumps(asdict(book)))
                self._book = book
            return
        self._refused.discard(symbol)
        profit = (price - position.price) * position.quantity
        book = replace(self._book.without(symbol), profit=self._book.profit + profit)
        self._trade("sell", symbol, position, price, book, profit)

    def _trade(
        self, action: str, symbol: str, position: Position, price: float, book: Book,
        profit: float | None = None,
    ) -> None:  # fmt: skip
        """Make `book` the one that holds, and tell of the trade: one transaction."""
        book = replace(book, trades=book.trades + 1)
        why = position.exit_signal or position.signal
        trade: dict[str, Any] = {
            "action": action, "symbol": symbol, "price": price, "quantity": position.quantity,
            "profit": profit, "signal": why, "timeframe": position.timeframe,
            "timestamp": now_ms(),
        }  # fmt: skip
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
        signal = Signal(**json.loads(payload))
        known = signal.signal.endswith(("_up", "_down")) and signal.symbol.isalnum()
        if known and signal.timestamp > 0:
            return signal
    except (AttributeError, TypeError, ValueError):
        pass
    log.warning("event=bad_signal payload=%s", json.dumps(payload))
    return None


def main(connection: program.Connection, _: argparse.Namespace) -> int:
    stake = program.number("PAPER_STAKE", 100, 0.01, 999_999_999)
    log.info("event=start stake=%g", stake)
    PaperTrader(connection.cache("trader-bot"), stake).run()
    return 0


if __name__ == "__main__":
    settings = "  PAPER_STAKE                              100, in USDT a position"
    program.run(main, argparse.ArgumentParser(
        "paper_trader", description="Trades paper money on the signals of the TA service."
    ), settings)  # fmt: skip
