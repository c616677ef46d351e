"""Programs whose stdout blocks, as a terminal after Ctrl-S does, or a pipe that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from consumers.market_cache import ALIVE_KEY
from demo.exchange import Exchange
from journal import MAX_WAITING_LINES, LineFormatter, _Sink, log
from tests.support import ENVIRON, PATIENCE, ROOT, RedisServer, free_port, until


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe that is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 65536)
    os.set_blocking(writer, True)
    yield reader, writer
    os.close(reader)
    with suppress(OSError):
        os.close(writer)


PROGRAMS = {
    "service": ["market_data.py"],
    "ta-service": ["-m", "consumers.ta_service"],
    "trader-bot": ["-m", "consumers.paper_trader"],
    "dashboard": ["-m", "consumers.dashboard"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_works_on_and_ends_at_once(
    redis_server: RedisServer, exchange: Exchange, full_pipe: tuple[int, int], name: str
) -> None:
    environ = {
        **ENVIRON,
        "REDIS_URL": redis_server.url,
        "BINANCE_BASE_URL": exchange.url,
        "HEALTH_PORT": str(free_port()),
        "DASHBOARD_PORT": str(free_port()),
        "LOG_LEVEL": "DEBUG",
    }
    command = [sys.executable, *PROGRAMS[name]]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=full_pipe[1])
    client = redis_server.client
    try:
        if name == "service":
            until(lambda: len(client.keys("market:ohlcv:*")) == 87, 20)  # type: ignore[arg-type]
        else:
            until(lambda: client.hexists(ALIVE_KEY, name), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5 * PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_what_had_no_room_is_counted(full_pipe: tuple[int, int]) -> None:
    reader, writer = full_pipe
    sink = _Sink(writer)
    sink.setFormatter(LineFormatter())
    for number in range(MAX_WAITING_LINES + 50):
        sink.handle(log.makeRecord(log.name, 20, "", 0, f"line={number}", (), None))
    said = b""
    while f" line={MAX_WAITING_LINES - 1}\n".encode() not in said:
        said += os.read(reader, 65536)
    sink.handle(log.makeRecord(log.name, 20, "", 0, "line=last", (), None))
    while b"line=last\n" not in said:
        said += os.read(reader, 65536)
    sink.flush()
    count, last = said.decode().splitlines()[-2:]
    # One line more may have been taken from the queue before it blocked.
    assert count.endswith(("event=lines_dropped count=49", "event=lines_dropped count=50"))
    assert "level=warning" in count and last.endswith("line=last")
