"""Asks the exchange, over connections.py, as often as rate_limiter.py allows.

Knows nothing of Redis, refreshes or settings, and writes no log. What the answers say is in
binance_answers.py. Weights and statuses are from the exchange's public REST documentation:
https://docs.binance.us/
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import requests
from urllib3.exceptions import HTTPError

from binance_answers import (
    MAX_TICKER_SYMBOLS,
    UNKNOWN_SYMBOL,
    BadResponse,
    Candles,
    Idle,
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
from connections import BoundedAdapter, network_reason
from rate_limiter import HOLD_S, RateLimiter

# A whole exchangeInfo is about 2 MB, 1000 candles are 0.2 MB.
MAX_ANSWER_BYTES = 5_000_000
REFUSAL_BYTES = 20_000  # of the page of a refusal
MAX_TRIES = 3
# The pause after a failed try. It doubles with each, and is jittered down to a half.
BACKOFF_S = 0.5
TOO_LATE = "no time left before the next refresh"


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
        self._adapter = BoundedAdapter(base_url, pool_maxsize=connections)
        headers = dict(requests.utils.default_headers()) | {"User-Agent": user_agent}
        self._request = requests.Request("GET", f"{base_url}/api/v3/", headers).prepare()
        # Guards the fields below: workers write, HTTP threads and the main one look.
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()  # by HTTP status; "none" if no answer came
        self._last_refusal = ""
        self._clock_offset_s: float | None = None
        self._used_weight: int | None = None

    @property
    def proxy(self) -> str:
        """The URL of the proxy without credentials, "" if there is none."""
        return self._adapter.proxy

    @property
    def ca_bundle(self) -> str:
        """The file or folder of the CAs that are trusted."""
        return self._adapter.ca_bundle

    def answers(self) -> dict[str, int]:
        """How many requests got each HTTP status; "none" counts those without an answer."""
        with self._lock:
            return dict(self._answers)

    def last_refusal(self) -> str:
        """The status of the last answer that meant "not now", and its own words; "" without one."""
        with self._lock:
            return self._last_refusal

    def clock_offset_s(self) -> float | None:
        """By how much the exchange's clock is ahead of this machine's, to a second or so; None
        while it is not known."""
        with self._lock:
            return self._clock_offset_s

    def used_weight(self) -> int | None:
        """The weight that this address had used in the exchange's current minute, as the last
        answer that told it says; None if none did."""
        with self._lock:
            return self._used_weight

    def klines(
        self, symbol: str, timeframe: str, limit: int, give_up_at: float = math.inf
    ) -> Candles:
        """The newest `limit` candles, oldest first; the last may still be forming. Weight 1."""
        params = {"symbol": symbol, "interval": timeframe, "limit": limit}
        body = self._get("klines", params, 1, give_up_at)
        return parse_klines(body, timeframe, self._now_ms())

    def tickers(
        self, symbols: Sequence[str], give_up_at: float = math.inf
    ) -> dict[str, Ticker | Idle | BadResponse]:
        """The 24 h ticker of each of at most 20 symbols, or why there is none. Weight 1.

        The exchange rejects the whole call for one symbol that it does not know.
        """
        if len(symbols) > MAX_TICKER_SYMBOLS:
            raise ValueError(f"{len(symbols)} symbols in one call weigh 20 and more, not 1")
        params = {"symbols": as_json(symbols)}
        rows = parse_json(self._get("ticker/24hr", params, 1, give_up_at))
        return parse_tickers(rows, symbols, self._now_ms())

    def exchange_info(self, symbols: Sequence[str], give_up_at: float = math.inf) -> Listing:
        """The listing of `symbols`, as far as they are listed, and the limits of this address,
        which the limiter keeps to from now on. Weight 20; 40 if one is not listed, for then the
        whole list must be read."""
        try:
            info = self._get("exchangeInfo", {"symbols": as_json(symbols)}, 20, give_up_at)
        except Rejected as error:
            if error.code != UNKNOWN_SYMBOL:
                raise
            info = self._get("exchangeInfo", {}, 20, give_up_at)
        listing = parse_listing(parse_json(info), symbols)
        if listing.limits:
            self._limiter.set_limits(listing.limits)
        return listing

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
            era = self._limiter.acquire(weight, give_up_at)
            try:
                return self._ask(path, params, give_up_at, era)
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

    def _ask(self, path: str, params: dict[str, Any], give_up_at: float, era: int) -> bytes:
        """The body of one answer, within the bounds of time and size."""
        request = self._request.copy()
        request.url = f"{request.url}{path}?{urlencode(params)}"
        answered = "none"
        try:
            with self._adapter.ask(request, self._timeout_s, give_up_at) as response:
                answered = str(response.status_code)
                self._note_headers(response)
                if response.status_code in HOLD_S:
                    raise self._refusal(response, era)
                self._limiter.answered(era)
                body = response.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        except (HTTPError, OSError) as error:  # RequestException is an OSError
            raise Retryable(network_reason(error)) from error
        finally:
            if answered == "none":
                self._limiter.unanswered(era)
            with self._lock:
                self._answers[answered] += 1
        if len(body) > MAX_ANSWER_BYTES:
            raise BadResponse(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if response.status_code != 200:
            raise error_of(response.status_code, body)
        return body

    def _note_headers(self, response: requests.Response) -> None:
        """The weight that the exchange has counted, and its clock."""
        used_weight = _header_int(response, "X-MBX-USED-WEIGHT-1M")
        if used_weight is not None:
            self._limiter.observe(used_weight)
            with self._lock:
                self._used_weight = used_weight
        with suppress(KeyError, TypeError, ValueError):
            exchange_s = parsedate_to_datetime(response.headers["Date"]).timestamp()
            with self._lock:  # the header has whole seconds, cut off
                self._clock_offset_s = exchange_s + 0.5 - self._wall_clock()

    def _refusal(self, response: requests.Response, era: int) -> RateLimited:
        """Hold, before the body is read, which may never come; then read what it says."""
        status, body = response.status_code, b""
        retry_after_s = _header_int(response, "Retry-After")
        if retry_after_s is not None:
            retry_after_s = max(1, retry_after_s)
        hold_s = self._limiter.refused(era, status, retry_after_s)
        with suppress(HTTPError, OSError):
            body = response.raw.read(REFUSAL_BYTES, decode_content=True)
        words = error_of(status, body).reason if body else f"HTTP {status}"
        with self._lock:
            self._last_refusal = words
        return RateLimited(f"{words}: on hold for {hold_s:.0f} s", hold_s, status)


# --- headers ---


def _header_int(response: requests.Response, name: str) -> int | None:
    text = response.headers.get(name, "").strip()
    return int(text[:9]) if re.fullmatch("[0-9]{1,99}", text) else None
