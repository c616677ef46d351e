"""Programs, Redis and the exchange, measured from outside as processes and bytes."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import hiredis
import psutil
import redis

from bench.tls import PLAIN, TRANSPORTS, Certificate
from embedded_redis import executable

ROOT = Path(__file__).parent.parent
KEEPING = {"EVAL", "EVALSHA", "EXISTS"}  # sent by the service once a second, besides refreshes
GREETING = {"HELLO", "CLIENT"}
KEEPING_BYTES = 4000  # anything larger belongs to a refresh


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Program:
    """A subprocess that ends with the `with` block; its output goes to the file `log`.

    With `answers`, `line` reads its standard output instead.
    """

    def __init__(
        self,
        log: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        answers: bool = False,
    ) -> None:
        self.log, self.started_at = log, time.time()
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
        # Keep compiled modules, as Python does by default: a cold fill is not the first run ever.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                stderr=output,
                text=True,
                env=env,
                stdout=subprocess.PIPE if answers else output,
                start_new_session=True,  # Ctrl-C reaches only the benchmark, which ends all
            )
        self.usage = psutil.Process(self.process.pid)

    def line(self) -> str:
        """The next line that it prints; RuntimeError if it ends instead."""
        text = self.process.stdout.readline() if self.process.stdout else ""
        if not text:
            self.process.wait(timeout=5)
            self.check()
        return text.strip()

    def check(self) -> None:
        """Raises RuntimeError if it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args!r} ended:\n{self.log.read_text()[-2000:]}")

    def cpu_s(self) -> float:
        """Seconds of CPU so far, in user and system mode."""
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    def peak_mb(self) -> float:
        """The most memory (resident set) it ever had, in MB of 2**20 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*([0-9]+) kB", status)
        return int(found[1]) / 1024 if found else math.nan

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


class Counts:
    """Turns (round trips) and commands that refreshes sent to Redis, without the checks that the
    service sends once a second, and without the greeting of a new connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # each connection has two threads
        self._refreshes: Counter[str] = Counter()

    def add(self, turn: Sequence[Sequence[bytes]]) -> None:
        size = sum(len(part) for command in turn for part in command)
        name = turn[0][0].decode().upper()
        if name in GREETING or (name in KEEPING and size < KEEPING_BYTES):
            return
        with self._lock:
            self._refreshes.update(turns=1, commands=len(turn))

    def refreshes(self) -> Counter[str]:
        with self._lock:
            return self._refreshes.copy()


class _Connection:
    """One connection through a Proxy, in turns: all that the client sends until it awaits answers.

    A turn ends with the answer that leaves none outstanding. A transaction is one turn, even if its
    first answers arrive while the rest of it is still being sent.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts, self._lock = counts, threading.Lock()
        self._asked, self._answered = hiredis.Reader(), hiredis.Reader()
        self._owed, self._in_multi = 0, False
        self._turn: list[list[bytes]] = []

    def sent(self, data: bytes) -> None:
        with self._lock:
            self._asked.feed(data)
            while (command := self._asked.gets()) is not False:
                self._turn.append(command)
                self._owed += 1
                name = command[0].upper()
                self._in_multi = name == b"MULTI" or (self._in_multi and name != b"EXEC")

    def received(self, data: bytes) -> None:
        with self._lock:
            self._answered.feed(data)
            while self._answered.gets() is not False:
                self._owed -= 1
            if self._turn and self._owed == 0 and not self._in_multi:
                self._counts.add(self._turn)
                self._turn = []


class _ProxyHandler(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        connection = _Connection(self.server.counts)
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.to)) as upstream:
            for sock in (self.request, upstream):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(
                target=self._pump, args=(upstream, self.request, connection.received), daemon=True
            )
            answers.start()
            self._pump(self.request, upstream, connection.sent)

    def _pump(self, source: socket.socket, target: socket.socket, look: Any) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                look(data)
                target.sendall(data)


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy to the Redis on port `to` that counts the turns of each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, to: int) -> None:
        self.to, self.counts = to, Counts()
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Stage:
    """An exchange and a Redis for one contender only, so that all counts are its own.

    With a `certificate` the exchange is reached over TLS as well.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        name: str,
        *,
        symbols: int = 29,
        prepare: str = "5m,1h,4h",
        certificate: Certificate | None = None,
    ) -> None:
        self.folder, self.name, self._stack = folder, name, stack
        arguments = [
            sys.executable,
            "-m",
            "bench.exchange",
            "--symbols",
            str(symbols),
            "--prepare",
            prepare,
        ]
        self._trusted: dict[str, str] = {}
        if certificate:
            arguments += ["--tls", str(certificate.chain), str(certificate.key)]
            self._trusted = certificate.trusted
        log = folder / f"exchange-{name}.log"
        self._exchange = stack.enter_context(Program(log, arguments, answers=True))
        self._urls: dict[str, str] = {}  # by transport
        self._port = free_port()
        command = [
            executable(),
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.redis_program = stack.enter_context(Program(folder / f"redis-{name}.log", command))
        self.redis_url = f"redis://127.0.0.1:{self._port}/0"
        self.client = redis.Redis.from_url(self.redis_url)
        give_up_at = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.02)

    @cached_property
    def proxy(self) -> Proxy:
        """Created on first use: its threads take CPU time from measurements in this process."""
        return self._stack.enter_context(Proxy(self._port))

    def wait(self) -> None:
        """Wait until the exchange is prepared."""
        if not self._urls:
            self._urls = dict(zip(TRANSPORTS, self._exchange.line().split(), strict=False))

    def exchange_url(self, transport: str = PLAIN) -> str:
        self.wait()
        return self._urls[transport]

    @property
    def log(self) -> Path:
        """The output of its programs."""
        return self.folder / f"{self.name}.log"

    def totals(self) -> dict[str, Any]:
        """The counts of the exchange; see GET /sim/requests, and `bench.exchange` for kinds."""
        with urllib.request.urlopen(f"{self.exchange_url()}/sim/requests", timeout=30) as answer:
            totals: dict[str, Any] = json.load(answer)
        return totals

    def start(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        *,
        transport: str = PLAIN,
        counted: bool = False,
    ) -> Program:
        """Start a program of the contender; if `counted`, it reaches Redis through the proxy."""
        url = self.exchange_url(transport)
        both = {
            "EXCHANGE_URL": url,
            "BINANCE_BASE_URL": url,
            "REDIS_URL": self.proxy.url if counted else self.redis_url,
            "HEALTH_PORT": "0",
            **self._trusted,
        }
        return Program(self.log, [sys.executable, *arguments], {**both, **environ})


class Publishes:
    """Listens to all updates in the Redis of `stage`: (channel, epoch seconds) as they come."""

    def __init__(self, stage: Stage) -> None:
        client: Any = stage.client  # its pubsub has no types
        self._pubsub: Any = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("*:update:*")
        self._pubsub.get_message(timeout=1)  # the subscription itself

    def next(self, within_s: float) -> tuple[str, float] | None:
        """The next publish, except those for "all"; None if there is none in time."""
        give_up_at = time.monotonic() + within_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            message = self._pubsub.get_message(ignore_subscribe_messages=True, timeout=left_s)
            at = time.time()
            if message and not message["channel"].endswith(b":all"):
                return message["channel"].decode(), at
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pubsub.close()
