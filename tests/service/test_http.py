"""Robust HTTP: health server and dashboard under hostile clients."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest

import http_server
from health import HealthServer
from tests.support import Program, RedisServer, Service, free_port, no_api, until

FAST = {"TIMEFRAMES": "5m:2:20,1h:3:30", "SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT"}


@pytest.fixture
def server() -> Iterator[HealthServer]:
    running = HealthServer("127.0.0.1", 0, lambda: (200, {"status": "ok"}), no_api)
    running.start()
    yield running
    running.stop()


def talk(port: int, sent: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(sent)
        with suppress(OSError):  # the server may have closed it already
            sock.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        return received


def get(port: int, path: str, host: str | None = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "127.0.0.1:8895",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8895",
            "192.0.2.7:80",
            socket.gethostname(),
        ],
    )
    def test_addresses_and_names_of_this_machine_are_answered(
        self, server: HealthServer, host: str
    ) -> None:
        assert get(server.server_address[1], "/health", host)[0] == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8895",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "a@127.0.0.1",
            "[evil]",
        ],
    )
    def test_the_name_of_another_site_is_refused(self, server: HealthServer, host: str) -> None:
        status, body = get(server.server_address[1], "/health", host)
        assert status == 421 and "use its address" in body["error"]

    def test_names_that_are_allowed_are_answered(self) -> None:
        names = ("trader.example", "box.local")
        server = HealthServer("127.0.0.1", 0, lambda: (200, {}), no_api, names)
        server.start()
        port = server.server_address[1]
        try:
            assert [get(port, "/health", f"{name}:80")[0] for name in names] == [200, 200]
            assert get(port, "/health", "example")[0] == 421
        finally:
            server.stop()

    def test_no_host_at_all_is_an_old_client(self, server: HealthServer) -> None:
        answer = talk(server.server_address[1], b"GET /health HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


class TestManyClients:
    def test_those_who_say_nothing_make_room_for_who_asks(
        self, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_server.JsonHandler, "timeout", 600)
        port = server.server_address[1]
        with ExitStack() as stack:
            idle = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(300)
            ]
            idle[-1].sendall(b"GET /hea")
            for _ in range(20):
                assert get(port, "/health")[0] == 200
            assert threading.active_count() < http_server.MAX_CONNECTIONS + 50
            idle[0].settimeout(5)
            assert idle[0].recv(1) == b""  # evicted, the oldest first

    def test_who_has_asked_is_not_let_go_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
        asked, go_on = threading.Semaphore(0), threading.Event()

        def state() -> tuple[int, dict[str, Any]]:
            asked.release()
            go_on.wait(10)
            return 200, {"status": "ok"}

        server = HealthServer("127.0.0.1", 0, state, no_api)
        server.start()
        port = server.server_address[1]
        answers: list[bytes] = []
        request = b"GET /health HTTP/1.0\r\n\r\n"
        threads = [
            threading.Thread(target=lambda: answers.append(talk(port, request))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
            asked.acquire(timeout=5)
        with pytest.raises((ConnectionError, AssertionError)):
            assert talk(port, request)  # one too many: closed without an answer
        go_on.set()
        for thread in threads:
            thread.join(5)
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 2
        until(lambda: get(port, "/health")[0] == 200, 5)
        server.stop()


def answers(received: bytes) -> list[bytes]:
    """The status lines received over one connection."""
    return [part.split(b"\r\n")[0] for part in received.split(b"HTTP/1.1 ")[1:]]


class TestKeptConnections:
    def test_many_requests_go_over_one(self, server: HealthServer) -> None:
        received = talk(server.server_address[1], b"GET /health HTTP/1.1\r\n\r\n" * 50)
        assert answers(received) == [b"200 OK"] * 50

    @pytest.mark.parametrize(
        "first",
        [
            b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"GET /health HTTP/1.0\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: evil\r\n\r\n",
            b"PUT /health HTTP/1.1\r\n\r\n",
            b"GET /health HTTP/1.1\r\nContent-Length: 31\r\n\r\n",
            b"GET /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /health HTTP/1.1\r\ncontent-LENGTH: 31\r\n\r\n",
            b"HEAD /health HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET /health HTTP/1.1\r\nContent-Length : 31\r\nHost: evil\r\n\r\n",
        ],
    )
    def test_what_may_be_followed_by_a_body_is_the_last(
        self, server: HealthServer, first: bytes
    ) -> None:
        """An unread body must not be taken for a request."""
        received = talk(server.server_address[1], first + b"GET /smuggled HTTP/1.1\r\n\r\n")
        assert len(answers(received)) == 1 and b"\r\nConnection: close\r\n" in received

    def test_headers_that_hide_others_are_refused(self, server: HealthServer) -> None:
        request = b"GET /health HTTP/1.1\r\nno header\r\nHost: evil.example\r\n\r\n"
        assert answers(talk(server.server_address[1], request)) == [b"400 Bad Request"]

    def test_a_thread_that_cannot_be_started_takes_no_place(
        self,
        server: HealthServer,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
        port = server.server_address[1]
        with monkeypatch.context() as without_threads:

            def fail(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            without_threads.setattr(threading.Thread, "start", fail)
            for _ in range(4):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                    assert sock.recv(1) == b""
        both = [http.client.HTTPConnection("127.0.0.1", port, timeout=5) for _ in range(2)]
        for kept in both:
            kept.request("GET", "/health")
            assert kept.getresponse().read()
        assert caplog.messages == ['event=requests_refused reason="can\'t start new thread"']
        assert capfd.readouterr().err == ""

    def test_who_is_silent_the_longest_makes_room(
        self, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)
        port = server.server_address[1]
        kept = [http.client.HTTPConnection("127.0.0.1", port, timeout=5) for _ in range(3)]
        silent = server._idle
        for connection, all_silent in zip((*kept, kept[0]), (1, 2, 3, 3), strict=True):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            until(lambda count=all_silent: len(silent) == count, 5)  # now the second is the oldest
        assert get(port, "/health")[0] == 200
        assert kept[1].sock.recv(1) == b""
        kept[0].request("GET", "/health")
        assert kept[0].getresponse().status == 200

    def test_they_end_with_the_server(self, server: HealthServer) -> None:
        kept = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        kept.request("GET", "/health")
        kept.getresponse().read()
        server.stop()
        assert kept.sock.recv(1) == b""

    def test_one_that_was_being_answered_ends_with_it_too(
        self, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over, stopped = server.request_over, threading.Event()

        def late(request: socket.socket) -> None:
            assert stopped.wait(5)
            over(request)

        monkeypatch.setattr(server, "request_over", late)
        kept = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        kept.request("GET", "/health")
        kept.getresponse().read()
        server.stop()
        stopped.set()
        assert kept.sock.recv(1) == b""

    def test_a_silent_one_is_closed_in_the_end(
        self, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 0.3)
        kept = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        for _ in range(2):
            kept.request("GET", "/health")
            kept.getresponse().read()
        assert kept.sock.recv(1) == b""


NONSENSE = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET /health HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
    b"GET /%00%ff%zz?limit=%zz HTTP/1.1\r\n\r\n",
    b"TRACE / HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"X: " + b"x" * 65_536 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET http://evil/ HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n" * 50,
    b"POST /health HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["service", "dashboard"])
def test_a_storm_disturbs_nothing(
    start_service: Callable[..., Service],
    start_consumer: Callable[..., Program],
    redis_server: RedisServer,
    which: str,
) -> None:
    """300 idle connections, malformed requests, and 200 requests a second for 30 s, all at once:
    each request is answered, refreshes go on, threads and memory stay bounded."""
    service = start_service(**FAST)
    service.wait_for("ok")
    program: Program = service
    port, path = service.port, "/health"
    if which == "dashboard":
        port, path = free_port(), "/api/scanner"
        program = start_consumer("dashboard", DASHBOARD_PORT=str(port))
        until(lambda: program.lines("event=start"), 10)
    process = psutil.Process(program.process.pid)
    memory, threads = process.memory_info().rss, 0
    statuses: list[int] = []
    asking: list[Future[None]] = []
    improper: list[bytes] = []
    over = threading.Event()

    def talk_nonsense() -> None:
        while not over.is_set():
            for sent in NONSENSE:
                with suppress(ConnectionError):
                    answer = talk(port, sent)
                    if answer and not answer.startswith((b"HTTP/1.1 ", b"{")):
                        improper.append(sent)

    def ask(due_at: Iterator[float]) -> None:
        for at in due_at:
            time.sleep(max(0.0, at - time.monotonic()))
            statuses.append(get(port, path)[0])

    refreshes = len(service.lines("timeframe=5m"))
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        nonsense = threading.Thread(target=talk_nonsense)
        nonsense.start()
        started = time.monotonic()
        with ThreadPoolExecutor(8) as clients:
            for first in range(8):
                due = (started + count / 200 for count in range(first, 6000, 8))
                asking.append(clients.submit(ask, due))
            while not all(job.done() for job in asking):
                threads = max(threads, process.num_threads())
                time.sleep(0.1)
        over.set()
        nonsense.join(30)
    for job in asking:
        job.result()  # raises if an answer did not come
    assert set(statuses) == {200} and len(statuses) == 6000
    assert not improper
    assert threads < http_server.MAX_CONNECTIONS + 80
    assert process.memory_info().rss - memory < 40e6
    done = len(service.lines("timeframe=5m")) - refreshes
    assert done >= 5
    assert not program.lines("Traceback")
    assert get(service.port, "/health")[1]["status"] == "ok"
