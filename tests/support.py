"""Test helpers: a fake clock, a real Redis, programs of the project, and waiting for conditions."""

from __future__ import annotations

import json
import math
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

import redis_log
from embedded_redis import executable
from redis_log import Batch, LoggedRedis

ROOT = Path(__file__).parent.parent
# The environment of every program, besides a test's own settings: nothing else is inherited.
ENVIRON = {name: os.environ[name] for name in ("PATH", "REDIS_SERVER") if name in os.environ}

# Every deadline is multiplied by this, because other programs may keep the machine busy. It costs
# nothing: a wait ends as soon as its condition holds.
PATIENCE = 4


def no_api(path: str, query: str) -> tuple[int, bytes]:
    """A stub of /api/ for tests of HealthServer that do not need it."""
    return 404, b"{}"


class Clock:
    """A fake clock that advances only in `wait`, which RateLimiter takes as an argument."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


def until(
    condition: Callable[[], Any], within_s: float, every_s: float = 0.02, what: str = ""
) -> Any:
    """Wait for `condition` and return its first true value; the test fails if there is none within
    PATIENCE times `within_s`."""
    give_up_at = time.monotonic() + within_s * PATIENCE
    while True:
        if value := condition():
            return value
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {within_s * PATIENCE} s: {what or condition}")
        time.sleep(every_s)


def quiet_interval(low: int, high: int) -> int:
    """A refresh interval from `low` to `high` seconds whose next tick is as far off as possible,
    for tests that a second refresh would disturb."""
    now = time.time()
    return max(range(low, high + 1), key=lambda interval: -now % interval)


# Below those that Linux gives to outgoing connections: one of these could take it meanwhile.
PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A port at which nothing listens, at random: tests that run side by side hardly meet."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A real Redis on its own port, which can be killed, paused and started again."""

    # Nothing is persisted, but tests may change the folder and save there.
    OPTIONS = (
        *("--save", "", "--appendonly", "no"),
        *("--enable-protected-configs", "yes", "--enable-debug-command", "yes"),
    )

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis_log.connect(self.url)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [executable(), "--port", str(self.port), "--bind", "127.0.0.1", *self.OPTIONS],
            stdout=subprocess.DEVNULL,
        )
        until(self.answers, 10, what="redis-server answers")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Line:
    """A proxy to Redis at port `to`: a line that may be long and thin.

    `delay_s` is for each way, `bytes_per_s` for each direction of each connection; both may change
    at any time. Whatever was sent arrives, even if the sender has closed the connection since.
    """

    CHUNK_B = 8192
    CHUNKS = 16  # that are under way at most

    def __init__(self, to: int, *, delay_s: float = 0.0, bytes_per_s: float = math.inf) -> None:
        self._to, self.delay_s, self.bytes_per_s = to, delay_s, bytes_per_s
        self._listener = socket.socket()
        # Small, else megabytes that the client has sent would wait in the buffer.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * self.CHUNK_B)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._start(self._accept)

    def url(self, db: int = 0) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/{db}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._connect, self._listener.accept()[0])

    def _connect(self, client: socket.socket) -> None:
        # Where Redis is down, the client is accepted and hung up on.
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [
                self._start(self._pass_on, source, target)
                for source, target in ((client, server), (server, client))
            ]
            for way in ways:
                way.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(self.CHUNKS)
        self._start(self._receive, source, chunks)
        while True:
            received_at, data = chunks.get()
            time.sleep(max(0.0, received_at + self.delay_s - time.monotonic()))
            time.sleep(len(data) / self.bytes_per_s)
            with suppress(OSError):  # the target is gone: the source will hear of it, and end
                target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
            if not data:
                return

    def _receive(self, source: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"some"
        while data:
            try:
                data = source.recv(self.CHUNK_B)
            except OSError:
                data = b""
            chunks.put((time.monotonic(), data))


def lose_an_answer(monkeypatch: pytest.MonkeyPatch, logged: LoggedRedis, type_: str) -> None:
    """Make the next transaction of `logged` with an entry of `type_` succeed but report failure."""
    send = logged.send

    def lose(batch: Batch, **fence: Any) -> None:
        send(batch, **fence)
        if any(entry["type"] == type_ for entry in batch.entries):
            monkeypatch.undo()
            raise redis.TimeoutError("lost")

    monkeypatch.setattr(logged, "send", lose)


class Program:
    """A program of the project as a subprocess; its output is in `lines()`."""

    def __init__(self, log: Path, arguments: list[str], environ: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**ENVIRON, "PYTHONUNBUFFERED": "1", **environ},
            )

    def lines(self, containing: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if containing in line]

    def stop(self, number: int = signal.SIGTERM, within_s: float = 5) -> int:
        """Send a signal and return the exit code; the test fails if the program does not end within
        PATIENCE times `within_s`."""
        self.process.send_signal(number)
        return self.process.wait(timeout=within_s * PATIENCE)

    def end(self) -> None:
        """Kill it if it still runs, and print its output, which pytest shows for a failed test."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        print(self.log.read_text())


class Service(Program):
    """`python market_data.py`."""

    def __init__(self, log: Path, arguments: list[str], environ: dict[str, str]) -> None:
        self.port = int(environ["HEALTH_PORT"])
        super().__init__(log, ["market_data.py", *arguments], environ)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /health; (0, {}) while nothing listens."""
        url = f"http://127.0.0.1:{self.port}/health"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def is_status(self, status: str) -> bool:
        return self.health()[1].get("status") == status

    def wait_for(self, status: str, within_s: float = 20) -> dict[str, Any]:
        """Wait until /health says `status`, and return its body."""
        until(lambda: self.is_status(status), within_s, what=f"status {status}")
        return self.health()[1]
