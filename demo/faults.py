"""The bad days of the simulated exchange: the kinds of fault, and what each does to an answer.

A kind acts at one point of a request: the limits, the clock, the candles, the reply or the wire.
The numbers that it takes are named beside it, with their defaults in the code. Which requests
it is for is said with `Exchange.fault`.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from demo import market
from demo.market import Candle
from demo.rules import FIRST_BAN_S, Call

_HANG_UP_CHECK_S = 0.05
_BLANKS = b" " * 50_000

# The limits: everything is refused with a status for `seconds`, (status, default of `seconds`).
REFUSALS = {"hold": (429, 7), "ban": (418, FIRST_BAN_S)}
CANDLES = ("late", "revised", "gap")
_ROWS = ("short_rows", "duplicated", "unordered", "future")
# One field is `value`: (column of the last candle, key of a ticker, default of `value`).
_FIELDS = {
    "not_json_number": (0, "closeTime", "1700000000000"),
    "nan": (4, "lastPrice", "NaN"),
    "inf": (4, "lastPrice", "Infinity"),
    "negative_volume": (5, "volume", "-1.00000000"),
    "high_below_low": (2, "highPrice", "0.00000000"),
    "close_above_high": (4, "lastPrice", "99999999.00000000"),
    "price_zero": (4, "lastPrice", "0.00000000"),
}
UNANSWERED = ("silent", "reset")
WIRE = (*UNANSWERED, "short_body", "huge", "drip")

# What happens also to a request that the limits refuse; used_weight says that another program on
# the address uses `weight` a minute.
WITHOUT_ANSWER = (*REFUSALS, "used_weight", *WIRE)
# Lagging answers are those of `seconds` ago; for the rest see `spoil`.
_ANSWERS = (
    "lagging",
    "status",
    "html",
    "truncated",
    "redirect",
    "no_retry_after",
    "empty",
    "wrong_shape",
)

# Each kind, and the ends of the paths where it makes sense.
KINDS: dict[str, str | tuple[str, ...]] = {
    **dict.fromkeys([*WITHOUT_ANSWER, *_ANSWERS], ""),
    **dict.fromkeys([*CANDLES, *_ROWS], "klines"),
    **dict.fromkeys(_FIELDS, ("klines", "ticker/24hr")),
    "price_zero": "ticker/24hr",
}


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests that it matches.

    `detail` holds the numbers of its kind; `cleared` is set when it ends.
    """

    id: int
    kind: str
    symbol: str | None
    path: str | None
    times: float
    detail: dict[str, Any]
    cleared: threading.Event = field(default_factory=threading.Event)

    def matches(self, call: Call) -> bool:
        """True if it applies to `call`. A call for all symbols matches any symbol."""
        return (
            self.times > 0
            and call.path.endswith(self.path or "")
            and call.path.endswith(KINDS[self.kind])
            and (self.symbol is None or not call.symbols or self.symbol in call.symbols)
        )

    def number(self, name: str, default: float) -> float:
        return float(self.detail.get(name, default))


@dataclass
class Reply:
    """What is about to be sent: `value` as JSON, unless a fault has set `raw`."""

    status: int
    value: Any
    headers: dict[str, str] = field(
        default_factory=lambda: {"Content-Type": "application/json;charset=UTF-8"}
    )
    raw: bytes | None = None

    @property
    def body(self) -> bytes:
        if self.raw is None:
            self.raw = json.dumps(self.value, separators=(",", ":")).encode()
        return self.raw

    def head(self, more: int = 0) -> bytes:
        """The status line and headers, announcing the body and `more` bytes."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        length = len(self.body) + more
        return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def total(faults: Iterable[Fault], kind: str, name: str, default: float) -> float:
    """The sum of one number of all faults of a kind."""
    return sum(fault.number(name, default) for fault in faults if fault.kind == kind)


def as_seen(
    faults: Iterable[Fault], symbol: str, step_s: int, now: float, open_s: int, candle: Candle
) -> Candle | None:
    """What is answered for the `candle` that opens at `open_s`, None if there is none."""
    close_s = open_s + step_s
    age_s = now - close_s
    for fault in faults:
        match fault.kind:
            # for `seconds` after its close its last twentieth is missing
            case "late" if 0 <= age_s < fault.number("seconds", 3):
                candle = market.candle(symbol, open_s, close_s - max(step_s // 20, 1))
            # the last `candles` to close did so at a new high, higher by the share `by`
            case "revised" if 0 <= age_s < step_s * fault.number("candles", 2):
                high = candle.high + max(int(candle.high * fault.number("by", 0.001)), 1)
                candle = candle._replace(high=high, close=high)
            # none opened from `start` up to `end`, epoch seconds
            case "gap" if fault.number("start", 0) <= open_s < fault.number("end", math.inf):
                return None
    return candle


def spoil(reply: Reply, fault: Fault) -> None:
    """Change an answer without errors into what a fault of the reply makes of it."""
    if fault.kind in (*_ROWS, *_FIELDS) and not _has_fields(reply.value):
        return
    match fault.kind:
        case "status":  # an HTTP `status` with an error `code` and `msg` in JSON
            reply.status = int(fault.number("status", 500))
            message = fault.detail.get("msg", "Internal error; unable to process your request.")
            reply.value = {"code": int(fault.number("code", -1001)), "msg": message}
        case "html":
            reply.raw = b"<!DOCTYPE html><html><body><h1>Checking your browser</h1></body></html>"
            reply.headers["Content-Type"] = "text/html"
        case "truncated":
            reply.raw = reply.body[: len(reply.body) // 2]
        case "redirect":  # 302 to `location`
            location = fault.detail.get("location", "https://api.invalid/api/v3/ping")
            reply.status, reply.value = 302, {}
            reply.headers["Location"] = str(location)
        case "no_retry_after":
            reply.status, reply.value = 429, {"code": -1003, "msg": "Too many requests."}
        case "empty":
            reply.value = []
        case "wrong_shape":  # an object instead of a list, or with shape="flat" a list of numbers
            flat = fault.detail.get("shape") == "flat"
            reply.value = [1, 2, 3] if flat else {"rows": reply.value}
        case "short_rows":
            reply.value = [fields[:5] for fields in reply.value]
        case "duplicated":
            reply.value = [*reply.value, *reply.value[-1:]]
        case "unordered":
            reply.value = reply.value[::-1]
        case "future":  # all rows are moved on by `seconds`
            for fields in reply.value:
                for column in (0, 6):
                    if isinstance(fields[column], int):
                        fields[column] += int(fault.number("seconds", market.DAY_S) * 1000)
        case kind if kind in _FIELDS:
            _spoil_field(reply.value, fault)


def _has_fields(value: Any) -> bool:
    """False once another fault has left no rows and no tickers."""
    entries = value if isinstance(value, list) else [value]
    return all(
        "symbol" in entry if isinstance(entry, dict) else isinstance(entry, list) and len(entry) > 6
        for entry in entries
    )


def _spoil_field(value: Any, fault: Fault) -> None:
    column, key, wrong = _FIELDS[fault.kind]
    wrong = fault.detail.get("value", wrong)
    entries = value if isinstance(value, list) else [value]
    if entries and isinstance(entries[-1], list):
        entries[-1][column] = wrong
        return
    for entry in entries:
        if fault.symbol in (None, entry["symbol"]):
            entry[key] = wrong


def sent(reply: Reply, fault: Fault, connection: socket.socket) -> Iterator[bytes]:
    """The bytes that a fault of the wire sends instead of `reply`, before the connection ends."""
    match fault.kind:
        case "silent":  # not a byte until it is cleared, or the client or the exchange hangs up
            while not _over(fault, connection, _HANG_UP_CHECK_S):
                pass
        case "reset":
            # To linger for 0 s makes close send RST. Detached, because the request's reader
            # shares the socket and puts off its close until after a FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(connection.detach())
        case "short_body":
            yield reply.head() + reply.body[: len(reply.body) // 2]
        case "huge":  # `megabytes` of blanks before the answer, until the client hangs up
            size = int(fault.number("megabytes", 50)) * 10**6
            yield reply.head(size)
            for _ in range(size // len(_BLANKS)):
                yield _BLANKS
            yield reply.body
        case "drip":  # a byte each `seconds`, from the first or, with where="body", of the body
            slowly = reply.head() + reply.body
            if fault.detail.get("where") == "body":
                yield reply.head()
                slowly = reply.body
            for byte in slowly:
                if _over(fault, connection, fault.number("seconds", 1)):
                    return
                yield bytes([byte])


def _over(fault: Fault, connection: socket.socket, wait_s: float) -> bool:
    """Wait; True once the fault is cleared, or the client or `Exchange.stop` has hung up."""
    if fault.cleared.wait(wait_s):
        return True
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
