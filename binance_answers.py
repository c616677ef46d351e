"""What the exchange's answers say: validated candles, tickers and listings, and typed errors.

Pure: knows nothing of HTTP, threads or clocks. Shapes and error codes are from the exchange's
public REST documentation:
https://github.com/binance-us/binance-us-api-docs/blob/master/rest-api.md
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

_MINUTE_MS = 60_000
# Only lengths that divide a day: then every open time is a multiple of the length. Not 3d, 1w, 1M.
TIMEFRAME_MS = {
    **{f"{n}m": n * _MINUTE_MS for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * 60 * _MINUTE_MS for n in (1, 2, 4, 6, 8, 12)},
    "1d": 1440 * _MINUTE_MS,
}
MAX_CANDLES = 1000  # of one klines answer
MAX_TICKER_SYMBOLS = 20  # the most that still weigh 1
WEIGHT_LIMIT = 1200  # in 60 s, for an IP address
REQUESTS_LIMIT = 5000  # in 300 s, whatever they weigh
UNKNOWN_SYMBOL = -1121  # the exchange's error code
CLOCK_SKEW_MS = 10_000  # further ahead of this clock, a row is from the future


class BinanceError(Exception):
    """What failed: a short `reason`, and the HTTP `status` and the exchange's `code` where known.
    The reason names no symbol, so symbols that fail alike can be logged in one line."""

    def __init__(self, reason: str, *, status: int = 0, code: int = 0) -> None:
        # Parts of it are the exchange's words: escape whatever is not plain text.
        reason = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
        super().__init__(reason)
        self.reason, self.status, self.code = reason, status, code


class Retryable(BinanceError):
    """A timeout, a broken connection, HTTP 5xx: asking again may help."""


class RateLimited(BinanceError):
    """HTTP 429, 418 or 403, or our own budget is spent: no request for `retry_in_s` seconds."""

    def __init__(self, reason: str, retry_in_s: float, status: int = 0) -> None:
        super().__init__(reason, status=status)
        self.retry_in_s = retry_in_s


class Rejected(BinanceError):
    """Any other 3xx or 4xx (unknown symbol, geo-blocked): asking again will not help."""


class BadResponse(BinanceError):
    """An answer that is not what the documentation promises; nothing of it may be used."""


class Stopped(BinanceError):
    """The program is ending, so nobody waits any more."""


class Candles(NamedTuple):
    """Candles of a symbol and timeframe, oldest first: their open times in ms UTC, and the rows of
    the exchange's answer as JSON, `[...],[...]`, each with the 12 documented fields, no spaces."""

    times: array[int]
    rows: bytes

    def part(self, first: int, last: int | None = None) -> Candles:
        """The slice [first:last]."""
        times = self.times[first:last]
        if not times:
            return Candles(times, b"")
        start = self.rows.index(b"[%d," % times[0])
        end = self.rows.index(b"]", self.rows.rindex(b"[%d," % times[-1])) + 1
        return Candles(times, self.rows[start:end])

    def then(self, later: Candles) -> Candles:
        """These candles followed by the `later` ones."""
        rows = filter(None, (self.rows, later.rows))
        return Candles(self.times + later.times, b",".join(rows))


class Ticker(NamedTuple):
    """The last 24 h: change in percent, volume in units of the base coin; `timestamp` in ms UTC.
    `row` is the exchange's own object as JSON."""

    price: float
    change24h: float
    volume: float
    timestamp: int
    row: bytes = b""


class Listing(NamedTuple):
    """Symbols that the exchange lists: for each its status ("TRADING", "BREAK", ...) and its own
    object as JSON; `rules` is the rest of the answer, which is the same for all symbols."""

    statuses: dict[str, str]
    rows: dict[str, bytes]
    rules: dict[str, Any]


def error_of(status: int, body: bytes) -> BinanceError:
    """The error for an answer whose status is neither 200 nor a limit."""
    if status >= 500:
        return Retryable(f"HTTP {status}", status=status)
    try:
        answer = json.loads(body)
        code, message = int(answer["code"]), str(answer["msg"])[:200]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        what = "redirects are not followed" if 300 <= status < 400 else _excerpt(body)
        return Rejected(f"HTTP {status}: {what}", status=status)
    return Rejected(f"HTTP {status}: {message} (code {code})", status=status, code=code)


def parse_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise BadResponse(f"the answer is not JSON: {_excerpt(body)}") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def as_json(value: Any) -> bytes:
    """JSON as the exchange writes it, without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def _excerpt(body: bytes) -> str:
    return repr(body[:40].decode("latin-1")) + ("..." if len(body) > 40 else "")


_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_INTEGER, _DECIMAL = rb"(?:0|[1-9][0-9]{0,14}+)", rb'"(?!0[0-9])[0-9]++(?:\.[0-9]++)?+"'
# Pass-through fields may be any JSON scalar: an odd value there must not cost us the candle.
_WORD = rb'(?:"[A-Za-z0-9_.+-]*+"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+|null|true|false)'
_KLINE = {
    "open time": _INTEGER,
    "open": _DECIMAL,
    "high": _DECIMAL,
    "low": _DECIMAL,
    "close": _DECIMAL,
    "volume": _DECIMAL,
    "close time": _WORD,
    "quote volume": _WORD,
    "trades": _WORD,
    "takers' volume": _WORD,
    "takers' quote volume": _WORD,
    "unused field": _WORD,
}
_ROW = rb"\[" + rb",".join(_KLINE.values()) + rb"\]"
_KLINES = re.compile(rb"\[" + _ROW + rb"(?:," + _ROW + rb")*+\]")


def parse_klines(body: bytes, timeframe: str, now_ms: int) -> Candles:
    """The candles of a klines answer. Raises BadResponse, which names the first bad row.

    One regular expression checks a whole answer: 0.4 ms for 500 rows, where checking them row by
    row takes 20 ms.
    """
    if not _KLINES.fullmatch(body):
        body = _plainly(body)
    fields, size = body.translate(None, b'[]"').split(b","), len(_KLINE)
    times = array("q", map(int, fields[::size]))
    numbers = (map(float, fields[nth::size]) for nth in range(1, 6))
    previous_ms, step_ms = -1, TIMEFRAME_MS[timeframe]
    for open_ms, opened, high, low, close, volume in zip(times, *numbers, strict=True):
        if open_ms % step_ms:
            raise _bad_candle(open_ms, f"not the open time of a {timeframe} candle")
        if open_ms <= previous_ms:
            raise _bad_candle(open_ms, "not in order")
        if not (0 < low <= opened <= high and low <= close <= high and high + volume < math.inf):
            raise _bad_candle(open_ms, f"contradicts itself: {opened, high, low, close, volume}")
        previous_ms = open_ms
    if previous_ms > now_ms + CLOCK_SKEW_MS:
        raise _bad_candle(previous_ms, "from the future, by this machine's clock")
    return Candles(times, body[1:-1])


def _plainly(body: bytes) -> bytes:
    """An answer with spaces or additional fields, rewritten as the exchange usually writes it."""
    rows = parse_json(body)
    if not isinstance(rows, list) or not rows:
        raise BadResponse("no candles in the answer" if rows == [] else "not a list of candles")
    if len(rows) > MAX_CANDLES:
        raise BadResponse(f"{len(rows)} candles in one answer")
    for row in rows:
        if not isinstance(row, list) or len(row) < len(_KLINE):
            raise BadResponse(f"a candle without its {len(_KLINE)} fields: {str(row)[:60]}")
        del row[len(_KLINE) :]
        for (name, pattern), value in zip(_KLINE.items(), row, strict=True):
            if not re.fullmatch(pattern, as_json(value)):
                raise _bad_candle(row[0], f"its {name} is {str(value)[:60]!r}")
    return as_json(rows)


def _bad_candle(open_ms: object, what: str) -> BadResponse:
    return BadResponse(f"candle {str(open_ms)[:20]}: {what}")


def parse_tickers(
    rows: Any, symbols: Sequence[str], now_ms: int
) -> dict[str, Ticker | BadResponse]:
    """The ticker of each of `symbols` in a ticker/24hr answer, or what is wrong with it."""
    if not isinstance(rows, list):
        raise BadResponse("not a list of tickers")
    by_symbol = {str(row.get("symbol")): row for row in rows if isinstance(row, dict)}
    found: dict[str, Ticker | BadResponse] = {}
    for symbol in symbols:
        try:
            found[symbol] = _parse_ticker(by_symbol.get(symbol, {}), now_ms)
        except BadResponse as error:
            found[symbol] = error
    return found


def _parse_ticker(row: Any, now_ms: int) -> Ticker:
    texts = [row.get(name) for name in ("lastPrice", "priceChangePercent", "volume")]
    if not all(type(text) is str and _NUMBER.fullmatch(text) for text in texts):
        raise BadResponse(f"a ticker not made of numbers: {str(texts)[:80]}")
    figures, close_ms = [float(text) for text in texts], row.get("closeTime")
    price, change24h, volume = figures
    if not (all(map(math.isfinite, figures)) and price > 0 and volume >= 0):
        raise BadResponse(f"a ticker that cannot be: {figures}")
    if type(close_ms) is not int or not 0 < close_ms <= now_ms + CLOCK_SKEW_MS:
        raise BadResponse(f"a ticker of the time {str(close_ms)[:20]!r}")
    return Ticker(price, change24h, volume, close_ms, as_json(row))


def parse_listing(info: Any, symbols: Sequence[str]) -> Listing:
    """The listing of those of `symbols` that are in an exchangeInfo answer."""
    entries = info.get("symbols") if isinstance(info, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadResponse("an exchangeInfo without its list of symbols")
    if not all(type(entry.get(name)) is str for entry in entries for name in ("symbol", "status")):
        raise BadResponse("an exchangeInfo with a symbol that has no name or no status")
    found = {entry["symbol"]: entry for entry in entries if entry["symbol"] in symbols}
    return Listing(
        {symbol: entry["status"] for symbol, entry in found.items()},
        {symbol: as_json(entry) for symbol, entry in found.items()},
        {name: value for name, value in info.items() if name != "symbols"},
    )
