"""The simulated exchange as a program for benchmarks: the same answers, encoded in advance.

The real exchange has more power than one core of this machine. So closed candles are kept as JSON,
and the time to make an answer counts as part of its latency; otherwise a contender that requests
whole series would mostly wait for Python to encode JSON. GET /sim/requests also has "kinds": the
number of requests and the bytes of their answers, headers included, by path, timeframe and limit.
Those over TLS count alike, without what TLS adds.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from demo import market
from demo.exchange import Exchange
from demo.faults import Fault, Reply
from demo.rules import Call
from demo.server import Options, Server

WHOLE = 500  # candles prepared per series


class _Encoded(list[Any]):
    """The rows of an answer whose JSON is already known; the list itself stays empty."""

    text: bytes = b""


def _json(row: Sequence[Any]) -> str:
    return json.dumps(row, separators=(",", ":"))


class PreparedExchange(Exchange):
    """An Exchange whose symbols have always been listed, without faults of candles.

    `latency_ms` and `jitter_ms` count from the arrival of a request until its answer is sent.
    """

    def __init__(self, symbols: Sequence[str], latency_ms: float, jitter_ms: float) -> None:
        super().__init__(symbols)
        self._from_ms, self._to_ms = latency_ms - jitter_ms, latency_ms + jitter_ms
        self._closed: dict[tuple[str, int], tuple[int, list[str]]] = {}  # newest open time, rows
        self._kinds: dict[str, list[int]] = {}  # requests, bytes

    def prepare(self, symbols: Sequence[str], intervals: Sequence[str]) -> None:
        for symbol in symbols:
            for interval in intervals:
                self._closed_rows(symbol, market.INTERVALS[interval], time.time())

    def serve(self, method: str, path: str, query: str, address: str) -> tuple[Reply, Fault | None]:
        started = time.monotonic()
        reply, wire = super().serve(method, path, query, address)
        if isinstance(reply.value, _Encoded):
            reply.raw = reply.value.text
        sent = len(reply.head()) + len(reply.body)
        request = dict(part.partition("=")[::2] for part in query.split("&"))
        name = f"{path.removeprefix('/api/v3/')} {request.get('interval', '')}".strip()
        with self._lock:
            kind = self._kinds.setdefault(f"{name} {request.get('limit', '')}".strip(), [0, 0])
            kind[0] += 1
            kind[1] += sent
        due_in_ms = random.uniform(self._from_ms, self._to_ms)
        time.sleep(max(0.0, due_in_ms / 1000 - (time.monotonic() - started)))
        return reply, wire

    @property
    def totals(self) -> dict[str, Any]:
        with self._lock:
            kinds = {name: list(counts) for name, counts in self._kinds.items()}
        return {**super().totals, "kinds": kinds}

    def _rows(self, call: Call, now: float, active: Sequence[Fault]) -> market.Rows:
        if active or call.limit > WHOLE or call.params.keys() & {"startTime", "endTime"}:
            return super()._rows(call, now, active)
        [symbol] = call.symbols
        step_s = market.INTERVALS[call.interval]
        closed = self._closed_rows(symbol, step_s, now)[-call.limit :]
        opened_s = int(now) // step_s * step_s
        bar = market.candle(symbol, opened_s, int(now))
        forming = _json(market.row(symbol, step_s, opened_s, bar))
        rows = _Encoded()
        rows.text = f"[{','.join([*closed, forming][-call.limit :])}]".encode()
        return rows

    def _closed_rows(self, symbol: str, step_s: int, now: float) -> list[str]:
        """The newest rows of closed candles, oldest first, as JSON."""
        newest_s = int(now) // step_s * step_s - step_s
        known_s, texts = self._closed.get((symbol, step_s), (newest_s - WHOLE * step_s, []))
        if known_s < newest_s:
            opens = range(known_s + step_s, newest_s + 1, step_s)
            row = market.whole_row.__wrapped__  # bypasses the cache: the rows are kept here
            texts = (texts + [_json(row(symbol, step_s, open_s)) for open_s in opens])[-WHOLE:]
            self._closed[symbol, step_s] = newest_s, texts
        return texts


@contextmanager
def over_tls(exchange: Exchange, chain: str, key: str) -> Iterator[str]:
    """Serves `exchange` over TLS, too, at the URL that it yields; `chain` and `key` are files."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    server = Server(("127.0.0.1", 0), exchange, Options(tls))
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.stop()


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; prints the URL once everything is prepared, and after a space
    that over TLS, if there is one."""
    parser = argparse.ArgumentParser(prog="python -m bench.exchange")
    parser.add_argument("--symbols", type=int, default=len(market.DEFAULT_SYMBOLS))
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--jitter-ms", type=float, default=10.0)
    parser.add_argument("--prepare", default="5m,1h,4h", help="timeframes")
    parser.add_argument("--tls", nargs=2, metavar=("CHAIN", "KEY"), help="files; serves https too")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    symbols = market.symbols(args.symbols)
    exchange = PreparedExchange(symbols, args.latency_ms, args.jitter_ms)
    exchange.prepare(symbols, args.prepare.split(","))
    with ExitStack() as stack:
        urls = [stack.enter_context(exchange).url]
        if args.tls:
            urls.append(stack.enter_context(over_tls(exchange, *args.tls)))
        print(*urls, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
