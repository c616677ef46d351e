"""The client over real sockets: servers that are silent or slow, or that close connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from binance_answers import (
    BadResponse,
    BinanceError,
    Candles,
    RateLimited,
    Rejected,
    Retryable,
    parse_klines,
)
from binance_client import BinanceClient
from rate_limiter import RateLimiter
from tests.candles import NOW_MS as NOW
from tests.candles import row

BASE = "https://api.binance.us"


# Three tries of half a second should suffice; a busy machine gets more, but less than the time for
# which the servers here stay silent.
GIVES_UP_S = 20


class TestSockets:
    """What only a real socket shows; the server sends the given bytes and keeps the connection."""

    @staticmethod
    def ask(
        answer: bytes, drip_s: float = 0.0, timeout_s: float = 0.5, give_up_in_s: float = 1000
    ) -> tuple[BinanceError, float]:
        listener = socket.create_server(("127.0.0.1", 0))
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=[connection], daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection:
                connection.recv(65536)
                try:
                    for part in [answer] if not drip_s else [bytes([b]) for b in answer]:
                        connection.sendall(part)
                        if drip_s:
                            done.wait(drip_s)
                    done.wait(60)  # much longer than the client may wait
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        client = BinanceClient(
            f"http://127.0.0.1:{port}", RateLimiter(), timeout_s=timeout_s, wait=lambda _: False
        )
        started = time.monotonic()
        try:
            with pytest.raises(BinanceError) as raised:
                client.klines("BTCUSDT", "5m", 3, started + give_up_in_s)
            return raised.value, time.monotonic() - started
        finally:
            done.set()
            listener.close()

    def test_a_server_that_never_answers(self) -> None:
        error, seconds = self.ask(b"")
        assert isinstance(error, Retryable) and "in time" in str(error)
        assert seconds < GIVES_UP_S

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 5000,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 4000,
        ],
        ids=["headers", "body"],
    )
    def test_a_server_that_drips(self, answer: bytes) -> None:
        error, seconds = self.ask(answer, drip_s=0.02)
        assert isinstance(error, Retryable) and "no whole answer in time" in str(error)
        assert seconds < GIVES_UP_S

    def test_an_answer_without_end_is_cut_at_the_size_bound(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n"
        error, _ = self.ask(head + b" " * 11_000_000, timeout_s=5)
        assert isinstance(error, BadResponse) and "larger than" in str(error)

    @pytest.mark.parametrize("status", [b"418 Banned", b"429 Too Many", b"403 Forbidden"])
    def test_a_limit_counts_even_if_its_body_never_comes(self, status: bytes) -> None:
        head = b"HTTP/1.1 " + status + b"\r\nRetry-After: 120\r\nContent-Length: 500\r\n\r\n"
        error, seconds = self.ask(head, give_up_in_s=60)
        assert isinstance(error, RateLimited) and error.retry_in_s == pytest.approx(120, abs=1)
        assert seconds < GIVES_UP_S

    @pytest.mark.parametrize("location", [b"http://[::1", b"\xff\xfe", b"http://127.0.0.1:1/"])
    def test_a_redirect_is_neither_followed_nor_looked_at(self, location: bytes) -> None:
        head = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 2\r\n\r\n{}"
        error, _ = self.ask(head)
        assert isinstance(error, Rejected) and "redirects are not followed" in str(error)

    @pytest.mark.parametrize("status", [b"103 Early Hints", b"204 No Content", b"304 Not Modified"])
    def test_an_answer_that_comes_after_one_without_body_is_nobody_s(self, status: bytes) -> None:
        """Otherwise the next request on that connection would take it for its own answer."""
        body = json.dumps([row()]).encode()
        late = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                with suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        kept.append(connection)
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n" + late)

            kept: list[socket.socket] = []
            threading.Thread(target=serve, daemon=True).start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            client = BinanceClient(url, RateLimiter(), wait=lambda _: False)
            for _ in range(2):
                with pytest.raises(Rejected, match=status[:3].decode()):
                    client.klines("BTCUSDT", "5m", 1)
            assert len(kept) == 2
            for connection in kept:
                connection.close()

    def test_a_broken_answer_can_be_tried_again(self) -> None:
        error, _ = self.ask(b"nonsense\r\n\r\n")
        assert isinstance(error, Retryable)


def parse(rows: Any, now_ms: int = NOW) -> Candles:
    return parse_klines(json.dumps(rows, separators=(",", ":")).encode(), "5m", now_ms)
