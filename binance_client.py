"""Reads the public market data of Binance.US: one rate limiter, validated answers, typed errors.

Knows nothing of Redis, refreshes or settings, and writes no log. What it assumes of the exchange
(weights, limits, statuses, shapes) is from its public REST documentation:
https://github.com/binance-us/binance-us-api-docs/blob/master/rest-api.md
"""

from __future__ import annotations

import io
import json
import math
import random
import re
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from http.client import HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

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

WEIGHT_LIMIT = 1200  # in 60 s, for an IP address
REQUESTS_LIMIT = 5000  # in 300 s, whatever they weigh
HOLD_S = {403: 60, 418: 120, 429: 60}  # where Retry-After is missing; 403 never has one

MAX_ANSWER_BYTES = 5_000_000  # a whole exchangeInfo is about 2 MB, 1000 candles are 0.2 MB
CLOCK_SKEW_MS = 10_000  # further ahead of this clock, a row is from the future
MAX_TRIES = 3
TOO_LATE = "no time left before the next refresh"
BACKOFF_S = 0.5  # doubles with each try; jittered down to a half


class BinanceError(Exception):
    """What failed: a short `reason`, and HTTP `status` and exchange `code` where known. The reason
    names no symbol, so that equal reasons are equal."""

    def __init__(self, reason: str, *, status: int = 0, code: int = 0) -> None:
        # Parts of it are the exchange's words: nothing may get through that is not plain text.
        reason = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
        super().__init__(reason)
        self.reason, self.status, self.code = reason, status, code


class Retryable(BinanceError):
    """A time-out, a broken connection, HTTP 5xx: asking again may help."""


class RateLimited(BinanceError):
    """HTTP 429, 418 or 403, or the own budget is spent: nobody may ask for `retry_in_s` seconds."""

    def __init__(self, reason: str, retry_in_s: float, status: int = 0) -> None:
        super().__init__(reason, status=status)
        self.retry_in_s = retry_in_s


class Rejected(BinanceError):
    """Any other 3xx or 4xx (unknown symbol, geo-blocked): asking again will not help."""


class BadResponse(BinanceError):
    """An answer that is not what the documentation promises; nothing of it may be used."""


class Stopped(BinanceError):
    """The program is ending, so nothing is waited for any more."""


class Candles(NamedTuple):
    """Candles of a symbol and timeframe, oldest first: their open times in ms UTC, and the rows of
    the exchange's answer as JSON, `[...],[...]`, each with the documented 12 fields, no spaces."""

    times: array[int]
    rows: bytes

    def part(self, first: int, last: int | None = None) -> Candles:
        """Those of the slice [first:last]."""
        times = self.times[first:last]
        if not times:
            return Candles(times, b"")
        start = self.rows.index(b"[%d," % times[0])
        end = self.rows.index(b"]", self.rows.rindex(b"[%d," % times[-1])) + 1
        return Candles(times, self.rows[start:end])

    def then(self, later: Candles) -> Candles:
        """These and the `later` ones."""
        rows = filter(None, (self.rows, later.rows))
        return Candles(self.times + later.times, b",".join(rows))


class Ticker(NamedTuple):
    """Over the last 24 h: change in percent, volume in base units; `timestamp` in ms UTC. `row` is
    the exchange's own object as JSON."""

    price: float
    change24h: float
    volume: float
    timestamp: int
    row: bytes = b""


class Listing(NamedTuple):
    """What the exchange says of symbols: by symbol its status ("TRADING", "BREAK", ...) and its own
    object as JSON; `rules` is the rest of the answer, the same for all symbols."""

    statuses: dict[str, str]
    rows: dict[str, bytes]
    rules: dict[str, Any]


# --- how much may be asked ---


class _Budget:
    """At most `limit` units in any `window_s` seconds. Has no lock: RateLimiter's guards it."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit, self.window_s, self.used = limit, window_s, 0
        self._spent: deque[tuple[float, int]] = deque()  # (free again at, units), oldest first

    def expire(self, now: float) -> None:
        while self._spent and self._spent[0][0] <= now:
            self.used -= self._spent.popleft()[1]

    def wait_s(self, units: int, now: float) -> float:
        """Seconds until `units` can be spent; 0.0 if they can now."""
        self.expire(now)
        used, wait_s = self.used, 0.0
        for free_at, spent in self._spent:
            if used + units <= self.limit:
                break
            used, wait_s = used - spent, free_at - now
        return wait_s

    def spend(self, units: int, now: float) -> None:
        self._spent.append((now + self.window_s, units))
        self.used += units


class RateLimiter:
    """Keeps all threads within the exchange's limits for an IP address, whoever else shares it:
    1200 weight in any rolling 60 s and 5000 requests in any rolling 300 s by all who share it, of
    which `weight_limit` weight by this program.

    `travel_s`, the longest way of a request from `acquire` to the exchange, lengthens the windows,
    so that they hold by the exchange's count too. `clock` gives monotonic seconds; `wait(seconds)`
    sleeps, and returns True if the program is ending.
    """

    def __init__(
        self,
        weight_limit: int = WEIGHT_LIMIT,
        *,
        travel_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._wait = clock, wait
        # Guards the fields below. Workers spend, the main and health threads look; unlocked, two
        # workers would both spend the last unit. Nobody waits while holding it.
        self._lock = threading.Lock()
        self._own = _Budget(weight_limit, 60 + travel_s)
        self._address = _Budget(WEIGHT_LIMIT, 60 + travel_s)
        self._requests = _Budget(REQUESTS_LIMIT, 300 + travel_s)
        self._held_until, self._held_by = -math.inf, 0  # and by which HTTP status

    def acquire(self, weight: int, give_up_at: float = math.inf, spare: int = 0) -> None:
        """Wait until a request of `weight` may go out and `spare` weight is left for others, as far
        as the limit has it; and charge it.

        Raises RateLimited at once if that is not before `give_up_at` (of `clock`), and Stopped
        if the wait was interrupted; then nothing is charged.
        """
        if weight > self._own.limit:
            raise ValueError(f"weight {weight} never fits a limit of {self._own.limit}")
        spare = min(spare, self._own.limit - weight)
        costs = ((self._own, weight, spare), (self._address, weight, spare), (self._requests, 1, 0))
        while True:
            with self._lock:
                now = self._clock()
                held_s, held_by = self._held_until - now, self._held_by
                budget_s = max(budget.wait_s(units + more, now) for budget, units, more in costs)
                if max(held_s, budget_s) <= 0:
                    for budget, units, _ in costs:
                        budget.spend(units, now)
                    return
            wait_s = max(held_s, budget_s)
            if now + wait_s >= give_up_at:
                if held_s > 0:
                    raise RateLimited(f"on hold after HTTP {held_by}", wait_s, held_by)
                raise RateLimited("the request budget is spent", wait_s)
            if self._wait(wait_s):
                raise Stopped("stopping")

    def observe(self, used_weight: int) -> None:
        """Take in the weight that the exchange says was used in its current minute. What exceeds
        the own count was another program's, and is charged for a window: as long as it can matter.
        """
        with self._lock:
            now = self._clock()
            self._address.expire(now)
            if used_weight > self._address.used:
                self._address.spend(used_weight - self._address.used, now)

    def hold(self, seconds: float, status: int) -> None:
        """Let no request out for `seconds`, because the exchange answered with HTTP `status`."""
        with self._lock:
            until = self._clock() + seconds
            if until > self._held_until:
                self._held_until, self._held_by = until, status

    def state(self) -> tuple[int, float, int]:
        """(weight used by all, seconds left of a hold or 0.0, the HTTP status behind it)."""
        with self._lock:
            now = self._clock()
            self._address.expire(now)
            return self._address.used, max(0.0, self._held_until - now), self._held_by


# --- connections on which every answer ends ---


class _BoundedAnswer(io.RawIOBase):
    """One answer, which must arrive whole within the socket's time-out. The socket's own starts
    anew with every byte: a server that drips headers or body would never meet it.

    HTTPResponse takes this for the socket.
    """

    def __init__(self, sock: Any) -> None:
        super().__init__()
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._give_up_at = time.monotonic() + sock.gettimeout()

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._give_up_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left_s)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """After any other status than 200 the connection ends. An answer is still to come after one of
    1xx, which the next request would take for its own."""

    def begin(self) -> None:
        super().begin()
        self.will_close = self.will_close or self.status != 200


def _bounded(sock: Any, **kwargs: Any) -> HTTPResponse:
    answer: Any = _BoundedAnswer(sock)
    return _Answer(answer, **kwargs)


class _HTTPConnection(HTTPConnection):
    response_class: Any = staticmethod(_bounded)


class _HTTPSConnection(HTTPSConnection):
    response_class: Any = staticmethod(_bounded)


class _BoundedAdapter(HTTPAdapter):
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _HTTPSConnection if pool.scheme == "https" else _HTTPConnection
        return pool


# --- asking ---


class BinanceClient:
    """Public market data of the exchange at `base_url`, for any number of threads.

    They share `limiter`, and up to `connections` that are kept. `timeout_s` bounds the connecting,
    and then the whole answer; `wait` is as for RateLimiter. All methods raise BinanceError, and
    begin nothing after `give_up_at`, in monotonic seconds.
    """

    def __init__(
        self,
        base_url: str,
        limiter: RateLimiter,
        *,
        timeout_s: float = 5.0,
        user_agent: str = "coinex-market-data",
        connections: int = 1,
        wait: Callable[[float], object] = time.sleep,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._limiter, self._timeout_s = limiter, timeout_s
        self._wall_clock, self._wait = wall_clock, wait
        # Without a Session: threads may not share one, and all that it adds (cookies, redirects, a
        # proxy or a .netrc of the environment) is not wanted, for a third of a request's CPU.
        self._adapter = _BoundedAdapter(pool_maxsize=connections)
        headers = dict(requests.utils.default_headers()) | {"User-Agent": user_agent}
        self._request = requests.Request("GET", f"{base_url}/api/v3/", headers).prepare()
        # Guards the count: workers add, health threads copy.
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()  # by HTTP status; "none" if no answer came

    def answers(self) -> dict[str, int]:
        """How many requests were answered with each HTTP status, "none" for those that were not."""
        with self._lock:
            return dict(self._answers)

    def klines(
        self,
        symbol: str,
        timeframe: str,
        limit: int,
        give_up_at: float = math.inf,
        acquired: bool = False,
    ) -> Candles:
        """The newest `limit` candles, oldest first; the last may still be forming. Weight 1, which
        the caller may have `acquired` already."""
        params = {"symbol": symbol, "interval": timeframe, "limit": limit}
        body = self._get("klines", params, 1, give_up_at, acquired)
        return parse_klines(body, timeframe, self._now_ms())

    def tickers(
        self, symbols: Sequence[str], give_up_at: float = math.inf, acquired: bool = False
    ) -> dict[str, Ticker | BadResponse]:
        """The 24 h ticker of each of at most 20 symbols, or what is wrong with it. Weight 1,
        which the caller may have `acquired` already.

        The exchange rejects the whole call for one symbol that it does not know.
        """
        if len(symbols) > MAX_TICKER_SYMBOLS:
            raise ValueError(f"{len(symbols)} symbols in one call weigh 20 and more, not 1")
        params = {"symbols": as_json(symbols)}
        rows = _parse(self._get("ticker/24hr", params, 1, give_up_at, acquired))
        return parse_tickers(rows, symbols, self._now_ms())

    def exchange_info(self, symbols: Sequence[str], give_up_at: float = math.inf) -> Listing:
        """What is said of those of `symbols` that are listed. Weight 10; 20 if one is not, because
        then the whole list has to be asked for."""
        try:
            info = self._get("exchangeInfo", {"symbols": as_json(symbols)}, 10, give_up_at)
        except Rejected as error:
            if error.code != UNKNOWN_SYMBOL:
                raise
            info = self._get("exchangeInfo", {}, 10, give_up_at)
        return parse_listing(_parse(info), symbols)

    def server_time(self, give_up_at: float = math.inf) -> int:
        """The exchange's clock in ms UTC. Weight 1."""
        answer = _parse(self._get("time", {}, 1, give_up_at))
        if not isinstance(answer, dict) or type(answer.get("serverTime")) is not int:
            raise BadResponse("no serverTime in the answer")
        return int(answer["serverTime"])

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    def _get(
        self,
        path: str,
        params: dict[str, Any],
        weight: int,
        give_up_at: float,
        acquired: bool = False,
    ) -> bytes:
        """Ask until there is an answer, MAX_TRIES are used up, or `give_up_at` would pass."""
        for tried in range(1, MAX_TRIES + 1):
            if time.monotonic() >= give_up_at:
                raise Retryable(TOO_LATE)
            if tried > 1 or not acquired:
                self._limiter.acquire(weight, give_up_at)
            try:
                return self._ask(path, params, give_up_at)
            except RateLimited:
                if tried == MAX_TRIES:
                    raise
                continue  # the limiter waits until the hold is over, or gives up
            except Retryable:
                pause_s = BACKOFF_S * 2 ** (tried - 1) * random.uniform(0.5, 1.0)
                if tried == MAX_TRIES or time.monotonic() + pause_s >= give_up_at:
                    raise
            if self._wait(pause_s):
                raise Stopped("stopping")
        raise AssertionError("the last try returns or raises")

    def _ask(self, path: str, params: dict[str, Any], give_up_at: float) -> bytes:
        """The body of one answer, read whole, within the bounds of time and size."""
        timeout_s = min(self._timeout_s, max(0.05, give_up_at - time.monotonic()))
        request = self._request.copy()
        request.url = f"{request.url}{path}?{urlencode(params)}"
        answered = "none"
        try:
            with self._adapter.send(request, stream=True, timeout=timeout_s) as response:
                answered = str(response.status_code)
                self._obey_limits(response)  # before its body, which may never come
                body = response.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        except (HTTPError, OSError) as error:  # that of requests is an OSError
            raise Retryable(_network_reason(error)) from error
        finally:
            with self._lock:
                self._answers[answered] += 1
        if len(body) > MAX_ANSWER_BYTES:
            raise BadResponse(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if response.status_code != 200:
            raise _error_of(response, body)
        return body

    def _obey_limits(self, response: requests.Response) -> None:
        """Tell the limiter what the exchange says of its limits; RateLimited if it says no."""
        self._limiter.observe(_header_int(response, "X-MBX-USED-WEIGHT-1M", 0))
        status = response.status_code
        if status in HOLD_S:
            hold_s = max(1, _header_int(response, "Retry-After", HOLD_S[status]))
            self._limiter.hold(hold_s, status)
            raise RateLimited(f"HTTP {status}: on hold for {hold_s} s", hold_s, status)


# --- what the answers say ---


def _header_int(response: requests.Response, name: str, default: int) -> int:
    text = response.headers.get(name, "").strip()
    return int(text[:9]) if re.fullmatch("[0-9]{1,99}", text) else default


def _error_of(response: requests.Response, body: bytes) -> BinanceError:
    """The error for an answer whose status is neither 200 nor a limit."""
    status = response.status_code
    if status >= 500:
        return Retryable(f"HTTP {status}", status=status)
    try:
        answer = json.loads(body)
        code, message = int(answer["code"]), str(answer["msg"])[:200]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        what = "redirects are not followed" if 300 <= status < 400 else _excerpt(body)
        return Rejected(f"HTTP {status}: {what}", status=status)
    return Rejected(f"HTTP {status}: {message} (code {code})", status=status, code=code)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise BadResponse(f"the answer is not JSON: {_excerpt(body)}") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def as_json(value: Any) -> bytes:
    """As the exchange writes it, without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def _network_reason(error: Exception) -> str:
    """A short reason without addresses; the libraries wrap the cause several times."""
    root: BaseException = error
    while root.__context__ is not None:
        root = root.__context__
    if isinstance(root, TimeoutError):
        connecting = isinstance(error, requests.ConnectTimeout)
        return "no connection in time" if connecting else "no whole answer in time"
    return f"connection failed: {getattr(root, 'strerror', None) or root or type(root).__name__}"


def _excerpt(body: bytes) -> str:
    return repr(body[:40].decode("latin-1")) + ("..." if len(body) > 40 else "")


_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_INTEGER, _DECIMAL = rb"(?:0|[1-9][0-9]{0,14}+)", rb'"(?!0[0-9])[0-9]++(?:\.[0-9]++)?+"'
# Of what is only passed on: whatever is one word. For that, nobody need be without candles.
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
    """The candles of a klines answer; BadResponse says what is wrong with the first bad row.

    A row is a list of what _KLINE names: an integer, decimal numbers as strings, and six more.
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
    """The klines answer as the exchange writes it, of one that has spaces, say, or more fields."""
    rows = _parse(body)
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
    """Of a ticker/24hr answer the ticker of each of `symbols`, or what is wrong with it."""
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
    """What an exchangeInfo says of those of `symbols` that are in it."""
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
