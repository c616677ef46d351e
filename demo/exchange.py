"""A simulated Binance.US on loopback: its public REST API, its limits and its faults.

Answers, weights, limits and errors follow the public documentation of the exchange (`demo.rules`);
the candles come from `demo.market`. `Exchange.fault` injects faults (`demo.faults`); other
processes do so under /sim/, a path that the real exchange does not have: GET /sim/requests,
POST /sim/fault, DELETE /sim/fault?kind=. There are no accounts and no orders.
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

LAUNCH_S = 1_569_196_800  # 2019-09-23; there are no candles before it
KEPT_REQUESTS = 20_000


class Request(NamedTuple):
    """One answered request: `at` in seconds of the exchange's clock; `limit` is 0 and `interval`
    empty if the request has none; `status` is 0 if a fault withheld the answer."""

    at: float
    path: str
    symbols: tuple[str, ...]
    interval: str
    limit: int
    weight: int
    status: int


class Exchange:
    """The exchange as a loopback server, for use in process or as a program of its own.

    Each answer is delayed by `latency_ms`, plus or minus `jitter_ms`. `clock` returns epoch
    seconds; candles and limits follow it. `listed_at` maps symbols to the start of their trading,
    in epoch seconds. Port 0 picks a free port and keeps it across `stop` and `start`.
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
        # Guards all fields below: each connection has a thread, and tests change faults meanwhile.
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

    # life cycle

    def start(self) -> Self:
        """Listen; does nothing if it is already listening."""
        if self._server is None:
            self._server = _Server((self._host, self._port), self)
            self._port = self._server.server_address[1]
        return self

    def stop(self) -> None:
        """Close the listening socket and every connection, without waiting for requests."""
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

    # control by tests and checkers

    def fault(
        self,
        kind: str,
        *,
        symbol: str | None = None,
        path: str | None = None,
        times: int | None = None,
        **detail: Any,
    ) -> int:
        """Inject a fault into requests for `symbol` whose path ends in `path` (None: all).

        It applies to `times` requests: by default to all until `clear`, but a hold or a ban starts
        only once. `detail` holds the parameters of the kind. Returns an id for `clear`.
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
        """End the faults of a kind, the fault with an id, or all; returns how many ended.

        Ending a kind or all also ends holds and bans that have begun.
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
        """Totals since creation: requests by path, by status, and by client (User-Agent); their
        weight; and bytes sent."""
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
        """The rows of a klines answer at this moment, without faults."""
        step_s, listed_s = market.INTERVALS[interval], self._listed_s(symbol)
        return market.rows(symbol, step_s, limit, start_ms, end_ms, listed_s, self._clock())

    def halt(self, symbol: str) -> None:
        """Suspend trading; the symbol stays listed and its prices are still answered."""
        with self._lock:
            self._statuses[symbol] = "BREAK"

    def list(self, symbol: str) -> None:
        """Start or resume trading of a symbol, new or known."""
        with self._lock:
            self._statuses[symbol] = "TRADING"

    resume = list

    def delist(self, symbol: str) -> None:
        """Make it an invalid symbol."""
        with self._lock:
            self._statuses.pop(symbol, None)

    # one request

    def serve(self, method: str, path: str, query: str, address: str) -> tuple[Reply, Fault | None]:
        """Reply to an API request after the latency; also returns the fault of the wire, if any."""
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
        if call.symbols:  # answered in the exchange's own order, not in that of the request
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
    """One connection: reads requests, and writes the exchange's replies."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body after its head may wait 40 ms for an ACK
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
    """Serves in its own thread, and tracks open connections so that `stop` can close them."""

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
            # Wakes the thread that is blocked on the socket, which then closes it.
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
        """Ignore clients that hang up; print any other error, which is a defect."""
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
