"""rediss://: the service and a consumer on a Redis behind TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from consumers.market_cache import ALIVE_KEY
from tests.support import Program, RedisServer, Service, until

Start = Callable[..., Service]


def relay(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError), one, other:
        while data := one.recv(65536):
            other.sendall(data)


@pytest.fixture
def tls_port(redis_server: RedisServer, certificates: tuple[Path, Path, Path]) -> Iterator[int]:
    """Where TLS is spoken, and passed on to `redis_server` in plain: not every server has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates[1:])
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            secured = context.wrap_socket(connection, server_side=True)
            plain = socket.create_connection(("127.0.0.1", redis_server.port))
            threading.Thread(target=relay, args=(plain, secured), daemon=True).start()
            relay(secured, plain)

    threading.Thread(target=accept, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.close()


@pytest.mark.parametrize("named_by", ["url", "SSL_CERT_FILE"])
def test_the_service_fills_it(
    start_service: Start,
    redis_server: RedisServer,
    tls_port: int,
    certificates: tuple[Path, Path, Path],
    named_by: str,
) -> None:
    options = f"?ssl_ca_certs={certificates[0]}" if named_by == "url" else ""
    environ = {} if named_by == "url" else {named_by: str(certificates[0])}
    once = start_service("--once", REDIS_URL=f"rediss://127.0.0.1:{tls_port}/0{options}", **environ)
    assert once.process.wait(60) == 0
    assert len(redis_server.client.keys("market:ohlcv:*")) == 87  # type: ignore[arg-type]


def test_a_consumer_lives_off_it(
    start_consumer: Callable[..., Program],
    redis_server: RedisServer,
    tls_port: int,
    certificates: tuple[Path, Path, Path],
) -> None:
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificates[0]}"
    start_consumer("ta_service", REDIS_URL=url)
    until(lambda: redis_server.client.hexists(ALIVE_KEY, "ta-service"), 20)


def test_a_certificate_that_nobody_trusts_is_refused(start_service: Start, tls_port: int) -> None:
    service = start_service(REDIS_URL=f"rediss://127.0.0.1:{tls_port}/0")
    until(lambda: service.lines("event=problem what=redis"), 20)
    assert "certificate verify failed" in service.lines("event=problem what=redis")[0]
