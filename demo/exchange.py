"""A simulated Binance.US on loopback: its public REST API, its limits and its faults.

Answers, weights, limits and errors follow the documentation of the exchange (`demo.rules`); the
candles come from `demo.market`, and `demo.trading` says when each market has any. `Exchange.fault`
injects faults (`demo.faults`). Other processes control it under /sim/, a path that the real
exchange does not have: GET /sim/requests, POST /sim/fault, DELETE /sim/fault?kind=, and
POST /sim/market. There are no accounts and no orders.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from email.utils import formatdate
from functools import partial
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl

from demo import faults, market, rules, trading
from demo.faults import Fault, Reply
from demo.rules import ApiError, Call, Limits
from demo.server import Options, Server
from demo.trading import Market

KEPT_REQUESTS = 20_000
DELISTED = 40  # closed markets among the symbols of the programs; the real exchange has 364


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
    in epoch seconds; `delisted` more markets are closed for years. `weight_factor` multiplies the
    weights of candles and tickers. With `tls` it serves https; `close_after` answers, or `idle_s`
    seconds without a request, end a connection. Port 0 picks a free port and keeps it across
    `stop` and `start`.
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
        raw_limit: int = rules.RAW_LIMIT,
        weight_factor: int = 1,
        listed_at: dict[str, float] | None = None,
        delisted: int = 0,
        tls: ssl.SSLContext | None = None,
        close_after: int | None = None,
        idle_s: float | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._latency_ms, self._jitter_ms = latency_ms, jitter_ms
        self._clock = clock
        self._limits, self._weight_factor = Limits(weight_limit, raw_limit), weight_factor
        self._options = Options(tls, close_after, idle_s)
        self._server: Server | None = None
        since = {symbol: int(at) for symbol, at in (listed_at or {}).items()}
        markets = [Market(symbol, since.get(symbol, trading.LAUNCH_S)) for symbol in symbols]
        # Guards all fields below: each connection has a thread, and tests change faults meanwhile.
        self._lock = threading.Lock()
        self._markets = {m.symbol: m for m in (*markets, *trading.delisted(delisted))}
        self._usages: dict[str, rules.Usage] = {}  # by address
        self._faults: dict[int, Fault] = {}
        self._faults_made = 0
        self._requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self._totals: dict[str, Any] = {
            "paths": Counter(),
            "statuses": Counter(),
            "clients": Counter(),
            "connections": 0,
            "weight": 0,
            "bytes_sent": 0,
        }

    # life cycle

    def start(self) -> Self:
        """Listen; does nothing if it is already listening."""
        if self._server is None:
            self._server = Server((self._host, self._port), self, self._options)
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
        return f"{'https' if self._options.tls else 'http'}://{self._host}:{self._port}"

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
        left = times if times is not None else 1 if kind in faults.REFUSALS else math.inf
        with self._lock:
            self._faults_made += 1
            made = Fault(self._faults_made, self._clock(), kind, symbol, path, left, detail)
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
        weight; connections accepted; and bytes sent."""
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
        with self._lock:
            asked = self._markets.get(symbol, Market(symbol))
        return asked.rows(market.INTERVALS[interval], limit, start_ms, end_ms, self._clock())

    def halt(self, symbol: str) -> None:
        """Suspend trading: no candles from now on; what there was is still answered."""
        self._change(symbol, Market.halt)

    def idle(self, symbol: str) -> None:
        """Let nobody trade the symbol, for 24 h already."""
        self._change(symbol, Market.idle)

    def list(self, symbol: str) -> None:
        """Start or resume trading of a symbol, new or known; a halt leaves a gap in its candles."""
        self._change(symbol, Market.trade)

    resume = list

    def delist(self, symbol: str) -> None:
        """Make it an invalid symbol."""
        self._change(symbol, Market.delist)

    def _change(self, symbol: str, change: Callable[[Market, float], Market]) -> None:
        with self._lock:
            known = self._markets.get(symbol, Market(symbol))
            self._markets[symbol] = change(known, self._clock())

    # one request

    def serve(self, method: str, path: str, query: str, address: str) -> tuple[Reply, Fault | None]:
        """Reply to an API request after the latency; also returns the fault of the wire, if any."""
        now = self._clock()
        call = rules.read_call(method, path, query, self._weight_factor)
        if page := self._block(call, now):
            reply, wire, call.weight = page, None, 0
        else:
            reply, active = self._charge(call, address, now)
            if reply.status == 200:
                self._fill(reply, call, now, active)
            wire = next((fault for fault in active if fault.kind in faults.WIRE), None)
        reply.headers["Date"] = formatdate(now, usegmt=True)
        self._note(call, now, 0 if wire and wire.kind in faults.UNANSWERED else reply.status)
        jitter_ms = random.uniform(-self._jitter_ms, self._jitter_ms)
        time.sleep(max(self._latency_ms + jitter_ms, 0.0) / 1000)
        return reply, wire

    def _block(self, call: Call, now: float) -> Reply | None:
        """The reply of the network before the exchange, if it lets the call not through."""
        with self._lock:
            for fault in self._faults.values():
                until = fault.at + fault.number("seconds", math.inf)
                if fault.kind == faults.BLOCKED and fault.matches(call) and now < until:
                    fault.times -= 1
                    return faults.block(fault)
        return None

    def _charge(self, call: Call, address: str, now: float) -> tuple[Reply, Sequence[Fault]]:
        """Count the call and pick its faults; the reply's status is 200 unless it is refused."""
        reply = Reply(200, None)
        with self._lock:
            usage = self._usages.setdefault(address, rules.Usage())
            active = [
                fault
                for fault in self._faults.values()
                if fault.kind != faults.BLOCKED and fault.matches(call)
            ]
            others = int(faults.total(active, "used_weight", "weight", 0))
            left = self._limits._replace(weight=self._limits.weight - others)
            usage.charge(call.weight, left, now)
            for fault in active:
                if fault.kind in faults.REFUSALS:
                    status, seconds = faults.REFUSALS[fault.kind]
                    usage.refuse(status, now + fault.number("seconds", seconds))
            if usage.refused_with:
                active = [fault for fault in active if fault.kind in faults.WITHOUT_ANSWER]
                message = usage.refusal(self._limits.weight)
                reply.status, reply.value = usage.refused_with, {"code": -1003, "msg": message}
                reply.headers["Retry-After"] = str(math.ceil(usage.refused_until - now))
            for fault in active:
                fault.times -= 1
            used = str(usage.weight + others)
        reply.headers |= {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        return reply, active

    def _fill(self, reply: Reply, call: Call, now: float, active: Sequence[Fault]) -> None:
        try:
            reply.value = self._answer(call, now, active)
            for fault in active:
                faults.spoil(reply, fault)
        except ApiError as error:
            reply.status, reply.value = error.status, {"code": error.code, "msg": str(error)}

    def _note(self, call: Call, now: float, status: int) -> None:
        with self._lock:
            self._requests.append(
                Request(
                    now, call.path, call.symbols, call.interval, call.limit, call.weight, status
                )
            )
            self._totals["paths"][call.path] += 1
            self._totals["statuses"][str(status)] += 1
            self._totals["weight"] += call.weight

    def count_connection(self) -> None:
        with self._lock:
            self._totals["connections"] += 1

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
            markets = {symbol: m for symbol, m in self._markets.items() if m.listed}
        if any(symbol not in markets for symbol in call.symbols):
            raise ApiError(-1121, "Invalid symbol.")
        if call.path.endswith("klines"):
            return self._rows(call, now, active)
        if call.symbols:  # answered in the exchange's own order, not in that of the request
            markets = {symbol: m for symbol, m in markets.items() if symbol in call.symbols}
        shown_at = faults.seen_at(active, None, now)
        match call.path.removeprefix("/api/v3/"):
            case "ping":
                return {}
            case "time":
                return {"serverTime": int(shown_at * 1000)}
            case "exchangeInfo":
                statuses = {symbol: m.status for symbol, m in markets.items()}
                return rules.exchange_info(statuses, self._limits, shown_at, call.params)
        entries = [m.ticker(faults.seen_at(active, symbol, now)) for symbol, m in markets.items()]
        if call.path.endswith("price"):
            entries = [{"symbol": e["symbol"], "price": e["lastPrice"]} for e in entries]
        elif call.params.get("type") == "MINI":
            entries = [{name: entry[name] for name in market.MINI_TICKER} for entry in entries]
        return entries[0] if "symbol" in call.params else entries

    def _rows(self, call: Call, now: float, active: Sequence[Fault]) -> market.Rows:
        [symbol] = call.symbols
        now = faults.seen_at(active, symbol, now)
        with self._lock:
            listed = [other for other, m in self._markets.items() if m.listed or other == symbol]
            other = faults.source(active, symbol, listed)
            asked = self._markets.get(other, Market(other))
        step_s = market.INTERVALS[call.interval]
        history = [fault for fault in active if fault.kind in faults.CANDLES]
        change = partial(faults.as_seen, history, asked.candle, step_s, now) if history else None
        times = call.time_ms("startTime"), call.time_ms("endTime")
        return asked.rows(step_s, call.limit, *times, now, change)

    # the control path

    def control(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """Answer a request under /sim/."""
        try:
            reply = Reply(200, self._controlled(method, path, query, body))
        except LookupError as error:
            reply = Reply(404, {"error": str(error)})
        except (TypeError, ValueError) as error:
            reply = Reply(400, {"error": str(error)})
        reply.headers["Date"] = formatdate(self._clock(), usegmt=True)
        return reply

    def _controlled(self, method: str, path: str, query: str, body: bytes) -> dict[str, Any]:
        match method, path:
            case "GET", "/sim/requests":
                requests = [request._asdict() for request in self.requests]
                return {"requests": requests, "count": len(requests), **self.totals}
            case "POST", "/sim/fault":
                return {"id": self.fault(**json.loads(body))}
            case "DELETE", "/sim/fault":
                return {"cleared": self.clear(dict(parse_qsl(query)).get("kind"))}
            case "POST", "/sim/market":
                return self._set_state(**json.loads(body))
        raise LookupError(f"no {method} {path}")

    def _set_state(self, symbol: str, state: str) -> dict[str, Any]:
        if state not in trading.STATES:
            raise ValueError(f"state {state!r} is none of {', '.join(trading.STATES)}")
        self._change(symbol, trading.STATES[state])
        return {"symbol": symbol, "state": state}


# --- the program ---


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.exchange",
        description="A simulated Binance.US REST API on 127.0.0.1. Candles are made up, limits "
        "and errors are as documented. Ends with Ctrl-C.",
        epilog="While it runs: GET /sim/requests lists what it was asked; POST /sim/fault "
        '{"kind": "status", "path": "klines", "times": 3, "status": 500} lets requests fail; '
        f"DELETE /sim/fault ends that. Kinds: {', '.join(faults.KINDS)}. POST /sim/market "
        '{"symbol": "BTCUSDT", "state": "halted"} changes a market. '
        f"States: {', '.join(trading.STATES)}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, count = parser.add_argument, str(len(market.DEFAULT_SYMBOLS))
    add("--port", type=int, default=18080, help="0: any")
    add("--latency-ms", type=float, default=50.0, help="before each answer")
    add("--jitter-ms", type=float, default=10.0, help="more or less of it")
    add("--symbols", default=count, help="how many, or which, separated by commas")
    add("--delisted", type=int, default=DELISTED, help="how many closed markets are listed, too")
    add("--weight-limit", type=int, default=rules.WEIGHT_LIMIT, help="per minute")
    add("--raw-limit", type=int, default=rules.RAW_LIMIT, help="requests in 5 minutes")
    add("--weight-factor", type=int, default=1, help="of the weights of candles and tickers")
    add("--tls", nargs=2, metavar=("CERT", "KEY"), help="files in PEM; serves https")
    add("--close-after", type=int, help="end a connection after so many answers")
    add("--idle-s", type=float, help="end a connection after so many seconds without a request")
    return parser.parse_args()


def main() -> None:
    """Serve until interrupted."""
    args = vars(_arguments())
    named = args.pop("symbols").upper().split(",")
    symbols = market.symbols(int(named[0])) if named[0].isdecimal() else named
    if files := args["tls"]:
        args["tls"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        args["tls"].load_cert_chain(*files)
    exchange = Exchange(symbols, **args)
    try:
        exchange.start()
    except OSError as error:
        sys.exit(f"cannot listen on port {args['port']}: {error.strerror}")
    with exchange, suppress(KeyboardInterrupt):
        print(f"simulated exchange on {exchange.url} with {len(symbols)} symbols", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
