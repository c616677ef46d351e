"""Measures how fast the service answers klines?limit=500 in place of the exchange.

As a program, `python -m bench.local_api PORT CLIENTS RATE SECONDS`, it is the clients: keep-alive
connections in one thread that send RATE requests a second in total (0: each sends again as soon as
it is answered). It prints the result of `load` as JSON.
"""

from __future__ import annotations

import itertools
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any

from bench.measure import ROOT, Stage, free_port, percentile
from bench.programs import DEFAULTS, SERVICE
from demo import market

CLIENTS = 50
RATE = 1500  # a second: the project's own bar
PACED_S, FREE_S = 35, 8  # the first is long enough to contain a refresh


class Client:
    """One keep-alive connection; one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._head, self._left, self._due_at = b"", -1, 0.0

    def ask(self, symbol: str, due_at: float) -> None:
        self._head, self._left, self._due_at = b"", -1, due_at
        path = f"/api/v3/klines?symbol={symbol}&interval=5m&limit=500"
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"
        self.socket.sendall(head.encode())

    def took_s(self, buffer: bytearray) -> float | None:
        """Seconds from when the request was due to the last byte; None if more is to come."""
        received = self.socket.recv_into(buffer)
        if not received:
            raise ConnectionError("the service closed a connection")
        if self._left < 0:
            self._head += buffer[:received]
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return None
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ValueError(head.decode())
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            self._left, received = int(length), len(body)
        self._left -= received
        return None if self._left else time.perf_counter() - self._due_at


def load(port: int, clients: int, rate: float, seconds: float) -> dict[str, float]:
    """Send requests; returns answers per second, and percentiles of their times in ms."""
    selector = selectors.DefaultSelector()
    idle = deque(Client(port) for _ in range(clients))
    for client in idle:
        selector.register(client.socket, selectors.EVENT_READ, client)
    symbols = itertools.cycle(market.DEFAULT_SYMBOLS)
    buffer, took = bytearray(1 << 18), []
    started = time.perf_counter()
    due_at = started
    while (now := time.perf_counter()) < started + seconds:
        while idle and (not rate or due_at <= now):
            idle.popleft().ask(next(symbols), due_at if rate else now)
            due_at += 1 / rate if rate else 0
        for key, _ in selector.select(max(0.0, due_at - now) if rate and idle else 0.1):
            if (took_s := key.data.took_s(buffer)) is not None:
                took.append(took_s * 1000)
                idle.append(key.data)
    return {
        "rate": len(took) / (time.perf_counter() - started),
        "p50_ms": percentile(took, 0.5),
        "p99_ms": percentile(took, 0.99),
    }


def measure(stage: Stage) -> dict[str, Any]:
    """The results of `load` at RATE requests a second ("paced") and at full speed ("free"), while
    the service refreshes with its defaults; and the durations of these refreshes in ms."""
    stage.client.flushall()
    said_before = len(stage.log.read_text()) if stage.log.exists() else 0
    port = free_port()
    [run] = SERVICE.runs(DEFAULTS)
    found: dict[str, Any] = {}
    with run.start(stage, HEALTH_PORT=str(port)) as service:
        while stage.client.dbsize() < 119:  # 87 series, 29 prices, the log, the lease and its term
            service.check()
            time.sleep(0.05)
        for name, rate, seconds in (("paced", RATE, PACED_S), ("free", 0, FREE_S)):
            arguments = [str(each) for each in (port, CLIENTS, rate, seconds)]
            command = [sys.executable, "-m", "bench.local_api", *arguments]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
            found[name] = json.loads(done.stdout)
    lines = stage.log.read_text()[said_before:].splitlines()
    took = [int(ms) for line in lines for ms in re.findall("duration_ms=([0-9]+)", line)]
    found["refreshes_ms"] = took[len(DEFAULTS) :]  # without the first fill
    found["skipped"] = sum("ticks_skipped" in line for line in lines)
    return found


if __name__ == "__main__":
    numbers = [float(each) for each in sys.argv[1:]]
    print(json.dumps(load(int(numbers[0]), int(numbers[1]), *numbers[2:])))
