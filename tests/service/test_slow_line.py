"""The service over a slow line to Redis: a transaction takes many seconds, but is sent once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support import RedisServer, Service, until

CHUNK_B = 8192


class SlowLine:
    """A proxy to Redis that passes on `bits_per_s` in each direction of each connection."""

    def __init__(self, to: int, bits_per_s: float) -> None:
        self._to, self._pause_s = to, CHUNK_B * 8 / bits_per_s
        self._listener = socket.socket()
        # Small, else megabytes that the client has sent would wait in the buffer.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * CHUNK_B)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target)).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_B):
                time.sleep(self._pause_s * len(data) / CHUNK_B)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(params=[8e6, 3.2e6], ids=["8 Mbit/s", "3.2 Mbit/s"])
def line(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[SlowLine]:
    slow = SlowLine(redis_server.port, request.param)
    yield slow
    slow.close()


@pytest.mark.slow
def test_its_own_renewals_void_no_transaction(
    line: SlowLine, start_service: Callable[..., Service], redis_server: RedisServer
) -> None:
    """29 symbols are 5 MB: while they are sent, the lease is renewed many times."""
    client: Any = redis_server.client
    service = start_service(REDIS_URL=line.url, LOG_LEVEL="DEBUG")
    service.wait_for("ok", 60)
    until(lambda: len(service.lines("event=refresh timeframe=5m")) >= 2, 60)
    until(lambda: len(client.keys("market:ohlcv:*")) == 87, 30)
    stats: Any = client.info("commandstats")
    commits = len(service.lines("event=refresh"))
    assert stats["cmdstat_exec"]["calls"] <= commits + 1
    assert stats["cmdstat_eval"]["calls"] >= 5  # renewals
    assert not service.lines("event=problem")
    assert service.stop() == 0
