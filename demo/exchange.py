"""A simulated Binance.US on loopback: its public REST API, its limits, and its bad days.

Answers, weights, limits and errors follow the public documentation of the exchange (`demo.rules`);
the candles are those of `demo.market`. What can go wrong (`demo.faults`) is asked for with
`Exchange.fault`. Other processes do the same under /sim/, a path that the real exchange has not:
GET /sim/requests, POST /sim/fault, DELETE /sim/fault?kind=. It holds no accounts and no orders.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from demo import faults, market, rules
from demo.faults import Fault, Reply
from demo.rules import ApiError, Call

LAUNCH_S = 1_569_196_800  # 2019-09-23, before which there are no candles
KEPT_REQUESTS = 20_000


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
        weight_limit: int = rules.WEIGHT_LIMIT,
        listed_at: dict[str, float] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._latency_ms, self._jitter_ms = latency_ms, jitter_ms
        self._clock, self._weight_limit = clock, weight_limit
        self._listed_at = dict(listed_at or {})
        self._server: _Server | None = None
        # Guards all below: each connection has a thread, and tests change faults meanwhile.
        self._lock = threading.Lock()
        self._statuses = dict.fromkeys(symbols, "TRADING")
        self._usages: dict[str, rules.Usage] = {}  # by address
        self._faults: dict[int, Fault] = {}
        self._faults_made = 0
        self._requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self._totals: dict[str, Any] = {
            "paths": Counter(),
            "statuses": Counter(),
            "clients": Counter(),
            "weight": 0,
            "bytes_sent": 0,
        }

    # life

    def start(self) -> Self:
        """Listen; does nothing if it does already."""
        if self._server is None:
            self._server = _Server((self._host, self._port), self)
            self._port = self._server.server_address[1]
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
        if kind not in faults.KINDS:
            raise ValueError(f"fault kind {kind!r} is none of {', '.join(faults.KINDS)}")
        left = times if times is not None else 1 if kind in faults.REFUSALS else math.inf
        with self._lock:
            self._faults_made += 1
            made = Fault(self._faults_made, kind, symbol, path, left, detail)
            self._faults[made.id] = made
            return made.id

    def clear(self, which: str | int | None = None) -> int:
        """End the faults of a kind, or that with a number, or all; returns how many.

        Holds and bans that have begun end too, with all or with their kind.
        """
        with self._lock:
            ended = [f for f in self._faults.values() if which in (None, f.kind, f.id)]
            for fault in ended:
                del self._faults[fault.id]
                fault.cleared.set()
            statuses = [faults.REFUSALS[k][0] for k in faults.REFUSALS if which in (None, k)]
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
        """Since it was made: requests by path, by status, and by client, which is what it calls
        itself (User-Agent); their weight, and bytes sent."""
        with self._lock:
            return deepcopy(self._totals)

    def klines(
        self,
        symbol: str,
        interval: str,
        limit: int = rules.DEFAULT_LIMIT,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> market.Rows:
        """The rows of a klines answer at this moment, as they are without faults."""
        step_s, listed_s = market.INTERVALS[interval], self._listed_s(symbol)
        return market.rows(symbol, step_s, limit, start_ms, end_ms, listed_s, self._clock())

    def halt(self, symbol: str) -> None:
        """Suspend trading; the symbol stays listed and its prices are still answered."""
        with self._lock:
            self._statuses[symbol] = "BREAK"

    def list(self, symbol: str) -> None:
        """Let a symbol, new or known, be traded."""
        with self._lock:
            self._statuses[symbol] = "TRADING"

    resume = list

    def delist(self, symbol: str) -> None:
        """Make it an invalid symbol."""
        with self._lock:
            self._statuses.pop(symbol, None)

    # one request

    def serve(self, method: str, path: str, query: str, address: str) -> tuple[Reply, Fault | None]:
        """The reply to a request to the API, after the latency, and a fault of the wire."""
        now = self._clock()
        call = rules.read_call(method, path, query)
        reply, active = self._charge(call, address, now)
        if reply.status == 200:
            try:
                lag_s = faults.total(active, "lagging", "seconds", 60)
                reply.value = self._answer(call, now - lag_s, active)
                for fault in active:
                    faults.spoil(reply, fault)
            except ApiError as error:
                reply.status, reply.value = error.status, {"code": error.code, "msg": str(error)}
        wire = next((fault for fault in active if fault.kind in faults.WIRE), None)
        status = 0 if wire and wire.kind in faults.UNANSWERED else reply.status
        with self._lock:
            self._requests.append(
                Request(now, path, call.symbols, call.interval, call.limit, call.weight, status)
            )
            self._totals["paths"][path] += 1
            self._totals["statuses"][str(status)] += 1
            self._totals["weight"] += call.weight
        jitter_ms = random.uniform(-self._jitter_ms, self._jitter_ms)
        time.sleep(max(self._latency_ms + jitter_ms, 0.0) / 1000)
        return reply, wire

    def _charge(self, call: Call, address: str, now: float) -> tuple[Reply, Sequence[Fault]]:
        """Count the call and pick its faults; the reply's status is 200 unless it is refused."""
        reply = Reply(200, None)
        with self._lock:
            usage = self._usages.setdefault(address, rules.Usage())
            active = [fault for fault in self._faults.values() if fault.matches(call)]
            others = int(faults.total(active, "used_weight", "weight", 0))
            usage.charge(call.weight, self._weight_limit - others, now)
            for fault in active:
                if fault.kind in faults.REFUSALS:
                    status, seconds = faults.REFUSALS[fault.kind]
                    usage.refuse(status, now + fault.number("seconds", seconds))
            if usage.refused_with:
                active = [fault for fault in active if fault.kind in faults.WITHOUT_ANSWER]
                message = usage.refusal(self._weight_limit)
                reply.status, reply.value = usage.refused_with, {"code": -1003, "msg": message}
                reply.headers["Retry-After"] = str(math.ceil(usage.refused_until - now))
            for fault in active:
                fault.times -= 1
            used = str(usage.weight + others)
        reply.headers |= {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        return reply, active

    def count_client(self, name: str) -> None:
        with self._lock:
            self._totals["clients"][name] += 1

    def count_bytes(self, sent: int) -> None:
        with self._lock:
            self._totals["bytes_sent"] += sent

    # the answers

    def _answer(self, call: Call, now: float, active: Sequence[Fault]) -> Any:
        if call.error:
            raise call.error
        with self._lock:
            statuses = dict(self._statuses)
        if any(symbol not in statuses for symbol in call.symbols):
            raise ApiError(-1121, "Invalid symbol.")
        if call.symbols:  # in the order of the exchange's own list, whatever the order asked for
            statuses = {s: status for s, status in statuses.items() if s in call.symbols}
        match call.path.removeprefix("/api/v3/"):
            case "ping":
                return {}
            case "time":
                return {"serverTime": int(now * 1000)}
            case "exchangeInfo":
                return rules.exchange_info(statuses, self._weight_limit, now)
            case "klines":
                return self._rows(call, now, active)
        entries = [self._ticker(symbol, now) for symbol in statuses]
        if call.path.endswith("price"):
            entries = [{"symbol": e["symbol"], "price": e["lastPrice"]} for e in entries]
        elif call.params.get("type") == "MINI":
            entries = [{name: entry[name] for name in market.MINI_TICKER} for entry in entries]
        return entries[0] if "symbol" in call.params else entries

    def _listed_s(self, symbol: str) -> int:
        return int(self._listed_at.get(symbol, LAUNCH_S))

    def _ticker(self, symbol: str, now: float) -> dict[str, Any]:
        start_s = max(int(now) - market.DAY_S, self._listed_s(symbol))
        return market.ticker(symbol, market.candle(symbol, start_s, int(now)), int(now * 1000))

    def _rows(self, call: Call, now: float, active: Sequence[Fault]) -> market.Rows:
        [symbol] = call.symbols
        step_s = market.INTERVALS[call.interval]
        history = [fault for fault in active if fault.kind in faults.CANDLES]
        change = partial(faults.as_seen, history, symbol, step_s, now) if history else None
        times = call.time_ms("startTime"), call.time_ms("endTime")
        return market.rows(symbol, step_s, call.limit, *times, self._listed_s(symbol), now, change)

    # the control path

    def control(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """Answer a request under /sim/."""
        try:
            match method, path:
                case "GET", "/sim/requests":
                    requests = [request._asdict() for request in self.requests]
                    return Reply(200, {"requests": requests, "count": len(requests), **self.totals})
                case "POST", "/sim/fault":
                    return Reply(200, {"id": self.fault(**json.loads(body))})
                case "DELETE", "/sim/fault":
                    kind = dict(parse_qsl(query)).get("kind")
                    return Reply(200, {"cleared": self.clear(kind)})
        except (TypeError, ValueError) as error:
            return Reply(400, {"error": str(error)})
        return Reply(404, {"error": f"no {method} {path}"})


# --- the server ---


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, and writes what the exchange tells it to."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body after its head may wait 40 ms for an ACK
    server: _Server

    def answer(self) -> None:
        exchange, url = self.server.exchange, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if url.path.startswith("/sim/"):
                reply = exchange.control(self.command, url.path, url.query, body)
                self.wfile.write(reply.head() + reply.body)
                return
            exchange.count_client(self.headers.get("User-Agent", ""))
            address = self.client_address[0]
            reply, fault = exchange.serve(self.command, url.path, url.query, address)
            chunks: Iterable[bytes] = [reply.head() + reply.body]
            if fault:
                self.close_connection = True
                chunks = faults.sent(reply, fault, self.connection)
            for chunk in chunks:
                self.wfile.write(chunk)
                exchange.count_bytes(len(chunk))
        except OSError:
            self.close_connection = True  # the client is gone

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the log."""


class _Server(ThreadingHTTPServer):
    """Serves in a thread of its own, and knows its connections, so that it can close them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], exchange: Exchange) -> None:
        self.exchange = exchange
        # Guards _open: the accepting thread adds, connection threads remove.
        self._open_lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="exchange", daemon=True
        )
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


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.exchange",
        description="A simulated Binance.US REST API on 127.0.0.1. Candles are made up, limits "
        "and errors are as documented. Ends with Ctrl-C.",
        epilog="While it runs: GET /sim/requests lists what it was asked; POST /sim/fault "
        '{"kind": "status", "path": "klines", "times": 3, "status": 500} lets requests fail; '
        f"DELETE /sim/fault ends that. Kinds: {', '.join(faults.KINDS)}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, count = parser.add_argument, str(len(market.DEFAULT_SYMBOLS))
    add("--port", type=int, default=18080, help="0: any")
    add("--latency-ms", type=float, default=50.0, help="before each answer")
    add("--jitter-ms", type=float, default=10.0, help="more or less of it")
    add("--symbols", default=count, help="how many, or which, separated by commas")
    args = parser.parse_args()
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
