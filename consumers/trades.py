"""The paper trader's positions and closed trades, as the dashboard shows them.

Both are read from Redis at each request, the closed trades only from where the last request ended.
These reads are not in the message log: an open page would fill it. Knows nothing of HTTP.
"""

from __future__ import annotations

import csv
import io
import logging
import threading
from bisect import bisect_right
from collections.abc import Mapping
from itertools import dropwhile
from typing import Any, NamedTuple

import redis

import journal
from consumers.book import POSITIONS_KEY, TRADES_LOG_KEY, Book, ClosedTrade
from consumers.market_cache import BAD_DATA, now_ms
from consumers.results import equity_curve, grouped, summary
from redis_log import iso_ms

PAGE = 2000  # entries read at once
MAX_VIEWS = 4  # kept: each may be as long as the stream
CSV_COLUMNS = ("id", *ClosedTrade._fields, "profit_pct")


def read_positions(client: redis.Redis, prices: Mapping[str, float]) -> dict[str, Any]:
    """The book, each position with its price in `prices` and its profit there; both are None for a
    symbol that has none. `error` says why there is no book, and then there are no figures either.

    Raises redis.RedisError if Redis does not answer.
    """
    try:
        text: Any = client.get(POSITIONS_KEY)
        book = Book() if text is None else Book.from_json(text)
    except (redis.ResponseError, *BAD_DATA) as error:
        reason = f"{POSITIONS_KEY} in Redis is not a book of positions: {journal.short(error)}"
        return {"positions": [], "profit": None, "trades": None, "error": reason}
    positions: list[dict[str, Any]] = []
    for symbol, position in book.positions.items():
        price = prices.get(symbol)
        positions.append(
            {
                "symbol": symbol,
                "timeframe": position.timeframe,
                "signal": position.signal,
                "exit_signal": position.exit_signal,
                "quantity": position.quantity,
                "price": position.price,
                "fee": position.fee,
                "opened": position.opened,
                "current_price": price,
                "unrealised_profit": None if price is None else position.unrealised_profit(price),
            }
        )
    positions.sort(key=lambda each: (-each["opened"], each["symbol"]))
    return {"positions": positions, "profit": book.profit, "trades": book.trades, "error": ""}


class Filter(NamedTuple):
    """Which closed trades are wanted; "" is any."""

    symbol: str = ""
    timeframe: str = ""
    signal: str = ""

    def passes(self, trade: ClosedTrade) -> bool:
        wanted = zip(self, (trade.symbol, trade.timeframe, trade.signal), strict=True)
        return all(not mine or mine == its for mine, its in wanted)


class View:
    """The closed trades that pass a filter, newest first, what they amounted to, and the values
    that they have of each field of Filter."""

    def __init__(self, entries: list[tuple[str, ClosedTrade]]) -> None:
        """`entries` are pairs of id and trade, oldest first."""
        trades = [trade for _, trade in entries]
        self.entries = entries[::-1]
        self.choices = {
            name: sorted({getattr(trade, name) for trade in trades}) for name in Filter._fields
        }
        self.results = {
            "summary": summary(trades),
            "by_symbol": grouped(trades, "symbol"),
            "by_signal": grouped(trades, "signal"),
            "equity": equity_curve(trades),
        }

    def page(self, limit: int, before: str) -> dict[str, Any]:
        """`limit` trades, the newest or those before the id `before`; how many are newer; and the
        id to ask for the next page with, None if this is the last."""
        start = 0
        if before:
            key = _backwards(before)
            start = bisect_right(self.entries, key, key=lambda entry: _backwards(entry[0]))
        end = start + limit
        shown = self.entries[start:end]
        return {
            "trades": [
                {"id": id_, **trade._asdict(), "profit_pct": trade.profit_pct}
                for id_, trade in shown
            ],
            "newer": start,
            "next": shown[-1][0] if end < len(self.entries) else None,
        }

    def csv(self) -> str:
        """A header and a line a trade; times are ISO 8601, UTC."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(CSV_COLUMNS)
        for id_, trade in self.entries:
            times = {name: iso_ms(getattr(trade, name) / 1000) for name in ("opened", "closed")}
            row = trade._asdict() | times
            writer.writerow((id_, *row.values(), trade.profit_pct))
        return text.getvalue()


class TradesLog:
    """The stream of closed trades, held in memory as far as it was read."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        # Guards the fields below, and is held while waiting for Redis: two HTTP threads must not
        # add the same entries.
        self._lock = threading.Lock()
        self._held: dict[str, ClosedTrade | None] = {}  # by id, oldest first; None: no trade
        self._views: dict[Filter, View] = {}  # of what is held
        self._bad_said = False

    def answer(self, wanted: Filter, limit: int, before: str) -> dict[str, Any]:
        """A page of closed trades, their results, what there is to filter by, and how many entries
        of the stream are not trades. Raises redis.RedisError."""
        with self._lock:
            self._read()
            view, choices = self._view(wanted), self._view(Filter()).choices
            bad = sum(trade is None for trade in self._held.values())
        page = view.page(limit, before)
        return {"timestamp": now_ms(), **page, **view.results, "choices": choices, "bad": bad}

    def csv(self, wanted: Filter) -> str:
        """All closed trades that pass. Raises redis.RedisError."""
        with self._lock:
            self._read()
            view = self._view(wanted)
        return view.csv()

    def _view(self, wanted: Filter) -> View:
        if wanted not in self._views:
            if len(self._views) >= MAX_VIEWS:
                del self._views[next(iter(self._views))]
            held = self._held.items()
            self._views[wanted] = View(
                [(id_, trade) for id_, trade in held if trade and wanted.passes(trade)]
            )
        return self._views[wanted]

    def _read(self) -> None:
        """Take what was added since the last time, and let go of what was trimmed. If what is held
        is not what is in the stream then, because it was emptied or replaced, read it anew."""
        if not self._follow():
            self._held, self._views = {}, {}
            self._follow()

    def _follow(self) -> bool:
        """Whether what is held is now as long as the stream, with the same ends."""
        while True:
            last = next(reversed(self._held), "")
            pipeline: Any = self._client.pipeline(transaction=True)
            pipeline.xrange(TRADES_LOG_KEY, min=f"({last}" if last else "-", count=PAGE)
            pipeline.xrange(TRADES_LOG_KEY, count=1)
            pipeline.xrevrange(TRADES_LOG_KEY, count=1)
            pipeline.xlen(TRADES_LOG_KEY)
            added, oldest, newest, length = pipeline.execute()
            if added:
                self._held |= {id_: self._parse(id_, fields) for id_, fields in added}
                self._views = {}
            if len(added) < PAGE:
                break
        ends = [id_ for id_, _ in (*oldest, *newest)]
        if ends and ends[0] in self._held and ends[0] != next(iter(self._held)):
            self._held = dict(dropwhile(lambda item: item[0] != ends[0], self._held.items()))
            self._views = {}
        held = [next(iter(self._held)), next(reversed(self._held))] if self._held else []
        return held == ends and len(self._held) == length

    def _parse(self, id_: str, fields: dict[str, str]) -> ClosedTrade | None:
        """The trade of an entry; None, with a warning for the first one, if it is not one."""
        try:
            return ClosedTrade.from_fields(fields)
        except BAD_DATA as error:
            if not self._bad_said:
                self._bad_said = True
                journal.event(
                    logging.WARNING, "bad_data", key=TRADES_LOG_KEY, entry=id_, reason=error
                )
            return None


def _backwards(id_: str) -> tuple[int, int]:
    """Orders ids of a stream, "milliseconds-number", from the newest to the oldest."""
    ms, _, number = id_.partition("-")
    return -int(ms), -int(number)
