"""When each market of the simulated exchange is traded, and so which candles and ticker it has.

A halted market has no candles; an idle one has flat candles without volume. The candles themselves
come from `demo.market`. Nothing here reads a clock; instants are epoch seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from demo import market
from demo.market import Candle, Rows

LAUNCH_S = 1_569_196_800  # 2019-09-23; there are no candles before it
_YEAR_S = 365 * market.DAY_S

Span = tuple[float, float]  # [from, to); `to` is math.inf while it lasts


@dataclass(frozen=True)
class Market:
    """One symbol and its history; the methods that change it return the changed market."""

    symbol: str
    listed_s: int = LAUNCH_S
    listed: bool = True
    halts: tuple[Span, ...] = ()
    idles: tuple[Span, ...] = ()

    @property
    def status(self) -> str:
        return "BREAK" if self.halts and self.halts[-1][1] == math.inf else "TRADING"

    # what happens to it

    def halt(self, now: float) -> Market:
        """Suspend trading; it stays listed, and its last candles and ticker stand."""
        if self.status == "BREAK":
            return replace(self, listed=True)
        return replace(self, listed=True, halts=(*self.halts, (now, math.inf)))

    def idle(self, now: float) -> Market:
        """Trade it no more, though one could; its last trade was 24 h ago."""
        trading = self.trade(now)
        return replace(trading, idles=(*trading.idles, (now - market.DAY_S, math.inf)))

    def trade(self, now: float) -> Market:
        """List it, and end a halt or an idle time."""
        halts, idles = _ended(self.halts, now), _ended(self.idles, now)
        return replace(self, listed=True, halts=halts, idles=idles)

    def delist(self, _: float) -> Market:
        """Make it an invalid symbol."""
        return replace(self, listed=False)

    # what it shows

    def shown_at(self, now: float) -> float:
        """The moment that its candles and its ticker show at `now`."""
        return next((since for since, until in self.halts if since <= now < until), now)

    def candle(self, start_s: int, end_s: int) -> Candle | None:
        """The candle of all trades in [start_s, end_s); None if it was halted throughout.

        An empty range gives a flat candle.
        """
        start_s = max(start_s, self.listed_s)
        if end_s <= start_s:
            return self._part(start_s, start_s)
        changes = {int(at) for span in (*self.halts, *self.idles) for at in span if at < end_s}
        bounds = [start_s, *sorted(at for at in changes if start_s < at), end_s]
        parts = [self._part(a, b) for a, b in pairwise(bounds) if not _covering(self.halts, a)]
        return market.merge(parts) if parts else None

    def rows(
        self,
        step_s: int,
        limit: int,
        start_ms: int | None,
        end_ms: int | None,
        now: float,
        change: Callable[[int, Candle], Candle | None] | None = None,
    ) -> Rows:
        """The rows of a klines answer at `now`.

        The candles open in [start_ms, end_ms], where None is no bound: the first `limit` of them
        if there is a start, else the last. `change(open_s, candle)` returns the candle to answer
        with instead, or None to leave it out.
        """
        now = self.shown_at(now)
        first = self.listed_s // step_s * step_s
        if start_ms is not None:
            first = max(first, -(-start_ms // (step_s * 1000)) * step_s)  # rounded up
        last = int(now if end_ms is None else min(now, end_ms // 1000)) // step_s * step_s
        opens = range(first, last + 1, step_s)
        found: Rows = []
        for open_s in opens if start_ms is not None else reversed(opens):
            if len(found) == limit:
                break
            close_s = open_s + step_s
            if close_s <= int(now) and not change and self._is_plain(open_s, close_s):
                found.append([*market.whole_row(self.symbol, step_s, open_s)])
                continue
            bar = self.candle(open_s, min(close_s, int(now)))  # so far, to the last full second
            if bar and change:
                bar = change(open_s, bar)
            if bar:
                found.append([*market.row(self.symbol, step_s, open_s, bar)])
        return found if start_ms is not None else found[::-1]

    def ticker(self, now: float) -> dict[str, Any]:
        """The 24 h figures at `now`; those of a halted market stand until they are a day old."""
        shown_at = self.shown_at(now)
        day = self.candle(int(shown_at) - market.DAY_S, int(shown_at))
        if not day or not day.trades or now - shown_at > market.DAY_S:
            return market.idle_ticker(self.symbol, int(shown_at * 1000))
        return market.ticker(self.symbol, day, int(shown_at * 1000))

    def _is_plain(self, open_s: int, close_s: int) -> bool:
        """Whether it was listed and traded in all of [open_s, close_s)."""
        return self.listed_s <= open_s and not any(
            since < close_s and open_s < until for since, until in (*self.halts, *self.idles)
        )

    def _part(self, start_s: int, end_s: int) -> Candle:
        """The candle of a range that is idle throughout, or not at all."""
        if idle := _covering(self.idles, start_s):
            start_s = end_s = int(idle[0])
        return market.candle(self.symbol, start_s, end_s)


def delisted(count: int) -> list[Market]:
    """Markets that were closed in the years after the launch and are still listed as BREAK."""
    # None at the very start of a candle, whose last one would be without trades.
    ends = (LAUNCH_S + _YEAR_S * (1 + number * 0.37 % 5) + 12_345 for number in range(count))
    return [
        Market(symbol, halts=((end, math.inf),))
        for symbol, end in zip(market.delisted_symbols(count), ends, strict=True)
    ]


# What a test can make of a market, by the name of the state.
STATES: dict[str, Callable[[Market, float], Market]] = {
    "halted": Market.halt,
    "idle": Market.idle,
    "trading": Market.trade,
    "delisted": Market.delist,
}


def _ended(spans: tuple[Span, ...], now: float) -> tuple[Span, ...]:
    return tuple((since, min(until, now)) for since, until in spans)


def _covering(spans: tuple[Span, ...], second: int) -> Span | None:
    """The span that `second` is in. A span is in whole seconds here: both ends rounded down."""
    return next((span for span in spans if span[0] < second + 1 <= span[1]), None)
