"""The paper trader's book of open positions, its closed trades, and what they cost and bring.

The book is the JSON of `paper:positions`; a closed trade is an entry of the stream
`paper:trades:log`. Any program may write there, so whoever reads validates. All amounts are in the
quote currency of the symbol. Knows nothing of signals, of the lease, or of how Redis is reached.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from consumers.market_cache import SYMBOL, TOO_LARGE, check_time, parse_json, timeframe_ms
from consumers.ta_service import SIGNALS

POSITIONS_KEY, TRADES_LOG_KEY = "paper:positions", "paper:trades:log"
TRADES_LOG_MAXLEN = 100_000  # entries, about
MISSED_DOWN = "missed_down"  # the exit signal for one that was published while nobody traded
EXIT_SIGNALS = (MISSED_DOWN, *SIGNALS)
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?")
_TIME = re.compile(r"[0-9]{1,15}")


class Costs(NamedTuple):
    """`fee_pct` of its value is paid for each fill; a fill is `slippage_pct` worse than the market:
    a buy that much higher, a sale that much lower."""

    fee_pct: float
    slippage_pct: float

    def buy_price(self, market: float) -> float:
        return market * (1 + self.slippage_pct / 100)

    def sell_price(self, market: float) -> float:
        return market * (1 - self.slippage_pct / 100)

    def fee(self, value: float) -> float:
        return value * self.fee_pct / 100


@dataclass(frozen=True)
class Position:
    """`quantity` coins bought at `price` each, and for `fee`, at `opened` (ms UTC). `exit_signal`
    says why the position must be sold as soon as there is a price; "" if it need not be.

    A book that was written before there were fees has none for what was open then: it counts as 0.
    """

    timeframe: str
    signal: str
    quantity: float
    price: float
    opened: int
    exit_signal: str = ""
    fee: float = 0.0

    def check(self, symbol: str) -> None:
        """Raises market_cache.BAD_DATA if no trader has such a position in `symbol`."""
        _check_names(symbol, self.timeframe, self.signal)
        if self.exit_signal not in ("", *EXIT_SIGNALS):
            raise ValueError("an unknown signal")
        for number in (self.quantity, self.price, self.fee):
            if type(number) not in (int, float):
                raise ValueError(f"{symbol}: {number!r} is not a number")
        _check_amounts(self.quantity, self.price, fees=self.fee)
        check_time(self.opened)

    def unrealised_profit(self, price: float) -> float:
        """What the coins are worth more at `price` than they cost, the entry's fee included. The
        fee and the slippage of a sale are not in it: they are paid when it is made."""
        return (price - self.price) * self.quantity - self.fee

    def sold(self, symbol: str, price: float, fee: float, now_ms: int) -> ClosedTrade:
        """The trade that a sale at `price` a coin, and for `fee`, makes of this position."""
        fees = self.fee + fee
        return ClosedTrade(
            symbol=symbol,
            timeframe=self.timeframe,
            signal=self.signal,
            exit_signal=self.exit_signal,
            quantity=self.quantity,
            entry_price=self.price,
            exit_price=price,
            opened=self.opened,
            closed=max(now_ms, self.opened),  # the clock may have been set back
            fees=fees,
            profit=profit(self.quantity, self.price, price, fees),
        )


def profit(quantity: float, entry_price: float, exit_price: float, fees: float) -> float:
    """What a closed trade brought: (exit_price - entry_price) * quantity - fees. Slippage is in the
    prices, which are those of the fills; `fees` are those of both."""
    return (exit_price - entry_price) * quantity - fees


@dataclass(frozen=True)
class Book:
    """Open positions by symbol, and the profit of the closed ones. `trades` counts purchases and
    sales, `revision` changes."""

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

    def json(self) -> str:
        return json.dumps(asdict(self))

    def changed(self, symbol: str, position: Position | None, **changes: Any) -> Book:
        """The next revision, with that position (None: no position) in `symbol`."""
        positions = {name: each for name, each in self.positions.items() if name != symbol}
        if position:
            positions[symbol] = position
        return replace(self, positions=positions, revision=self.revision + 1, **changes)


class ClosedTrade(NamedTuple):
    """`quantity` coins bought on `signal` at `opened` and sold on `exit_signal` at `closed` (ms
    UTC); the prices are those of the fills, `fees` those of both, `profit` is after them."""

    symbol: str
    timeframe: str
    signal: str
    exit_signal: str
    quantity: float
    entry_price: float
    exit_price: float
    opened: int
    closed: int
    fees: float
    profit: float

    @property
    def profit_pct(self) -> float:
        """The profit in percent of what the coins were bought for, without the fee."""
        return self.profit / (self.quantity * self.entry_price) * 100

    def fields(self) -> dict[str, str]:
        """As an entry of the stream."""
        return {name: str(value) for name, value in self._asdict().items()}

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> ClosedTrade:
        """Raises market_cache.BAD_DATA unless that is an entry of the paper trader."""
        # Of many trades, the few names that they have are kept once.
        wanted: dict[str, Any] = {name: sys.intern(fields[name]) for name in cls._fields[:4]}
        numbers = ("quantity", "entry_price", "exit_price", "fees", "profit")
        read: dict[str, Any] = {name: _number(fields[name]) for name in numbers}
        read |= {name: _time(fields[name]) for name in ("opened", "closed")}
        trade = cls(**wanted, **read)
        trade._check()
        return trade

    def _check(self) -> None:
        _check_names(self.symbol, self.timeframe, self.signal)
        if self.exit_signal not in EXIT_SIGNALS:
            raise ValueError(f"{self.exit_signal!r} is not a reason to sell")
        _check_amounts(self.quantity, self.entry_price, self.exit_price, fees=self.fees)
        if not self.opened <= self.closed:
            raise ValueError("sold before it was bought")
        check_time(self.closed)
        right = profit(self.quantity, self.entry_price, self.exit_price, self.fees)
        if abs(self.profit - right) > 1e-6 * max(self.quantity * self.entry_price, abs(right)):
            raise ValueError(f"the profit is {self.profit!r}, by its prices and fees {right!r}")


def _check_names(symbol: str, timeframe: str, signal: str) -> None:
    if not SYMBOL.fullmatch(symbol):
        raise ValueError(f"{symbol!r} is not a symbol")
    timeframe_ms(timeframe)
    if signal not in SIGNALS:
        raise ValueError("an unknown signal")


def _check_amounts(*amounts: float, fees: float) -> None:
    for amount in amounts:
        if not 0 < amount < TOO_LARGE:
            raise ValueError(f"{amount!r} is no quantity and no price")
    if not 0 <= fees < TOO_LARGE:
        raise ValueError(f"{fees!r} is no fee")


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:30]!r} is not a number")
    return float(text)


def _time(text: str) -> int:
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:30]!r} is not a time in ms")
    return int(text)
