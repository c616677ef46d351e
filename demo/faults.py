"""The faults of the simulated exchange: their kinds, and what each does to an answer.

Each kind acts at one stage of a request: the network before the exchange, the limits, the clock,
the candles, the reply or the wire. The comment beside a kind names its parameters; their defaults
are in the code. The arguments of `Exchange.fault` say which requests a fault applies to.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from demo import market
from demo.market import Candle
from demo.rules import FIRST_BAN_S, Call

_HANG_UP_CHECK_S = 0.05
_BLANKS = b" " * 50_000

# Limits: refuse all requests with a status for `seconds`; (status, default of `seconds`).
REFUSALS = {"hold": (429, 7), "ban": (418, FIRST_BAN_S)}
# blocked: the network before the exchange refuses with `status` 403 or 451, for `seconds`.
BLOCKED = "blocked"
# frozen: answers are as of `at`, epoch seconds, by default the injection; lagging: they are
# `seconds` old. If for one symbol, the rest of an answer and serverTime are right.
CLOCK = ("frozen", "lagging")
# mixed_up: the candles are those of the symbol `other`, by default of the next one listed.
CANDLES = ("late", "revised", "gap", "mixed_up")
_ROWS = ("short_rows", "duplicated", "unordered", "future", "hole", "bad_row")
# Set one field to `value`: (column of the last candle, key of a ticker, default of `value`).
_FIELDS = {
    "not_json_number": (0, "closeTime", "1700000000000"),
    "nan": (4, "lastPrice", "NaN"),
    "inf": (4, "lastPrice", "Infinity"),
    "negative_volume": (5, "volume", "-1.00000000"),
    "high_below_low": (2, "highPrice", "0.00000000"),
    "close_above_high": (4, "lastPrice", "99999999.00000000"),
    "price_zero": (4, "lastPrice", "0.00000000"),
}
# bad_row: the column to change, and its new value.
_BAD_ROWS: dict[str, tuple[int, Callable[[list[Any]], Any]]] = {
    "off_grid": (0, lambda fields: fields[0] + 7000),
    "high_below_open": (2, lambda fields: f"{Decimal(fields[1]) / 2:.8f}"),
    "low_zero": (3, lambda _: "0.00000000"),
}
UNANSWERED = ("silent", "reset")
WIRE = (*UNANSWERED, "short_body", "huge", "drip")

# Kinds that also apply to requests refused by the limits. used_weight: another program on the
# same address uses `weight` per minute.
WITHOUT_ANSWER = (*REFUSALS, "used_weight", *WIRE)
_ANSWERS = (
    "status",
    "html",
    "truncated",
    "redirect",
    "no_retry_after",
    "empty",
    "wrong_shape",
)

# Each kind, and the path suffixes that it applies to.
KINDS: dict[str, str | tuple[str, ...]] = {
    **dict.fromkeys([BLOCKED, *WITHOUT_ANSWER, *CLOCK, *_ANSWERS], ""),
    **dict.fromkeys([*CANDLES, *_ROWS], "klines"),
    **dict.fromkeys(_FIELDS, ("klines", "ticker/24hr")),
    "price_zero": "ticker/24hr",
}


@dataclass
class Fault:
    """A fault of the next `times` requests that it matches.

    `at` is when it was injected, in epoch seconds of the exchange; `detail` holds the parameters
    of its kind; `cleared` is set when it ends.
    """

    id: int
    at: float
    kind: str
    symbol: str | None
    path: str | None
    times: float
    detail: dict[str, Any]
    cleared: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("how", self.detail.get("how", "off_grid"), _BAD_ROWS),
            ("interval", self.detail.get("interval", "5m"), market.INTERVALS),
        ):
            if value not in known:
                raise ValueError(f"fault {name} {value!r} is none of {', '.join(known)}")

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
    """A reply to send: `value` as JSON, unless a fault has set `raw`."""

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
        """The status line and headers; Content-Length counts the body and `more` bytes."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        length = len(self.body) + more
        return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def total(faults: Iterable[Fault], kind: str, name: str, default: float) -> float:
    """The sum of the parameter `name` over all faults of a kind."""
    return sum(fault.number(name, default) for fault in faults if fault.kind == kind)


def block(fault: Fault) -> Reply:
    """The page that the network answers with; it tells a client neither limits nor when to ask."""
    reply = Reply(int(fault.number("status", 403)), None, {"Content-Type": "text/html"})
    reply.raw = (
        b"<!DOCTYPE html><html><head><title>Access blocked</title></head><body>"
        b"<h1>Access blocked</h1><p>This site does not serve the country that you are in.</p>"
        b"</body></html>"
    )
    return reply


def seen_at(faults: Iterable[Fault], symbol: str | None, now: float) -> float:
    """The moment that answers about `symbol` show at `now`; None stands for the clock itself."""
    mine = [fault for fault in faults if fault.symbol in (None, symbol)]
    for fault in mine:
        if fault.kind == "frozen":
            now = fault.number("at", fault.at)
    return now - total(mine, "lagging", "seconds", 60)


def source(faults: Iterable[Fault], symbol: str, listed: list[str]) -> str:
    """The symbol whose candles are answered for those of `symbol`."""
    following = [*listed, *listed][listed.index(symbol) + 1]
    mixed_up = (fault for fault in faults if fault.kind == "mixed_up")
    return next((str(fault.detail.get("other", following)) for fault in mixed_up), symbol)


def as_seen(
    faults: Iterable[Fault],
    traded: Callable[[int, int], Candle | None],
    step_s: int,
    now: float,
    open_s: int,
    candle: Candle,
) -> Candle | None:
    """The `candle` that opens at `open_s` as `faults` change it; None if they remove it.

    `traded` returns the market's candle of any range of seconds.
    """
    close_s = open_s + step_s
    age_s = now - close_s
    for fault in faults:
        match fault.kind:
            # for `seconds` after its close, a candle lacks the trades of its last twentieth
            case "late" if 0 <= age_s < fault.number("seconds", 3):
                candle = traded(open_s, close_s - max(step_s // 20, 1)) or candle
            # the last `candles` closed ones are revised to a new high, up by the share `by`
            case "revised" if 0 <= age_s < step_s * fault.number("candles", 2):
                high = candle.high + max(int(candle.high * fault.number("by", 0.001)), 1)
                candle = candle._replace(high=high, close=high)
            # no candle opened in [start, end), epoch seconds
            case "gap" if fault.number("start", 0) <= open_s < fault.number("end", math.inf):
                return None
    return candle


def spoil(reply: Reply, fault: Fault) -> None:
    """Apply a fault of the reply to a successful answer."""
    if fault.kind in _ROWS or fault.kind in _FIELDS:
        if _has_fields(reply.value):
            change = _spoil_rows if fault.kind in _ROWS else _spoil_field
            reply.value = change(reply.value, fault)
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


def _spoil_rows(rows: list[list[Any]], fault: Fault) -> list[list[Any]]:
    match fault.kind:
        case "short_rows":
            return [fields[:5] for fields in rows]
        case "duplicated":
            return [*rows, *rows[-1:]]
        case "unordered":
            return rows[::-1]
        case "hole":  # the candle that is `back` before the last one is missing
            place = len(rows) - 1 - int(fault.number("back", 1))
            return [fields for number, fields in enumerate(rows) if number != place]
        case "future":  # all rows are moved `seconds` into the future
            for fields in rows:
                for column in (0, 6):
                    if isinstance(fields[column], int):
                        fields[column] += int(fault.number("seconds", market.DAY_S) * 1000)
        case "bad_row":  # one candle is bad in the way `how`: of _BAD_ROWS, by default off_grid
            column, wrong = _BAD_ROWS[fault.detail.get("how", "off_grid")]
            for fields in rows:
                if _is_bad(fields, fault):
                    fields[column] = wrong(fields)
    return rows


def _is_bad(fields: list[Any], fault: Fault) -> bool:
    """Whether a bad_row is meant: the candle of `interval` (default: of any) that opens at
    `open_ms`, by default 300 candles before the injection."""
    if not isinstance(fields[0], int):  # another fault's work
        return False
    step_ms = fields[6] - fields[0] + 1
    interval = fault.detail.get("interval")
    if interval and market.INTERVALS[interval] * 1000 != step_ms:
        return False
    default = (fault.at * 1000 // step_ms - 300) * step_ms
    return bool(fields[0] == fault.number("open_ms", default))


def _has_fields(value: Any) -> bool:
    """False if another fault has already replaced the rows or tickers."""
    entries = value if isinstance(value, list) else [value]
    return all(
        "symbol" in entry if isinstance(entry, dict) else isinstance(entry, list) and len(entry) > 6
        for entry in entries
    )


def _spoil_field(value: Any, fault: Fault) -> Any:
    column, key, wrong = _FIELDS[fault.kind]
    wrong = fault.detail.get("value", wrong)
    entries = value if isinstance(value, list) else [value]
    if entries and isinstance(entries[-1], list):
        entries[-1][column] = wrong
        return value
    for entry in entries:
        if fault.symbol in (None, entry["symbol"]):
            entry[key] = wrong
    return value


def sent(reply: Reply, fault: Fault, connection: socket.socket) -> Iterator[bytes]:
    """The bytes that a fault of the wire sends instead of `reply` before the connection closes."""
    match fault.kind:
        case "silent":  # sends nothing until the fault is cleared or either side hangs up
            while not _over(fault, connection, _HANG_UP_CHECK_S):
                pass
        case "reset":
            # SO_LINGER with 0 s makes close() send RST. Detach first: the request's reader shares
            # the socket and would delay its close until after a FIN.
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
        case "drip":  # one byte every `seconds`; with where="body", only the body is slow
            slowly = reply.head() + reply.body
            if fault.detail.get("where") == "body":
                yield reply.head()
                slowly = reply.body
            for byte in slowly:
                if _over(fault, connection, fault.number("seconds", 1)):
                    return
                yield bytes([byte])


def _over(fault: Fault, connection: socket.socket, wait_s: float) -> bool:
    """Wait; True if the fault is cleared, or the client or `Exchange.stop` has hung up."""
    if fault.cleared.wait(wait_s):
        return True
    # Not by reading: there may be bytes of TLS that mean nothing, before the end or without it.
    events = select.poll()
    # Where there is no POLLRDHUP (macOS), POLLHUP also means that the other side has hung up.
    events.register(connection, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
    return bool(events.poll(0))
