"""What the exchange's answers say: validated candles, tickers and listings, and typed errors.

Pure: knows nothing of HTTP, threads or clocks. Shapes and error codes are from the exchange's
public REST documentation: https://docs.binance.us/
"""

from __future__ import annotations

import html
import json
import math
import re
from array import array
from bisect import bisect_right
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
UNKNOWN_SYMBOL = -1121  # the exchange's error code
# Codes of its passing troubles: unknown, disconnected, timeout, overloaded.
PASSING_CODES = (-1000, -1001, -1007, -1008)
PAGE_WORDS = 200  # characters of an HTML page that are passed on
MAX_BAD_SHARE = 0.01  # of the candles of an answer; with more, none of it is believed
NEWEST = 3  # candles that must all be good
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
    """A timeout, a broken connection, HTTP 5xx, a passing trouble: asking again may help."""


class RateLimited(BinanceError):
    """HTTP 403, 418, 429, 451, or our own budget is spent: no request for `retry_in_s` seconds."""

    def __init__(self, reason: str, retry_in_s: float, status: int = 0) -> None:
        super().__init__(reason, status=status)
        self.retry_in_s = retry_in_s


class Rejected(BinanceError):
    """Any other 3xx or 4xx, like an unknown symbol: asking again will not help."""


class BadResponse(BinanceError):
    """An answer that is not what the documentation promises; nothing of it may be used."""


class BadRow(BadResponse):
    """An answer with a candle that cannot be."""


class Outdated(BinanceError):
    """A good answer whose data is too old to be shown."""


class Idle(BinanceError):
    """A market without a trade in 24 h. It has no price, and nothing is wrong."""


class Stopped(BinanceError):
    """The program is ending, so nobody waits any more."""


class BadCandle(NamedTuple):
    """A candle that was left out: where its open time should be, in ms UTC, and why."""

    open_ms: int
    reason: str


class Candles(NamedTuple):
    """Candles of a symbol and timeframe, oldest first: their open times in ms UTC, and the rows of
    the exchange's answer as JSON, `[...],[...]`, each with the 12 documented fields, no spaces.
    Between them were the `bad` ones."""

    times: array[int]
    rows: bytes
    bad: tuple[BadCandle, ...] = ()

    def part(self, first: int, last: int | None = None) -> Candles:
        """The slice [first:last]."""
        times = self.times[first:last]
        if not times:
            return Candles(times, b"")
        start = self.rows.index(b"[%d," % times[0])
        end = self.rows.index(b"]", self.rows.rindex(b"[%d," % times[-1])) + 1
        bad = tuple(each for each in self.bad if times[0] < each.open_ms < times[-1])
        return Candles(times, self.rows[start:end], bad)

    def since(self, first_ms: int, last_ms: int) -> Candles:
        """Those that opened after `first_ms` and not after `last_ms`."""
        return self.part(bisect_right(self.times, first_ms), bisect_right(self.times, last_ms))

    def then(self, later: Candles) -> Candles:
        """These candles followed by the `later` ones."""
        rows = filter(None, (self.rows, later.rows))
        return Candles(self.times + later.times, b",".join(rows), self.bad + later.bad)


class Ticker(NamedTuple):
    """The last 24 h: change in percent, volume in units of the base coin; `timestamp` in ms UTC.
    `row` is the exchange's own object as JSON."""

    price: float
    change24h: float
    volume: float
    timestamp: int
    row: bytes = b""


class Limit(NamedTuple):
    """At most `units` in any `window_s` seconds."""

    units: int
    window_s: int


class Limits(NamedTuple):
    """What an IP address may use: weight, and requests whatever they weigh."""

    weight: Limit
    requests: Limit


# As of 2026-08-31, and until the exchange has said what they are.
LIMITS = Limits(Limit(6000, 60), Limit(300_000, 300))


class Listing(NamedTuple):
    """Symbols that the exchange lists: for each its status ("TRADING", "BREAK", ...) and its own
    object as JSON; `rules` is the rest of the answer, which is the same for all symbols, and
    `limits` what it says of an address, if it does."""

    statuses: dict[str, str]
    rows: dict[str, bytes]
    rules: dict[str, Any]
    limits: Limits | None = None


def error_of(status: int, body: bytes) -> BinanceError:
    """The error for an answer whose status is neither 200 nor a limit."""
    if status >= 500:
        return Retryable(f"HTTP {status}", status=status)
    try:
        answer = json.loads(body)
        code, message = int(answer["code"]), str(answer["msg"])[:200]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        what = "redirects are not followed" if 300 <= status < 400 else words_of(body)
        return Rejected(f"HTTP {status}: {what}", status=status)
    kind = Retryable if code in PASSING_CODES else Rejected
    return kind(f"HTTP {status}: {message} (code {code})", status=status, code=code)


def words_of(body: bytes) -> str:
    """The words of a page of HTML, its title first; the beginning of any other body."""
    text = body[:100_000].decode("utf-8", "replace")
    if not re.search("<(html|body|title|h1|p)", text, re.IGNORECASE):
        return _excerpt(body)
    text = re.sub("<(script|style).*?(</\\1>|$)", " ", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub("</title>", ": ", text, flags=re.IGNORECASE)
    words = " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split())
    return words.replace(" : ", ": ")[:PAGE_WORDS]


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

    A few bad ones among many are left out, for the exchange's archive has some that never mend.

    One regular expression checks a whole answer: 0.4 ms for 500 rows, where checking them row by
    row takes 20 ms.
    """
    try:
        return _all_good(body, timeframe, now_ms)
    except BadRow as error:
        rows = parse_json(body)
        if len(rows) * MAX_BAD_SHARE < 1:
            raise
        candles, newest_good = _sifted(rows, timeframe, now_ms)
        if not newest_good or len(candles.bad) > len(rows) * MAX_BAD_SHARE:
            raise error from None
        return candles


def _sifted(rows: list[Any], timeframe: str, now_ms: int) -> tuple[Candles, bool]:
    """The good ones among `rows`, and whether the newest ones are all good."""
    candles, step_ms, newest_good = Candles(array("q"), b""), TIMEFRAME_MS[timeframe], True
    for nth, row in enumerate(rows):
        last_ms = candles.times[-1] if candles.times else 0
        try:
            candle = _all_good(as_json([row]), timeframe, now_ms)
            if candle.times[0] <= last_ms:
                raise _bad_candle(row[0], "not in order")
            candles = candles.then(candle)
        except BadRow as error:
            bad = (*candles.bad, BadCandle(last_ms + step_ms, error.reason))
            candles = candles._replace(bad=bad)
            newest_good = nth < len(rows) - NEWEST
    return candles, newest_good


def _all_good(body: bytes, timeframe: str, now_ms: int) -> Candles:
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
            raise BadRow(f"a candle without its {len(_KLINE)} fields: {str(row)[:60]}")
        del row[len(_KLINE) :]
        for (name, pattern), value in zip(_KLINE.items(), row, strict=True):
            if not re.fullmatch(pattern, as_json(value)):
                raise _bad_candle(row[0], f"its {name} is {str(value)[:60]!r}")
    return as_json(rows)


def _bad_candle(open_ms: object, what: str) -> BadRow:
    return BadRow(f"candle {str(open_ms)[:20]}: {what}")


def parse_tickers(
    rows: Any, symbols: Sequence[str], now_ms: int
) -> dict[str, Ticker | Idle | BadResponse]:
    """The ticker of each of `symbols` in a ticker/24hr answer, or why there is none."""
    if not isinstance(rows, list):
        raise BadResponse("not a list of tickers")
    by_symbol = {str(row.get("symbol")): row for row in rows if isinstance(row, dict)}
    found: dict[str, Ticker | Idle | BadResponse] = {}
    for symbol in symbols:
        try:
            found[symbol] = _parse_ticker(by_symbol.get(symbol, {}), now_ms)
        except (Idle, BadResponse) as error:
            found[symbol] = error
    return found


def _parse_ticker(row: Any, now_ms: int) -> Ticker:
    texts = [row.get(name) for name in ("lastPrice", "priceChangePercent", "volume")]
    if not all(type(text) is str and _NUMBER.fullmatch(text) for text in texts):
        raise BadResponse(f"a ticker not made of numbers: {str(texts)[:80]}")
    figures, close_ms = [float(text) for text in texts], row.get("closeTime")
    price, change24h, volume = figures
    if price == volume == row.get("count") == 0:
        raise Idle("no trade in 24 h")
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
        _parse_limits(info),
    )


_UNIT_S = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}


def _parse_limits(info: dict[str, Any]) -> Limits | None:
    """What `rateLimits` says of weight and requests; None if it does not, or not understandably."""
    try:
        found = {
            each["rateLimitType"]: Limit(
                int(each["limit"]), int(each["intervalNum"]) * _UNIT_S[each["interval"]]
            )
            for each in info["rateLimits"]
        }
        limits = Limits(found["REQUEST_WEIGHT"], found["RAW_REQUESTS"])
    except (KeyError, TypeError, ValueError):
        return None
    return limits if all(number > 0 for limit in limits for number in limit) else None
