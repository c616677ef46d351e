"""What systemd hears of the consumers: that they work, not merely that they exist."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ENVIRON, PATIENCE, ROOT, Program, RedisServer, until

NAMES = ("ta_service", "paper_trader", "dashboard")


class Systemd:
    """Hears what sd_notify sends to `address`."""

    def __init__(self, address: Path) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def wait_for(self, status: str, within_s: float = 10) -> list[str]:
        """The lines of the first message whose STATUS begins so."""
        self._socket.settimeout(within_s * PATIENCE)
        while True:
            lines = self._socket.recv(1000).decode().split("\n")
            if any(line.startswith(f"STATUS={status}") for line in lines):
                return lines

    def hears_nothing_for(self, seconds: float) -> None:
        """From now on; what was sent before does not count."""
        self._socket.settimeout(0)
        with pytest.raises(BlockingIOError):
            while self._socket.recv(1000):
                pass
        self._socket.settimeout(seconds)
        with pytest.raises(TimeoutError):
            self._socket.recv(1000)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    heard = Systemd(tmp_path / "notify")
    yield heard
    heard.close()


@pytest.mark.parametrize("name", NAMES)
def test_ready_status_and_watchdog_with_redis_and_without(
    start_consumer: Callable[..., Program], redis_server: RedisServer, systemd: Systemd, name: str
) -> None:
    start_consumer(name, NOTIFY_SOCKET=systemd.address, DASHBOARD_PORT="0")
    alive = {"READY=1", "WATCHDOG=1"}
    ok = systemd.wait_for("ok")
    assert alive < {*ok}
    assert any("at http://127.0.0.1:" in line for line in ok) == (name == "dashboard")
    redis_server.kill()
    assert alive < {*systemd.wait_for("waiting for Redis: Error 111")}
    redis_server.start()
    systemd.wait_for("ok")
    redis_server.pause()
    assert alive < {*systemd.wait_for("waiting for Redis: ", 20)}


@contextmanager
def hanging(what: str, module: str, redis_url: str, systemd: Systemd) -> Iterator[None]:
    """A consumer in which the method `what` of a class never returns the first time that
    Redis has the key "hang"."""
    script = f"""
import argparse, threading
from consumers import {module}, live, program, scanner, ta_service
program.HANG_S = 3.0
class_ = {what}
turn = class_.turn
def hangs(self, update):
    if self._cache.client.getdel("hang"):
        threading.Event().wait()
    return turn(self, update)
class_.turn = hangs
program.run({module}.main, argparse.ArgumentParser())
"""
    environ = {"REDIS_URL": redis_url, "NOTIFY_SOCKET": systemd.address, "DASHBOARD_PORT": "0"}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, cwd=ROOT, env={**ENVIRON, **environ})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def begin_to_hang(redis_server: RedisServer) -> None:
    redis_server.client.set("hang", 1)
    update = '{"symbols":[],"failed":[],"timestamp":1,"duration_ms":1}'
    redis_server.client.publish("market:update:1h", update)
    until(lambda: not redis_server.client.exists("hang"), 10)


def test_no_watchdog_once_a_turn_hangs(redis_server: RedisServer, systemd: Systemd) -> None:
    with hanging("ta_service.TaService", "ta_service", redis_server.url, systemd):
        systemd.wait_for("ok")
        begin_to_hang(redis_server)
        systemd.hears_nothing_for(3)


@pytest.mark.parametrize(
    ("what", "name"), [("scanner.Scanner", "scanner"), ("live.Board", "dashboard")]
)
def test_no_watchdog_of_the_dashboard_once_one_of_its_loops_hangs(
    redis_server: RedisServer, systemd: Systemd, what: str, name: str
) -> None:
    with hanging(what, "dashboard", redis_server.url, systemd):
        systemd.wait_for("ok")
        begin_to_hang(redis_server)
        assert len(systemd.wait_for(f"hanging: {name} at http://127.0.0.1:")) == 1, "no WATCHDOG"
