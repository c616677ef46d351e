"""Trades paper money on the signals of the TA service: no exchange, no orders.

An up signal buys for a fixed stake unless a position in that coin is open. A down signal of the
timeframe that opened a position sells all of it, even if it was published while this program was
away. The price is always `market:price:{symbol}`, made worse by the slippage: without a fresh one
nothing is bought, and a sale waits until there is one. Each fill costs a fee. A sale is added to
the stream of closed trades in the transaction that changes the book. Of several instances one
trades, and the others stand by.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis

import journal
from consumers import program
from consumers.book import (
    MISSED_DOWN,
    POSITIONS_KEY,
    TRADES_LOG_KEY,
    TRADES_LOG_MAXLEN,
    Book,
    ClosedTrade,
    Costs,
    Position,
)
from consumers.market_cache import (
    BAD_DATA,
    MarketCache,
    NoData,
    now_ms,
    price_key,
    timeframe_ms,
    update_channel,
)
from consumers.ta_service import (
    SIGNALS_CHANNEL,
    Signal,
    parse_signal,
    parse_state,
    state_key,
)
from environment import Environment, decimal
from lease import Lease
from redis_log import Batch, Fenced

TRADES_CHANNEL, LEADER_KEY = "paper:trades", "paper:leader"
LEASE_TTL_S = 10.0
RENEW_EVERY_S = 2.0  # so that one lost renewal, or a few, do not cost the lease
MAX_AGE_S = 60.0  # of a signal to buy; a sale has no limit: late is better than never
MAX_CANDLES = 2  # that a signal to buy may span; a longer span means that it may be old
CLOCK_SKEW_S = 5.0  # how far ahead of ours the clock of the TA service may be
REMEMBERED = 1000  # closed trades, which are added again to a stream that lost them


class PaperTrader:
    """Takes a turn at each signal and at each refresh."""

    def __init__(self, cache: MarketCache, stake: float, costs: Costs) -> None:
        self._cache, self._stake, self._costs = cache, stake, costs
        self._lease = Lease(cache.client, LEADER_KEY, LEASE_TTL_S)
        # The fence of this turn, taken before anything is read: after a change of leader, even one
        # that the thread renewing the lease has already noticed, nothing of the turn is written.
        self._fence: tuple[str, str] | None = None
        self._book = Book()
        # The fence under which `_book` was what Redis has; None if that is not known.
        self._in_step_under: tuple[str, str] | None = None
        self._waiting: deque[Signal] = deque()  # received, not yet acted on
        self._refused: set[str] = set()  # symbols whose sale waits for a price, logged once
        self._closed: deque[ClosedTrade] = deque(maxlen=REMEMBERED)  # by this process
        self._log_refused = ""  # why the stream of closed trades was last refused

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
        unsure = message is None or self._in_step_under != self._fence
        if unsure or lost or self._log_refused:
            self._load()
            self._refused &= self._book.positions.keys()  # another trader may have sold others
            self._complete_log()
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
        batch.cache_write(POSITIONS_KEY, book.json())
        self._cache.logged.send(batch, fence=self._fence)
        self._book = book

    def _complete_log(self) -> None:
        """Add to the stream what this process closed and the stream lacks: it was refused, emptied,
        or restored from a copy. What another process closed is lost with the stream."""
        if not self._closed:
            return
        try:
            entries: Any = self._cache.client.xrevrange(TRADES_LOG_KEY, count=2 * REMEMBERED)
            # There is one position a symbol, so its opening tells its trade from others.
            present = {(each.get("symbol"), each.get("opened")) for _, each in entries}
            lacking = [t for t in self._closed if (t.symbol, str(t.opened)) not in present]
            batch = self._cache.logged.batch()
            for trade in lacking:
                _log(batch, trade)
            self._cache.logged.send(batch, fence=self._fence)
        except redis.ResponseError as error:
            self._note_log(error)
            return
        self._note_log("")
        if lacking:
            journal.event(logging.WARNING, "trades_added_again", trades=len(lacking))

    def _note_log(self, reason: object) -> None:
        if reason and not self._log_refused:
            journal.event(logging.WARNING, "trades_log_refused", reason=reason)
            self._cache.logged.error(TRADES_LOG_KEY, f"closed trades cannot be added: {reason}")
        self._log_refused = str(reason)

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
            price = self._costs.buy_price(self._cache.price(symbol).price)
        except NoData as error:
            self._refuse(symbol, f"{error}: not bought on {signal.signal}")
            return
        fee, opened = self._costs.fee(self._stake), now_ms()
        quantity = self._stake / price
        position = Position(signal.timeframe, signal.signal, quantity, price, opened, fee=fee)
        self._trade(symbol, position, price, fee)

    def _sell(self, symbol: str, position: Position) -> None:
        """Sell if there is a price; else record in the book that the position must be sold."""
        try:
            price = self._costs.sell_price(self._cache.price(symbol).price)
        except NoData as error:
            if symbol not in self._refused:
                self._refuse(symbol, f"{error}: to be sold once there is a price")
                self._refused.add(symbol)
            if self._book.positions[symbol] != position:
                self._keep(self._book.changed(symbol, position))
            return
        self._refused.discard(symbol)
        fee = self._costs.fee(price * position.quantity)
        closed = position.sold(symbol, price, fee, now_ms())
        self._trade(symbol, position, price, fee, closed)

    def _trade(
        self,
        symbol: str,
        position: Position,
        price: float,
        fee: float,
        closed: ClosedTrade | None = None,
    ) -> None:
        """Fill: write the book, add a closed trade to the stream, and publish, in one transaction.
        Without `closed` it is a purchase."""
        action, why = "sell" if closed else "buy", position.exit_signal or position.signal
        summary = f"{action} {position.quantity:.8g} {symbol} at {price:.10g} on {why}"
        profit, trades = self._book.profit, self._book.trades + 1
        if closed:
            profit += closed.profit
            summary += f", profit {closed.profit:+.2f}"
        kept = None if closed else position
        book = self._book.changed(symbol, kept, profit=profit, trades=trades)
        trade: dict[str, Any] = {
            "action": action,
            "symbol": symbol,
            "price": price,
            "quantity": position.quantity,
            "fee": fee,
            "profit": closed and closed.profit,
            "signal": why,
            "timeframe": position.timeframe,
            "timestamp": now_ms(),
            "db": self._cache.logged.db,
        }
        batch = self._cache.logged.batch()
        batch.cache_write(POSITIONS_KEY, book.json())
        batch.trade(TRADES_CHANNEL, json.dumps(trade), summary)
        # If the answer is lost, only Redis knows whether it was executed.
        self._in_step_under = None
        if closed:
            self._send_with_log(batch, closed, book)
        else:
            self._cache.logged.send(batch, fence=self._fence)
        self._book, self._in_step_under = book, self._fence
        journal.event(logging.INFO, "trade", what=summary)

    def _send_with_log(self, batch: Batch, closed: ClosedTrade, book: Book) -> None:
        """Send `batch`, and with it the entry of `closed`. The book is what counts: a stream that
        Redis refuses to add to does not keep the trade from being made."""
        with_log = self._cache.logged.batch()
        with_log.commands, with_log.entries = [*batch.commands], [*batch.entries]
        _log(with_log, closed)
        try:
            self._cache.logged.send(with_log, fence=self._fence)
        except redis.ResponseError as error:
            self._load()  # another type of key is noticed only when all else was executed
            if self._book.revision < book.revision:
                self._in_step_under = None
                self._cache.logged.send(batch, fence=self._fence)
            self._note_log(error)
        self._closed.append(closed)

    def _refuse(self, symbol: str, reason: str) -> None:
        self._cache.logged.error(price_key(symbol), reason)
        journal.event(logging.WARNING, "refused", symbol=symbol, reason=reason)


def _log(batch: Batch, trade: ClosedTrade) -> None:
    summary = f"{trade.symbol} {trade.timeframe} closed, profit {trade.profit:+.2f}"
    batch.append(TRADES_LOG_KEY, trade.fields(), TRADES_LOG_MAXLEN, summary)


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
    costs = Costs(
        env.read("PAPER_FEE_PCT", "0.1", decimal(0, 50)),
        env.read("PAPER_SLIPPAGE_PCT", "0.05", decimal(0, 50)),
    )
    env.check()
    says = {name: f"{value:g}" for name, value in costs._asdict().items()}
    journal.event(logging.INFO, "start", stake=f"{stake:g}", **says)
    PaperTrader(connection.cache("trader-bot"), stake, costs).run()
    return 0


SETTINGS = """\
  PAPER_STAKE                              100, in USDT a position
  PAPER_FEE_PCT                            0.1, in percent of its value, for each buy and each sale
  PAPER_SLIPPAGE_PCT                       0.05, in percent: buys fill higher, sales lower
"""

if __name__ == "__main__":
    program.run(
        main,
        argparse.ArgumentParser(
            "paper_trader", description="Trades paper money on the signals of the TA service."
        ),
        SETTINGS,
    )
