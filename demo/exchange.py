"""A simulated Binance.US on loopback: its public REST API, its limits, and its bad days.

Answers, weights, limits and errors follow the public documentation of the exchange; the candles
are those of `demo.market`. What can go wrong is asked for with `Exchange.fault`, see `_KINDS`.
Other processes do the same under /sim/, a path that the real exchange has not: GET /sim/requests,
POST /sim/fault, DELETE /sim/fault?kind=. It holds no accounts and no orders.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from demo import market
from demo.market import Candle

WEIGHT_LIMIT = 1200  # a minute of the exchange's clock, for each IP address
RAW_LIMIT, RAW_WINDOW_S = 5000, 300
REFUSALS_TO_BAN = 20  # more than a client with 16 workers has on their way when it is first told
FIRST_BAN_S, LONGEST_BAN_S = 120, 3 * 86400  # doubling in between

LAUNCH_S = 1_569_196_800  # 2019-09-23, before which there are no candles
DEFAULT_LIMIT, MAX_LIMIT = 500, 1000  # candles an answer
KEPT_REQUESTS = 20_000
HANG_UP_CHECK_S = 0.05

Rows = list[list[Any]]


class Request(NamedTuple):
    """One request as it was answered: `at` in seconds of the exchange's clock, `limit` 0 and
    `interval` empty where there is none, `status` 0 if no answer was meant to arrive."""

    at: float
    path: str
    symbols: tuple[str, ...]
    interval: str
    limit: int
    weight: int
    status: int


class ApiError(Exception):
    """An error that the API answers with."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


# --- what a call may say ---


@dataclass
class Call:
    """A request for one of the API's paths; `symbols` as asked, empty means all."""

    path: str
    params: dict[str, str]
    symbols: tuple[str, ...] = ()
    weight: int = 1

    @property
    def interval(self) -> str:
        return self.params.get("interval", "")

    @property
    def limit(self) -> int:
        """Candles to answer with, or 0 if this is no call for candles."""
        if not self.path.endswith("klines"):
            return 0
        return min(self.number("limit") or DEFAULT_LIMIT, MAX_LIMIT)

    def number(self, name: str) -> int | None:
        text = self.params.get(name)
        return int(text) if text is not None and text.isdecimal() and text.isascii() else None


_PARAMS = {
    "/api/v3/ping": (),
    "/api/v3/time": (),
    "/api/v3/exchangeInfo": ("symbol", "symbols"),
    "/api/v3/klines": ("symbol", "interval", "startTime", "endTime", "limit"),
    "/api/v3/ticker/24hr": ("symbol", "symbols", "type"),
    "/api/v3/ticker/price": ("symbol", "symbols"),
}
_LEGAL = {
    "symbol": "^[A-Z0-9-_.]{1,20}$",
    "symbols": '^\\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\\]$',
    "limit": "^[0-9]{1,20}$",
    "startTime": "^[0-9]{1,20}$",
    "endTime": "^[0-9]{1,20}$",
}


def _read_call(method: str, path: str, query: str) -> Call:
    """Check the parameters the way the exchange does; raises ApiError."""
    known = _PARAMS.get(path)
    if known is None:
        raise ApiError(-1000, f"No such path: {path}", 404)
    if method != "GET":
        raise ApiError(-1000, f"Request method '{method}' is not supported.", 405)
    pairs = parse_qsl(query, keep_blank_values=True)
    params = dict(pairs)
    if len(params) < len(pairs):
        raise ApiError(-1101, "Duplicate values for a parameter detected.")
    read = [name for name in params if name in known]
    if len(params) > len(known):
        counts = f"expected '{len(known)}' and received '{len(params)}'"
        raise ApiError(-1101, f"Too many parameters; {counts}.")
    if len(read) < len(params):
        counts = f"read '{len(read)}' parameter(s) but was sent '{len(params)}'"
        raise ApiError(-1104, f"Not all sent parameters were read; {counts}.")
    for name, text in params.items():
        _check_text(name, text)
    for name in ("symbol", "interval") if path.endswith("klines") else ():
        if name not in params:
            problem = "was not sent, was empty/null, or malformed"
            raise ApiError(-1102, f"Mandatory parameter '{name}' {problem}.")
    if "symbol" in params and "symbols" in params:
        raise ApiError(-1128, "Combination of optional parameters invalid.")
    _check_values(params)
    asked = (params["symbol"],) if "symbol" in params else json.loads(params.get("symbols", "[]"))
    if "symbols" in params and not asked:
        raise ApiError(-1105, "Parameter 'symbols' was empty.")
    return Call(path, params, tuple(asked), _weight(path, len(asked)))


def _check_text(name: str, text: str) -> None:
    if not text:
        raise ApiError(-1105, f"Parameter '{name}' was empty.")
    legal = _LEGAL.get(name)
    if legal and not re.fullmatch(legal.strip("^$"), text):
        where = f"in parameter '{name}'; legal range is '{legal}'"
        raise ApiError(-1100, f"Illegal characters found {where}.")


def _check_values(params: dict[str, str]) -> None:
    if params.get("interval", "1m") not in market.INTERVALS:
        raise ApiError(-1120, "Invalid interval.")
    if params.get("type", "FULL") not in ("FULL", "MINI"):
        raise ApiError(-1130, "Data sent for parameter 'type' is not valid.")
    if int(params.get("limit", 1)) < 1:
        raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")


def _weight(path: str, symbols: int) -> int:
    """What a call for so many symbols (0 = all) costs."""
    if path.endswith("exchangeInfo"):
        return 10
    if path.endswith("ticker/price"):
        return 1 if symbols == 1 else 2
    if path.endswith("ticker/24hr"):
        return 1 if 1 <= symbols <= 20 else 20 if 1 <= symbols <= 100 else 40
    return 1


# --- limits ---


@dataclass
class _Usage:
    """What one IP address has spent, and until when it is refused."""

    minute: int = -1
    weight: int = 0
    raw_window: int = -1
    raw_requests: int = 0
    refused_until: float = 0.0
    refused_with: int = 0  # 429, 418 or 0
    ignored: int = 0  # requests in spite of a 429
    bans: int = 0

    def charge(self, weight: int, others_weight: int, limit: int, now: float) -> None:
        """Count one request at `now`; afterwards `refused_with` says whether it is answered."""
        minute, raw_window = int(now // 60), int(now // RAW_WINDOW_S)
        if minute != self.minute:
            self.minute, self.weight = minute, 0
        if raw_window != self.raw_window:
            self.raw_window, self.raw_requests = raw_window, 0
        self.weight += weight
        self.raw_requests += 1
        if now < self.refused_until:
            self.ignored += self.refused_with == 429
            if self.ignored >= REFUSALS_TO_BAN:
                seconds = min(FIRST_BAN_S * 2**self.bans, LONGEST_BAN_S)
                self.refuse(418, now + seconds)
                self.bans += 1
            return
        self.refuse(0, 0.0)
        if self.weight + others_weight > limit:
            self.refuse(429, (minute + 1) * 60)
        elif self.raw_requests > RAW_LIMIT:
            self.refuse(429, (raw_window + 1) * RAW_WINDOW_S)

    def refuse(self, status: int, until: float) -> None:
        self.refused_with, self.refused_until, self.ignored = status, until, 0


# --- faults ---


@dataclass
class Fault:
    """Something that goes wrong with the requests it matches, `times` of them (None = all).

    `detail` holds the numbers of its kind, see the functions below; `cleared` is set when it ends.
    """

    number: int
    kind: str
    symbol: str | None
    path: str | None
    times: int | None
    detail: dict[str, Any]
    cleared: threading.Event = field(default_factory=threading.Event)

    def matches(self, call: Call) -> bool:
        """True if it applies to `call`. A call for all symbols matches any symbol."""
        return (
            self.times != 0
            and call.path.endswith(self.path or "")
            and call.path.endswith(_KINDS[self.kind].paths)
            and (self.symbol is None or not call.symbols or self.symbol in call.symbols)
        )

    def number_of(self, name: str, default: float) -> float:
        return float(self.detail.get(name, default))


@dataclass
class Reply:
    """What is about to be sent: `body` is `value` as JSON unless a fault has set it."""

    status: int
    value: Any
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def encoded(self) -> bytes:
        if self.body is None:
            self.body = json.dumps(self.value, separators=(",", ":")).encode()
        return self.body


# Faults of the limits: called with the address's usage and the time before it is charged.


def _hold(fault: Fault, usage: _Usage, now: float) -> None:
    """429 to everything for `seconds`."""
    usage.refuse(429, now + fault.number_of("seconds", 7))


def _ban(fault: Fault, usage: _Usage, now: float) -> None:
    """418 to everything for `seconds`."""
    usage.refuse(418, now + fault.number_of("seconds", FIRST_BAN_S))


def _used_weight(fault: Fault, usage: _Usage, now: float) -> None:
    """Another program on this address uses `weight` a minute; added up in `Exchange._charge`."""


# Faults of history: called for each candle as it should be, and return it as it is answered.


class _Bar(NamedTuple):
    symbol: str
    begins_s: int
    closes_s: int
    now: float
    candle: Candle


def _late(fault: Fault, bar: _Bar) -> Candle:
    """For `seconds` after a candle's close its last twentieth is missing."""
    if not bar.closes_s <= bar.now < bar.closes_s + fault.number_of("seconds", 3):
        return bar.candle
    missing_s = max((bar.closes_s - bar.begins_s) // 20, 1)
    return market.candle(bar.symbol, bar.begins_s, bar.closes_s - missing_s)


def _revised(fault: Fault, bar: _Bar) -> Candle:
    """The last `candles` closed candles close at a new high, higher by the share `by`."""
    age_s = (bar.closes_s - bar.begins_s) * fault.number_of("candles", 2)
    if not bar.closes_s <= bar.now < bar.closes_s + age_s:
        return bar.candle
    high = bar.candle.high + max(int(bar.candle.high * fault.number_of("by", 0.001)), 1)
    return bar.candle._replace(high=high, close=high)


def _gap(fault: Fault, open_s: int) -> bool:
    """Candles that open from `start` up to `end`, epoch seconds, do not exist."""
    return fault.number_of("start", 0) <= open_s < fault.number_of("end", math.inf)


def _lagging(fault: Fault, now: float) -> float:
    """Everything is as it was `seconds` ago."""
    return now - fault.number_of("seconds", 60)


# Faults of an answer: called with the reply, which they change.


def _status(fault: Fault, reply: Reply) -> None:
    """An HTTP `status` with an error `code` and `msg` in JSON."""
    reply.status = int(fault.number_of("status", 500))
    message = fault.detail.get("msg", "Internal error; unable to process your request.")
    reply.value = {"code": int(fault.number_of("code", -1001)), "msg": message}


def _html(fault: Fault, reply: Reply) -> None:
    reply.body = b"<!DOCTYPE html><html><body><h1>Checking your browser</h1></body></html>"
    reply.headers["Content-Type"] = "text/html"


def _truncated(fault: Fault, reply: Reply) -> None:
    reply.body = reply.encoded()[: len(reply.encoded()) // 2]


def _redirect(fault: Fault, reply: Reply) -> None:
    """302 to `location`."""
    reply.status, reply.value = 302, {}
    reply.headers["Location"] = str(fault.detail.get("location", "https://api.invalid/api/v3/ping"))


def _no_retry_after(fault: Fault, reply: Reply) -> None:
    reply.status, reply.value = 429, {"code": -1003, "msg": "Too many requests."}


def _empty(fault: Fault, reply: Reply) -> None:
    reply.value = []


def _wrong_shape(fault: Fault, reply: Reply) -> None:
    """An object instead of a list, or with shape="flat" a list of numbers."""
    reply.value = [1, 2, 3] if fault.detail.get("shape") == "flat" else {"rows": reply.value}


def _short_rows(fault: Fault, reply: Reply) -> None:
    reply.value = [fields[:5] for fields in reply.value]


def _duplicated(fault: Fault, reply: Reply) -> None:
    reply.value = [*reply.value, *reply.value[-1:]]


def _unordered(fault: Fault, reply: Reply) -> None:
    reply.value = reply.value[::-1]


def _future(fault: Fault, reply: Reply) -> None:
    """All rows are moved on by `seconds`."""
    for fields in reply.value:
        for column in (0, 6):
            fields[column] += int(fault.number_of("seconds", market.DAY_S) * 1000)


def _put(column: int, key: str, value: Any) -> Callable[[Fault, Reply], None]:
    """A fault that puts `value`, or its own detail `value`, into the last row or the tickers."""

    def put(fault: Fault, reply: Reply) -> None:
        wrong = fault.detail.get("value", value)
        entries = reply.value if isinstance(reply.value, list) else [reply.value]
        if entries and isinstance(entries[-1], list):
            entries[-1][column] = wrong
            return
        for entry in entries:
            if fault.symbol in (None, entry["symbol"]):
                entry[key] = wrong

    return put


# Faults of the wire: called with the connection and the bytes that it should have sent.


def _silent(fault: Fault, wire: _Handler, head: bytes, body: bytes) -> None:
    """Not a byte until it is cleared, or the client or the exchange hangs up."""
    while not (fault.cleared.wait(HANG_UP_CHECK_S) or wire.hung_up()):
        pass


def _reset(fault: Fault, wire: _Handler, head: bytes, body: bytes) -> None:
    # To linger for 0 s makes close() send RST; it waits for the reader, which shares the socket.
    wire.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.rfile.close()
    wire.connection.close()


def _short_body(fault: Fault, wire: _Handler, head: bytes, body: bytes) -> None:
    wire.send(head + body[: len(body) // 2])


def _huge(fault: Fault, wire: _Handler, head: bytes, body: bytes) -> None:
    """`megabytes` of blanks before the answer, until the client hangs up."""
    size = int(fault.number_of("megabytes", 50)) * 10**6
    length = f"Content-Length: {len(body)}".encode()
    wire.send(head.replace(length, f"Content-Length: {size + len(body)}".encode()))
    for sent in range(0, size, 50_000):
        wire.send(b" " * min(50_000, size - sent))
    wire.send(body)


def _drip(fault: Fault, wire: _Handler, head: bytes, body: bytes) -> None:
    """A byte each `seconds`, from the first of the head or, with where="body", of the body."""
    at_once, slowly = (head, body) if fault.detail.get("where") == "body" else (b"", head + body)
    wire.send(at_once)
    for position in range(len(slowly)):
        if fault.cleared.wait(fault.number_of("seconds", 1)) or wire.hung_up():
            return
        wire.send(slowly[position : position + 1])


class _Kind(NamedTuple):
    stage: str
    act: Callable[..., Any]
    paths: str | tuple[str, ...] = ""  # ends of the paths where it makes sense


_KLINES, _PRICES = "klines", ("klines", "ticker/24hr")
_KINDS = {
    "hold": _Kind("limits", _hold),
    "ban": _Kind("limits", _ban),
    "used_weight": _Kind("limits", _used_weight),
    "lagging": _Kind("time", _lagging),
    "late": _Kind("history", _late, _KLINES),
    "revised": _Kind("history", _revised, _KLINES),
    "gap": _Kind("existence", _gap, _KLINES),
    "status": _Kind("reply", _status),
    "html": _Kind("reply", _html),
    "truncated": _Kind("reply", _truncated),
    "redirect": _Kind("reply", _redirect),
    "no_retry_after": _Kind("reply", _no_retry_after),
    "empty": _Kind("reply", _empty),
    "wrong_shape": _Kind("reply", _wrong_shape),
    "short_rows": _Kind("reply", _short_rows, _KLINES),
    "duplicated": _Kind("reply", _duplicated, _KLINES),
    "unordered": _Kind("reply", _unordered, _KLINES),
    "future": _Kind("reply", _future, _KLINES),
    "not_json_number": _Kind("reply", _put(0, "closeTime", "1700000000000"), _PRICES),
    "nan": _Kind("reply", _put(4, "lastPrice", "NaN"), _PRICES),
    "inf": _Kind("reply", _put(4, "lastPrice", "Infinity"), _PRICES),
    "negative_volume": _Kind("reply", _put(5, "volume", "-1.00000000"), _PRICES),
    "high_below_low": _Kind("reply", _put(2, "highPrice", "0.00000000"), _PRICES),
    "close_above_high": _Kind("reply", _put(4, "lastPrice", "99999999.00000000"), _PRICES),
    "price_zero": _Kind("reply", _put(4, "lastPrice", "0.00000000"), "ticker/24hr"),
    "silent": _Kind("wire", _silent),
    "reset": _Kind("wire", _reset),
    "short_body": _Kind("wire", _short_body),
    "huge": _Kind("wire", _huge),
    "drip": _Kind("wire", _drip),
}
_UNANSWERED = ("silent", "reset")


# --- the exchange ---


class Exchange:
    """The exchange as a server on loopback, for use in process or as a program of its own.

    `latency_ms` passes before each answer, give or take `jitter_ms`. `clock` gives epoch seconds
    and rules candles and limits. `listed_at` gives symbols a first moment of trading, epoch
    seconds. With `port` 0 it takes a free one, and keeps it when it is stopped and started again.
    """

    def __init__(
        self,
        symbols: Iterable[str] = market.DEFAULT_SYMBOLS,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_ms: float = 0.0,
        jitter_ms: float = 0.0,
        clock: Callable[[], float] = time.time,
        weight_limit: int = WEIGHT_LIMIT,
        listed_at: dict[str, float] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._latency_s, self._jitter_s = latency_ms / 1000, jitter_ms / 1000
        self._clock, self._weight_limit = clock, weight_limit
        self._listed_at = dict(listed_at or {})
        self._server: _Server | None = None
        # Guards all below: each connection has a thread, and tests change faults meanwhile.
        self._lock = threading.Lock()
        self._statuses = dict.fromkeys(symbols, "TRADING")
        self._usages: dict[str, _Usage] = {}
        self._faults: dict[int, Fault] = {}
        self._faults_made = 0
        self._requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self._counts: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._weight_used = self._bytes_sent = 0

    # life

    def start(self) -> Self:
        """Listen; does nothing if it does already."""
        if self._server is None:
            self._server = _Server((self._host, self._port), self)
            self._port = self._server.server_address[1]
            self._server.start()
        return self

    def stop(self) -> None:
        """Close the listening socket and every connection; waits for no request."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    # what tests and checkers do

    def fault(
        self,
        kind: str,
        *,
        symbol: str | None = None,
        path: str | None = None,
        times: int | None = None,
        **detail: Any,
    ) -> int:
        """Let requests go wrong that are for `symbol` and whose path ends in `path`.

        `times` is how many; without it all until `clear`, but a hold or a ban starts once. The
        numbers in `detail` are those of the kind. Returns a number that `clear` takes.
        """
        if kind not in _KINDS:
            raise ValueError(f"fault kind {kind!r} is none of {', '.join(_KINDS)}")
        if times is None and kind in ("hold", "ban"):
            times = 1
        with self._lock:
            self._faults_made += 1
            made = Fault(self._faults_made, kind, symbol, path, times, detail)
            self._faults[made.number] = made
            return made.number

    def clear(self, which: str | int | None = None) -> int:
        """End the faults of a kind, or that with a number, or all; returns how many.

        Holds and bans that have begun end too, with all or with their kind.
        """
        with self._lock:
            ended = [f for f in self._faults.values() if which in (None, f.kind, f.number)]
            for fault in ended:
                del self._faults[fault.number]
                fault.cleared.set()
            statuses = [s for kind, s in (("hold", 429), ("ban", 418)) if which in (None, kind)]
            for usage in self._usages.values():
                if usage.refused_with in statuses:
                    usage.refuse(0, 0.0)
            return len(ended)

    @property
    def requests(self) -> list[Request]:
        """The last requests, oldest first, without those under /sim/."""
        with self._lock:
            return list(self._requests)

    @property
    def totals(self) -> dict[str, Any]:
        """Since it was made: requests by path and by status, their weight, and bytes sent."""
        with self._lock:
            return {
                "paths": dict(self._counts),
                "statuses": dict(self._answers),
                "weight": self._weight_used,
                "bytes_sent": self._bytes_sent,
            }

    def klines(
        self,
        symbol: str,
        interval: str,
        limit: int = DEFAULT_LIMIT,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> Rows:
        """The rows of a klines answer at this moment, as they are without faults."""
        return self._rows(symbol, interval, limit, start_ms, end_ms, self._clock(), ())

    def halt(self, symbol: str) -> None:
        """Suspend trading; the symbol stays listed and its prices are still answered."""
        self._set_status(symbol, "BREAK")

    def resume(self, symbol: str) -> None:
        self._set_status(symbol, "TRADING")

    def list(self, symbol: str) -> None:
        """Add a symbol, old or new."""
        self._set_status(symbol, "TRADING")

    def delist(self, symbol: str) -> None:
        """Make it an invalid symbol."""
        with self._lock:
            self._statuses.pop(symbol, None)

    def _set_status(self, symbol: str, status: str) -> None:
        with self._lock:
            self._statuses[symbol] = status

    # one request

    def serve(self, wire: _Handler, method: str, path: str, query: str) -> None:
        """Answer one request to the API on its connection."""
        now = self._clock()
        try:
            call, error = _read_call(method, path, query), None
        except ApiError as raised:
            call, error = Call(path, {}), raised
        faults, reply = self._charge(call, wire.client_address[0], now)
        if reply.status == 200:
            self._fill(reply, call, error, now, faults)
        reply.headers.setdefault("Content-Type", "application/json;charset=UTF-8")
        wires = [fault for fault in faults if _KINDS[fault.kind].stage == "wire"]
        unanswered = any(fault.kind in _UNANSWERED for fault in wires)
        self._record(call, now, 0 if unanswered else reply.status)
        if self._latency_s or self._jitter_s:
            jitter_s = random.uniform(-self._jitter_s, self._jitter_s)
            time.sleep(max(self._latency_s + jitter_s, 0.0))
        head, body = _head(reply), reply.encoded()
        if wires:
            wire.close_connection = True
            _KINDS[wires[0].kind].act(wires[0], wire, head, body)
        else:
            wire.send(head + body)

    def _charge(self, call: Call, address: str, now: float) -> tuple[Sequence[Fault], Reply]:
        """Count the call, pick its faults, and say by the reply's status whether it is refused."""
        with self._lock:
            usage = self._usages.setdefault(address, _Usage())
            faults = [fault for fault in self._faults.values() if fault.matches(call)]
            limits = [fault for fault in faults if _KINDS[fault.kind].stage == "limits"]
            for fault in limits:
                _KINDS[fault.kind].act(fault, usage, now)
            others = [f.number_of("weight", 0) for f in limits if f.kind == "used_weight"]
            begun = usage.refused_with if any(f.kind in ("hold", "ban") for f in limits) else 0
            usage.charge(call.weight, int(sum(others)), self._weight_limit, now)
            if begun:
                usage.ignored = 0  # the request that a hold begins with has ignored nothing
            if usage.refused_with:
                faults = [f for f in faults if _KINDS[f.kind].stage in ("limits", "wire")]
            for fault in faults:
                fault.times = None if fault.times is None else fault.times - 1
            used = str(usage.weight + int(sum(others)))
            reply = Reply(200, None, {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used})
            if usage.refused_with:
                reply.status = usage.refused_with
                reply.headers["Retry-After"] = str(math.ceil(usage.refused_until - now))
                reply.value = {"code": -1003, "msg": self._refusal(usage)}
            return faults, reply

    def _refusal(self, usage: _Usage) -> str:
        advice = "Please use the websocket for live updates to avoid"
        if usage.refused_with == 418:
            until_ms = int(usage.refused_until * 1000)
            return f"Way too much request weight used; IP banned until {until_ms}. {advice} bans."
        limit = f"current limit is {self._weight_limit} request weight per 1 MINUTE"
        return f"Too much request weight used; {limit}. {advice} polling the API."

    def _fill(
        self,
        reply: Reply,
        call: Call,
        error: ApiError | None,
        now: float,
        faults: Sequence[Fault],
    ) -> None:
        """Put the answer, or the error, into a reply that is not refused."""
        for fault in faults:
            if _KINDS[fault.kind].stage == "time":
                now = _KINDS[fault.kind].act(fault, now)
        try:
            if error is not None:
                raise error
            reply.value = self._answer(call, now, faults)
        except ApiError as raised:
            reply.status, reply.value = raised.status, {"code": raised.code, "msg": raised.message}
            return
        for fault in faults:
            if _KINDS[fault.kind].stage == "reply":
                _KINDS[fault.kind].act(fault, reply)

    def _record(self, call: Call, now: float, status: int) -> None:
        request = Request(
            now, call.path, call.symbols, call.interval, call.limit, call.weight, status
        )
        with self._lock:
            self._requests.append(request)
            self._counts[call.path] += 1
            self._answers[str(status)] += 1
            self._weight_used += call.weight

    def count_bytes(self, sent: int) -> None:
        with self._lock:
            self._bytes_sent += sent

    # the answers

    def _answer(self, call: Call, now: float, faults: Sequence[Fault]) -> Any:
        with self._lock:
            statuses = dict(self._statuses)
        if any(symbol not in statuses for symbol in call.symbols):
            raise ApiError(-1121, "Invalid symbol.")
        # In the order of the exchange's own list, whatever the order asked for.
        wanted = [s for s in statuses if s in call.symbols] if call.symbols else list(statuses)
        match call.path.removeprefix("/api/v3/"):
            case "ping":
                return {}
            case "time":
                return {"serverTime": int(now * 1000)}
            case "exchangeInfo":
                return self._exchange_info({symbol: statuses[symbol] for symbol in wanted}, now)
            case "klines":
                times = call.number("startTime"), call.number("endTime")
                return self._rows(wanted[0], call.interval, call.limit, *times, now, faults)
            case "ticker/24hr":
                entries = [self._ticker(s, call.params.get("type", "FULL"), now) for s in wanted]
            case _:
                entries = [{"symbol": s, "price": self._price(s, now)} for s in wanted]
        return entries[0] if "symbol" in call.params else entries

    def _exchange_info(self, statuses: dict[str, str], now: float) -> dict[str, Any]:
        limits = [
            ("REQUEST_WEIGHT", "MINUTE", 1, self._weight_limit),
            ("ORDERS", "SECOND", 10, 100),
            ("ORDERS", "DAY", 1, 200_000),
            ("RAW_REQUESTS", "MINUTE", RAW_WINDOW_S // 60, RAW_LIMIT),
        ]
        names = ("rateLimitType", "interval", "intervalNum", "limit")
        return {
            "timezone": "UTC",
            "serverTime": int(now * 1000),
            "rateLimits": [dict(zip(names, limit, strict=True)) for limit in limits],
            "exchangeFilters": [],
            "symbols": [_symbol_info(symbol, status) for symbol, status in statuses.items()],
        }

    def _listed_s(self, symbol: str) -> int:
        return int(self._listed_at.get(symbol, LAUNCH_S))

    def _rows(
        self,
        symbol: str,
        interval: str,
        limit: int,
        start_ms: int | None,
        end_ms: int | None,
        now: float,
        faults: Sequence[Fault],
    ) -> Rows:
        """Candles that open in [start_ms, end_ms]: the first ones if there is a start, else the
        last; both ends are open-ended if None."""
        step_s, listed_s = market.INTERVALS[interval], self._listed_s(symbol)
        first = listed_s // step_s * step_s
        if start_ms is not None:
            first = max(first, -(-start_ms // (step_s * 1000)) * step_s)  # rounded up
        last = int(now if end_ms is None else min(now, end_ms // 1000)) // step_s * step_s
        gaps = [fault for fault in faults if fault.kind == "gap"]
        every = range(first, last + 1, step_s)
        opens = (
            open_s
            for open_s in (reversed(every) if start_ms is None else every)
            if not any(_gap(fault, open_s) for fault in gaps)
        )
        history = [fault for fault in faults if _KINDS[fault.kind].stage == "history"]
        rows = []
        for open_s in sorted(islice(opens, limit)):
            if listed_s <= open_s and open_s + step_s <= int(now) and not history:
                rows.append(list(market.whole_row(symbol, step_s, open_s)))
                continue
            # As far as it has come: what was over by the last full second.
            start_s, end_s = max(open_s, listed_s), min(open_s + step_s, int(now))
            candle = market.candle(symbol, start_s, end_s)
            for fault in history:
                bar = _Bar(symbol, open_s, open_s + step_s, now, candle)
                candle = _KINDS[fault.kind].act(fault, bar)
            rows.append(list(market.row(symbol, step_s, open_s, candle)))
        return rows

    def _day_before(self, symbol: str, now: float) -> Candle:
        now_s = int(now)
        return market.candle(symbol, max(now_s - market.DAY_S, self._listed_s(symbol)), now_s)

    def _price(self, symbol: str, now: float) -> str:
        close = self._day_before(symbol, now).close
        return market.fixed(close, market.listing(symbol).price_decimals)

    def _ticker(self, symbol: str, kind: str, now: float) -> dict[str, Any]:
        """The 24 h figures of one symbol; `kind` is FULL or MINI."""
        day, facts = self._day_before(symbol, now), market.listing(symbol)
        open_ms = int(now * 1000) - market.DAY_S * 1000
        first_id = open_ms // 1000

        def price(ticks: int) -> str:
            sign = "-" if ticks < 0 else ""
            return sign + market.fixed(abs(ticks), facts.price_decimals)

        ticker = {
            "symbol": symbol,
            "priceChange": price(day.close - day.open),
            "priceChangePercent": f"{100 * (day.close / day.open - 1):.3f}",
            "weightedAvgPrice": price((day.open + day.high + day.low + day.close) // 4),
            "prevClosePrice": price(day.open),
            "lastPrice": price(day.close),
            "lastQty": market.fixed(day.volume // max(day.trades, 1), facts.lot_decimals),
            "bidPrice": price(day.close - 1),
            "askPrice": price(day.close + 1),
            "openPrice": price(day.open),
            "highPrice": price(day.high),
            "lowPrice": price(day.low),
            "volume": market.fixed(day.volume, facts.lot_decimals),
            "quoteVolume": market.quote_volume(facts, day),
            "openTime": open_ms,
            "closeTime": int(now * 1000),
            "firstId": first_id,
            "lastId": first_id + day.trades - 1,
            "count": day.trades,
        }
        return ticker if kind == "FULL" else {name: ticker[name] for name in _MINI}

    # the control path

    def control(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
        """Answer a request under /sim/: the HTTP status and the JSON value."""
        params = dict(parse_qsl(query))
        try:
            match method, path:
                case "GET", "/sim/requests":
                    requests = [request._asdict() for request in self.requests]
                    return 200, {"requests": requests, "count": len(requests), **self.totals}
                case "POST", "/sim/fault":
                    return 200, {"id": self.fault(**json.loads(body))}
                case "DELETE", "/sim/fault":
                    return 200, {"cleared": self.clear(params.get("kind"))}
        except (TypeError, ValueError) as error:
            return 400, {"error": str(error)}
        return 404, {"error": f"no {method} {path}"}


_MINI = (
    "symbol", "openPrice", "highPrice", "lowPrice", "lastPrice", "volume", "quoteVolume",
    "openTime", "closeTime", "firstId", "lastId", "count",
)  # fmt: skip
_ORDER_TYPES = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"]


def _symbol_info(symbol: str, status: str) -> dict[str, Any]:
    """One entry of exchangeInfo."""
    facts = market.listing(symbol)
    tick, lot = market.fixed(1, facts.price_decimals), market.fixed(1, facts.lot_decimals)
    low_price = market.fixed(max(int(facts.mean_ticks / 20), 1), facts.price_decimals)
    high_price = market.fixed(int(facts.mean_ticks * 20), facts.price_decimals)
    quantities = {"minQty": lot, "maxQty": "9000000000.00000000", "stepSize": lot}
    return {
        "symbol": symbol,
        "status": status,
        "baseAsset": facts.base,
        "baseAssetPrecision": 8,
        "quoteAsset": facts.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": _ORDER_TYPES,
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": low_price,
                "maxPrice": high_price,
                "tickSize": tick,
            },
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "5",
                "multiplierDown": "0.2",
                "avgPriceMins": 5,
            },
            {"filterType": "LOT_SIZE", **quantities},
            {
                "filterType": "MIN_NOTIONAL",
                "minNotional": "1.00000000",
                "applyToMarket": True,
                "avgPriceMins": 5,
            },
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {"filterType": "MARKET_LOT_SIZE", **quantities},
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ],
        "permissions": ["SPOT"],
    }


# --- the server ---


def _head(reply: Reply) -> bytes:
    """The status line and headers of an HTTP/1.1 answer."""
    known = {status.value: status.phrase for status in HTTPStatus}
    lines = [f"HTTP/1.1 {reply.status} {known.get(reply.status, 'Unknown')}"]
    headers = {**reply.headers, "Content-Length": str(len(reply.encoded()))}
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, and writes what it is told to."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body after its head may wait 40 ms for an ACK
    server: _Server

    def answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        exchange = self.server.exchange
        try:
            if url.path.startswith("/sim/"):
                status, value = exchange.control(self.command, url.path, url.query, body)
                reply = Reply(status, value, {"Content-Type": "application/json"})
                self.wfile.write(_head(reply) + reply.encoded())
            else:
                exchange.serve(self, self.command, url.path, url.query)
        except OSError:
            self.close_connection = True  # the client is gone

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def send(self, data: bytes) -> None:
        """Write, and count what is written."""
        self.wfile.write(data)
        self.server.exchange.count_bytes(len(data))

    def hung_up(self) -> bool:
        """True if the other side, or `Exchange.stop`, has closed the connection."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the log."""


class _Server(ThreadingHTTPServer):
    """Knows its open connections, so that it can close them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], exchange: Exchange) -> None:
        self.exchange = exchange
        # Guards _open: the accepting thread adds, connection threads remove.
        self._open_lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="exchange", daemon=True
        )
        super().__init__(address, _Handler)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            # Wakes the thread that reads from or writes to it, which then closes it.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._open_lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; all else is a defect and is printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


# --- the program ---


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.exchange",
        description="A simulated Binance.US REST API on 127.0.0.1. Candles are made up, limits "
        "and errors are as documented. Ends with Ctrl-C.",
        epilog="While it runs: GET /sim/requests lists what it was asked; POST /sim/fault "
        '{"kind": "status", "path": "klines", "times": 3, "status": 500} lets requests fail; '
        f"DELETE /sim/fault ends that. Kinds: {', '.join(_KINDS)}.",
    )
    parser.add_argument("--port", type=int, default=18080, help="default: %(default)s; 0: any")
    parser.add_argument(
        "--latency-ms", type=float, default=50.0, help="before each answer; default: %(default)s"
    )
    parser.add_argument(
        "--jitter-ms", type=float, default=10.0, help="more or less of it; default: %(default)s"
    )
    parser.add_argument(
        "--symbols",
        default=str(len(market.DEFAULT_SYMBOLS)),
        help="how many, or which, separated by commas; default: %(default)s",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    args = _parse_arguments(arguments)
    named = args.symbols.upper().split(",")
    symbols = market.symbols(int(named[0])) if named[0].isdecimal() else named
    exchange = Exchange(
        symbols, port=args.port, latency_ms=args.latency_ms, jitter_ms=args.jitter_ms
    )
    try:
        exchange.start()
    except OSError as error:
        sys.exit(f"cannot listen on port {args.port}: {error.strerror}")
    with exchange, suppress(KeyboardInterrupt):
        print(f"simulated exchange on {exchange.url} with {len(symbols)} symbols", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
