"""Asks the exchange: one rate limiter for all threads, connections on which every answer ends.

Knows nothing of Redis, refreshes or settings, and writes no log. What the answers say is in
binance_answers.py. Weights, limits and statuses are from the exchange's public REST documentation:
https://github.com/binance-us/binance-us-api-docs/blob/master/rest-api.md
"""

from __future__ import annotations

import io
import math
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from binance_answers import (
    MAX_TICKER_SYMBOLS,
    REQUESTS_LIMIT,
    UNKNOWN_SYMBOL,
    WEIGHT_LIMIT,
    BadResponse,
    Candles,
    Listing,
    RateLimited,
    Rejected,
    Retryable,
    Stopped,
    Ticker,
    as_json,
    error_of,
    parse_json,
    parse_klines,
    parse_listing,
    parse_tickers,
)

# Statuses that mean "not now", and how long to hold where Retry-After is missing.
HOLD_S = {403: 60, 418: 120, 429: 60}
# A whole exchangeInfo is about 2 MB, 1000 candles are 0.2 MB.
MAX_ANSWER_BYTES = 5_000_000
MAX_TRIES = 3
# The pause after a failed try. It doubles with each, and is jittered down to a half.
BACKOFF_S = 0.5
TOO_LATE = "no time left before the next refresh"


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
    """Keeps all threads within the exchange's limits for an IP address: 1200 weight in any 60 s and
    5000 requests in any 300 s by all programs there, `weight_limit` weight by this one.

    `travel_s`, the longest that a request may take from `acquire` to the exchange, lengthens the
    windows, so that they hold by the exchange's count too. `clock` gives monotonic seconds;
    `wait(seconds)` sleeps, and returns True if the program is ending.
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
        # Guards the fields below. Workers spend, the main thread and HTTP threads look. Unlocked,
        # two workers would both spend the last unit. Nobody waits while holding it.
        self._lock = threading.Lock()
        self._own = _Budget(weight_limit, 60 + travel_s)
        self._address = _Budget(WEIGHT_LIMIT, 60 + travel_s)
        self._requests = _Budget(REQUESTS_LIMIT, 300 + travel_s)
        self._held_until, self._held_by = -math.inf, 0  # and by which HTTP status

    def acquire(self, weight: int, give_up_at: float = math.inf) -> None:
        """Wait until a request of `weight` may go out, and charge it.

        Raises RateLimited at once if that is not before `give_up_at` (of `clock`), and Stopped
        if the wait was interrupted; then nothing is charged.
        """
        if weight > self._own.limit:
            raise ValueError(f"weight {weight} never fits a limit of {self._own.limit}")
        costs = ((self._own, weight), (self._address, weight), (self._requests, 1))
        while True:
            with self._lock:
                now = self._clock()
                held_s, held_by = self._held_until - now, self._held_by
                budget_s = max(budget.wait_s(units, now) for budget, units in costs)
                if max(held_s, budget_s) <= 0:
                    for budget, units in costs:
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
        """Note the weight that the exchange counted in its current minute. What exceeds our own
        count was another program's, and is charged for a whole window.
        """
        with self._lock:
            now = self._clock()
            self._address.expire(now)
            if used_weight > self._address.used:
                self._address.spend(used_weight - self._address.used, now)

    def hold(self, seconds: float, status: int) -> None:
        """Let no request out for `seconds`: the exchange answered with HTTP `status`."""
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
    """One answer, which must arrive whole within the socket's timeout. The socket itself restarts
    its timeout with every byte, so a server that drips bytes would hold a worker for ever.

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
    """Closes the connection after any status but 200: after a 1xx another answer follows, which
    the next request would take for its own."""

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

    They share `limiter`, and up to `connections` connections. `timeout_s` bounds connecting, and
    then the whole answer; `wait` is as for RateLimiter. All methods raise BinanceError, and send
    nothing after `give_up_at`, in monotonic seconds.
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
        # No Session: threads may not share one, and what it adds (cookies, redirects, .netrc) is
        # not wanted; it takes a third of a request's CPU.
        self._adapter = _BoundedAdapter(pool_maxsize=connections)
        headers = dict(requests.utils.default_headers()) | {"User-Agent": user_agent}
        self._request = requests.Request("GET", f"{base_url}/api/v3/", headers).prepare()
        # Guards _answers: workers count, HTTP threads copy.
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()  # by HTTP status; "none" if no answer came

    def answers(self) -> dict[str, int]:
        """How many requests got each HTTP status; "none" counts those without an answer."""
        with self._lock:
            return dict(self._answers)

    def klines(
        self, symbol: str, timeframe: str, limit: int, give_up_at: float = math.inf
    ) -> Candles:
        """The newest `limit` candles, oldest first; the last may still be forming. Weight 1."""
        params = {"symbol": symbol, "interval": timeframe, "limit": limit}
        body = self._get("klines", params, 1, give_up_at)
        return parse_klines(body, timeframe, self._now_ms())

    def tickers(
        self, symbols: Sequence[str], give_up_at: float = math.inf
    ) -> dict[str, Ticker | BadResponse]:
        """The 24 h ticker of each of at most 20 symbols, or what is wrong with it. Weight 1.

        The exchange rejects the whole call for one symbol that it does not know.
        """
        if len(symbols) > MAX_TICKER_SYMBOLS:
            raise ValueError(f"{len(symbols)} symbols in one call weigh 20 and more, not 1")
        params = {"symbols": as_json(symbols)}
        rows = parse_json(self._get("ticker/24hr", params, 1, give_up_at))
        return parse_tickers(rows, symbols, self._now_ms())

    def exchange_info(self, symbols: Sequence[str], give_up_at: float = math.inf) -> Listing:
        """The listing of `symbols`, as far as they are listed. Weight 10; 20 if one is not, for
        then the whole list must be read."""
        try:
            info = self._get("exchangeInfo", {"symbols": as_json(symbols)}, 10, give_up_at)
        except Rejected as error:
            if error.code != UNKNOWN_SYMBOL:
                raise
            info = self._get("exchangeInfo", {}, 10, give_up_at)
        return parse_listing(parse_json(info), symbols)

    def server_time(self, give_up_at: float = math.inf) -> int:
        """The exchange's clock in ms UTC. Weight 1."""
        answer = parse_json(self._get("time", {}, 1, give_up_at))
        if not isinstance(answer, dict) or type(answer.get("serverTime")) is not int:
            raise BadResponse("no serverTime in the answer")
        return int(answer["serverTime"])

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    def _get(self, path: str, params: dict[str, Any], weight: int, give_up_at: float) -> bytes:
        """The body of an answer, after up to MAX_TRIES, all of them before `give_up_at`."""
        for tried in range(1, MAX_TRIES + 1):
            if time.monotonic() >= give_up_at:
                raise Retryable(TOO_LATE)
            self._limiter.acquire(weight, give_up_at)
            try:
                return self._ask(path, params, give_up_at)
            except RateLimited:
                if tried == MAX_TRIES:
                    raise
                continue  # acquire() waits until the hold is over, or gives up
            except Retryable:
                pause_s = BACKOFF_S * 2 ** (tried - 1) * random.uniform(0.5, 1.0)
                if tried == MAX_TRIES or time.monotonic() + pause_s >= give_up_at:
                    raise
            if self._wait(pause_s):
                raise Stopped("stopping")
        raise AssertionError("the last try returns or raises")

    def _ask(self, path: str, params: dict[str, Any], give_up_at: float) -> bytes:
        """The body of one answer, within the bounds of time and size."""
        timeout_s = min(self._timeout_s, max(0.05, give_up_at - time.monotonic()))
        request = self._request.copy()
        request.url = f"{request.url}{path}?{urlencode(params)}"
        answered = "none"
        try:
            with self._adapter.send(request, stream=True, timeout=timeout_s) as response:
                answered = str(response.status_code)
                self._obey_limits(response)  # before the body, which may never come
                body = response.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        except (HTTPError, OSError) as error:  # RequestException is an OSError
            raise Retryable(_network_reason(error)) from error
        finally:
            with self._lock:
                self._answers[answered] += 1
        if len(body) > MAX_ANSWER_BYTES:
            raise BadResponse(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if response.status_code != 200:
            raise error_of(response.status_code, body)
        return body

    def _obey_limits(self, response: requests.Response) -> None:
        """Tell the limiter what the headers say. Raises RateLimited if they say "not now"."""
        self._limiter.observe(_header_int(response, "X-MBX-USED-WEIGHT-1M", 0))
        status = response.status_code
        if status in HOLD_S:
            hold_s = max(1, _header_int(response, "Retry-After", HOLD_S[status]))
            self._limiter.hold(hold_s, status)
            raise RateLimited(f"HTTP {status}: on hold for {hold_s} s", hold_s, status)


# --- headers and failures ---


def _header_int(response: requests.Response, name: str, default: int) -> int:
    text = response.headers.get(name, "").strip()
    return int(text[:9]) if re.fullmatch("[0-9]{1,99}", text) else default


def _network_reason(error: Exception) -> str:
    """A short reason without addresses. The libraries wrap the cause several times."""
    root: BaseException = error
    while root.__context__ is not None:
        root = root.__context__
    if isinstance(root, TimeoutError):
        connecting = isinstance(error, requests.ConnectTimeout)
        return "no connection in time" if connecting else "no whole answer in time"
    return f"connection failed: {getattr(root, 'strerror', None) or root or type(root).__name__}"
