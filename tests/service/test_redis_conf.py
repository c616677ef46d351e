"""docs/redis.conf, on a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from check_redis import look_at_redis
from embedded_redis import executable
from redis_log import connect
from tests.support import ROOT, free_port, until

Start = Callable[[], Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start() returns a client of a server with the sample, and the process."""
    port, started = free_port(), list[subprocess.Popen[bytes]]()
    client = connect(f"redis://127.0.0.1:{port}/0")

    def answers() -> bool:
        with suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def run() -> Any:
        options = [ROOT / "docs/redis.conf", "--port", str(port), "--dir", tmp_path]
        started.append(subprocess.Popen([executable(), *options], stdout=subprocess.DEVNULL))
        until(answers, 10, what="the server answers")
        return client, started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_restart_keeps_the_book_and_the_check_finds_nothing_to_say(start: Start) -> None:
    client, server = start()
    _, wrong = look_at_redis(client)
    assert wrong == []
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    client.set("paper:positions", "the book")
    server.terminate()
    server.wait()
    client, _ = start()
    assert client.get("paper:positions") == "the book"
