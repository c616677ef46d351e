"""The exchange's own read-only API, answered on this machine from what the service holds.

Knows nothing of HTTP, Redis or fetching: it is answered from the store, and no question makes the
service ask the exchange. Parameters, answers and errors are as in the exchange's public REST
documentation; what is not held here is an error that says so, in the exchange's own format:
https://docs.binance.us/
"""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

from binance_answers import (
    MAX_CANDLES,
    TIMEFRAME_MS,
    UNKNOWN_SYMBOL,
    Candles,
    Listing,
    as_json,
)
from candles import PRICE, Feed, Price, Series
from settings import Settings
from store import Store, is_unknown

PREFIX = "/api/v3/"
DEFAULT_LIMIT = 500
LARGER_INTERVALS = ("3d", "1w", "1M")  # which the exchange has and this service never holds
MINI = (
    "symbol",
    "openPrice",
    "highPrice",
    "lowPrice",
    "lastPrice",
    "volume",
    "quoteVolume",
    "openTime",
    "closeTime",
    "firstId",
    "lastId",
    "count",
)

_PARAMETERS = {
    "ping": (),
    "time": (),
    "exchangeInfo": ("symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"),
    "klines": ("symbol", "interval", "startTime", "endTime", "timeZone", "limit"),
    "ticker/24hr": ("symbol", "symbols", "type", "symbolStatus"),
    "ticker/price": ("symbol", "symbols", "symbolStatus"),
}
_SYMBOL, _PERMISSION = "[A-Z0-9-_.]{1,20}", "[A-Z0-9_]+"
_LEGAL = {
    "symbol": f"^{_SYMBOL}$",
    "symbols": f'^\\[("{_SYMBOL}"(,"{_SYMBOL}"){{0,}}){{0,1}}\\]$',
    "permissions": f'^({_PERMISSION}|\\["{_PERMISSION}"(,"{_PERMISSION}"){{0,}}\\])$',
    "timeZone": "^[+-]?[0-9]{1,2}(:[0-9]{2})?$",
    "startTime": "^[0-9]{1,20}$",
    "endTime": "^[0-9]{1,20}$",
    "limit": "^[0-9]{1,20}$",
}
_CHOICES = {"type": ("FULL", "MINI"), "showPermissionSets": ("true", "false")}
_STATUSES = ("TRADING", "HALT", "BREAK")
# From 12 hours west of UTC to 14 hours east of it.
_WESTMOST_MS, _EASTMOST_MS = -12 * 3_600_000, 14 * 3_600_000


class ApiError(Exception):
    """An answer that is an error: HTTP `status`, and the exchange's `code` and message."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class NotFresh(ApiError):
    """Nothing younger than its TTL is held; the message says why. No answer beats an old one."""

    def __init__(self, reason: str) -> None:
        super().__init__(-1001, reason, 503)


class LocalApi:
    """Answers for the symbols and timeframes of `settings` from what `store` holds fresh; for any
    number of threads. `leader()` is the token of another instance that leads, or ""."""

    def __init__(self, settings: Settings, store: Store, leader: Callable[[], str]) -> None:
        self._store, self._leader = store, leader
        self._symbols = settings.symbols
        self._timeframes = [timeframe.name for timeframe in settings.timeframes]
        self._candle_limit = settings.candle_limit

    def answer(self, path: str, query: str) -> tuple[int, bytes]:
        """HTTP status and JSON body for a GET of `path`, which begins with PREFIX."""
        try:
            return 200, self._answer(path.removeprefix(PREFIX), query)
        except ApiError as error:
            return error.status, as_json({"code": error.code, "msg": str(error)})

    def _answer(self, name: str, query: str) -> bytes:
        params = _read(name, query)
        match name:
            case "ping":
                return b"{}"
            case "time":
                return as_json({"serverTime": _now_ms()})
            case "klines":
                return self._klines(params)
            case "exchangeInfo":
                return self._exchange_info(params)
        return self._tickers(name, params)

    def _klines(self, params: dict[str, str]) -> bytes:
        self._check_symbols([params["symbol"]])
        timeframe = params["interval"]
        if timeframe not in self._timeframes:
            held = ", ".join(self._timeframes)
            raise ApiError(-1120, f"Invalid interval. Held here: {held}; TIMEFRAMES sets which.")
        step_ms = TIMEFRAME_MS[timeframe]
        # In a time zone that is whole candles away from UTC, the candles are the same.
        if _offset_ms(params.get("timeZone", "0")) % step_ms:
            raise _invalid("timeZone", f" Held here are {timeframe} candles in UTC alone.")
        candles = self._candles(Feed(params["symbol"], timeframe))
        times = candles.times
        limit = min(int(params.get("limit", DEFAULT_LIMIT)), MAX_CANDLES)
        last = bisect_right(times, int(params["endTime"])) if "endTime" in params else len(times)
        if "startTime" in params:
            start_ms = int(params["startTime"])
            first = bisect_left(times, start_ms)
            last = min(last, first + limit)
            older = start_ms <= times[0] - step_ms
        else:
            older = last < limit
            first = max(0, last - limit)
        # A series shorter than CANDLE_LIMIT has all candles that exist.
        if older and len(times) + len(candles.bad) >= self._candle_limit:
            asked = [name for name in ("startTime", "endTime", "limit") if name in params]
            raise _invalid(
                (asked or ["limit"])[0],
                f" Held here are {len(times)} candles from "
                f"{times[0]} on; CANDLE_LIMIT sets how many.",
            )
        return b"[%b]" % candles.part(first, last).rows

    def _tickers(self, name: str, params: dict[str, str]) -> bytes:
        named = "symbol" in params or "symbols" in params
        rows: list[bytes] = []
        missing: ApiError | None = None
        for symbol in self._with_status(params):
            try:
                rows.append(self._ticker(Feed(symbol, PRICE)))
            except ApiError as error:
                missing = error
                if named:
                    raise
        if missing and not rows:  # not one symbol is fresh
            raise missing
        if name == "ticker/price":
            rows = [_part(row, {"symbol": "symbol", "price": "lastPrice"}) for row in rows]
        elif params.get("type") == "MINI":
            rows = [_part(row, {field: field for field in MINI}) for row in rows]
        return rows[0] if "symbol" in params else b"[%b]" % b",".join(rows)

    def _with_status(self, params: dict[str, str]) -> list[str]:
        """The symbols that were asked for, less those whose status is not `symbolStatus`."""
        asked = self._asked(params) or list(self._symbols)
        status = params.get("symbolStatus")
        if status is None:
            return asked
        statuses = self._listing().statuses
        found = [symbol for symbol in asked if statuses.get(symbol) == status]
        if "symbol" in params and not found:
            if asked[0] not in statuses:
                raise ApiError(UNKNOWN_SYMBOL, "Invalid symbol.")
            raise ApiError(-1220, "The symbol's status does not match the requested symbolStatus.")
        return found

    def _exchange_info(self, params: dict[str, str]) -> bytes:
        asked, listing = self._asked(params), self._listing()
        if any(symbol not in listing.rows for symbol in asked):
            raise ApiError(UNKNOWN_SYMBOL, "Invalid symbol.")
        rows = [row for symbol, row in listing.rows.items() if not asked or symbol in asked]
        if params.keys() & {"permissions", "symbolStatus", "showPermissionSets"}:
            rows = [as_json(entry) for entry in _filtered(map(json.loads, rows), params)]
        rules = as_json(listing.rules | {"serverTime": _now_ms()})
        return b'%b,"symbols":[%b]}' % (rules[:-1], b",".join(rows))

    def _listing(self) -> Listing:
        if listing := self._store.listing():
            return listing
        raise NotFresh("There is no fresh list of symbols; it is read once an hour.")

    def _candles(self, feed: Feed) -> Candles:
        held = self._fresh(feed)
        assert isinstance(held, Series)
        return held.candles

    def _ticker(self, feed: Feed) -> bytes:
        """The exchange's own object as JSON."""
        held = self._fresh(feed)
        assert isinstance(held, Price)
        return held.ticker.row

    def _fresh(self, feed: Feed) -> Series | Price:
        """What is held; ApiError if it is too old or not there."""
        error = self._store.failure(feed)
        if is_unknown(error):
            raise ApiError(UNKNOWN_SYMBOL, "Invalid symbol.")
        if held := self._store.fresh(feed):
            return held
        if leader := self._leader():
            raise NotFresh(f"{leader} fetches, this instance stands by.")
        why = error.reason if error else "It was not read yet."
        raise NotFresh(f"There is no fresh data of {feed.symbol}: {why}")

    def _asked(self, params: dict[str, str]) -> list[str]:
        """The symbols that were asked for, in the order of SYMBOLS; none means all."""
        asked = json.loads(params.get("symbols", "[]"))
        if "symbol" in params:
            asked = [params["symbol"]]
        self._check_symbols(asked)
        return [symbol for symbol in self._symbols if symbol in asked]

    def _check_symbols(self, symbols: list[str]) -> None:
        if not_held := [symbol for symbol in symbols if symbol not in self._symbols]:
            raise ApiError(
                UNKNOWN_SYMBOL,
                f"Invalid symbol. {not_held[0]} is not held here; SYMBOLS sets which are.",
            )


def _read(name: str, query: str) -> dict[str, str]:
    """The parameters of a call. Raises ApiError where the exchange would refuse them."""
    known = _PARAMETERS.get(name)
    if known is None:
        served = ", ".join(_PARAMETERS)
        raise ApiError(-1000, f"No such path here: {PREFIX}{name}. Served are {served}.", 404)
    pairs = parse_qsl(query, keep_blank_values=True)
    params = dict(pairs)
    if len(params) < len(pairs):
        raise ApiError(-1101, "Duplicate values for a parameter detected.")
    if len(params) > len(known):
        raise ApiError(
            -1101, f"Too many parameters; expected '{len(known)}' and received '{len(params)}'."
        )
    if unread := params.keys() - set(known):
        read = len(params) - len(unread)
        raise ApiError(
            -1104,
            f"Not all sent parameters were read; read '{read}' parameter(s) but "
            f"was sent '{len(params)}'.",
        )
    for parameter, text in params.items():
        _check_text(parameter, text)
    _check_together(name, params)
    return params


def _check_text(parameter: str, text: str) -> None:
    """Whether the exchange would take `text` for one parameter."""
    if not text:
        raise ApiError(-1105, f"Parameter '{parameter}' was empty.")
    if parameter in _LEGAL and not re.fullmatch(_LEGAL[parameter], text):
        legal = _LEGAL[parameter]
        raise ApiError(
            -1100,
            f"Illegal characters found in parameter '{parameter}'; legal range is '{legal}'.",
        )


def _check_together(name: str, params: dict[str, str]) -> None:
    """Whether the exchange would take these parameters for the call `name`."""
    for parameter in ("symbol", "interval") if name == "klines" else ():
        if parameter not in params:
            raise ApiError(
                -1102,
                f"Mandatory parameter '{parameter}' was not sent, was empty/null, or malformed.",
            )
    selections = [{"symbol"}, {"symbols"}]  # of which a call takes one
    if name == "exchangeInfo":
        selections.append({"permissions", "symbolStatus"})
    if sum(not names.isdisjoint(params) for names in selections) > 1:
        raise ApiError(-1128, "Combination of optional parameters invalid.")
    if params.get("interval", "1m") not in (*TIMEFRAME_MS, *LARGER_INTERVALS):
        raise ApiError(-1120, "Invalid interval.")
    for parameter, text in params.items():
        _check_value(parameter, text)
    if params.get("symbols") == "[]":
        raise ApiError(-1105, "Parameter 'symbols' was empty.")


def _check_value(parameter: str, text: str) -> None:
    """Whether the exchange would take this value, whose characters are legal."""
    if parameter == "symbolStatus" and text not in _STATUSES:
        raise ApiError(-1122, "Invalid symbolStatus.")
    if (
        text not in _CHOICES.get(parameter, (text,))
        or (parameter == "timeZone" and not _WESTMOST_MS <= _offset_ms(text) <= _EASTMOST_MS)
        or (parameter == "limit" and int(text) < 1)
    ):
        raise _invalid(parameter)


def _invalid(parameter: str, why: str = "") -> ApiError:
    return ApiError(-1130, f"Data sent for parameter '{parameter}' is not valid.{why}")


def _offset_ms(time_zone: str) -> int:
    """How far a valid `timeZone` ("8", "-1:00", "05:45") is ahead of UTC."""
    hours, _, minutes = time_zone.lstrip("+-").partition(":")
    offset_ms = (int(hours) * 60 + int(minutes or 0)) * 60_000
    return -offset_ms if time_zone.startswith("-") else offset_ms


def _filtered(entries: Iterable[Any], params: dict[str, str]) -> Iterator[Any]:
    """The entries of exchangeInfo that `params` select, without permissions if they say so."""
    wanted = set(re.findall(_PERMISSION, params.get("permissions", "")))
    for entry in entries:
        # The exchange has moved them from `permissions` to `permissionSets`, a list of lists.
        held = json.dumps([entry.get(name) for name in ("permissions", "permissionSets")])
        if wanted and wanted.isdisjoint(re.findall('"([^"]+)"', held)):
            continue
        if params.get("symbolStatus", entry["status"]) != entry["status"]:
            continue
        if "permissionSets" in entry and params.get("showPermissionSets") == "false":
            entry["permissionSets"] = []
        yield entry


def _part(ticker: bytes, fields: dict[str, str]) -> bytes:
    """JSON with some fields of a ticker: by new name the name in the ticker."""
    row = json.loads(ticker)
    return as_json({name: row.get(field) for name, field in fields.items()})


def _now_ms() -> int:
    return int(time.time() * 1000)
