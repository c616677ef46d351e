"""The health server over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

import http_server
from health import HealthServer
from tests.support import no_api


@pytest.fixture
def state() -> dict[str, Any]:
    return {"status": 200, "body": {"status": "ok"}}


@pytest.fixture
def server(state: dict[str, Any]) -> Iterator[HealthServer]:
    running = HealthServer("127.0.0.1", 0, lambda: (state["status"], state["body"]), no_api)
    running.start()
    yield running
    running.stop()


def ask(server: HealthServer, method: str, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer, answer.read()


def test_answers_the_state_with_its_status(server: HealthServer, state: dict[str, Any]) -> None:
    answer, body = ask(server, "GET", "/health?verbose=1")
    assert (answer.status, json.loads(body)) == (200, {"status": "ok"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    state |= {"status": 503, "body": {"status": "down"}}
    answer, body = ask(server, "GET", "/health")
    assert (answer.status, json.loads(body)) == (503, {"status": "down"})


def test_head_has_no_body(server: HealthServer) -> None:
    answer, body = ask(server, "HEAD", "/health")
    assert (answer.status, body) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/healthy", "/health/x", "/../etc/passwd", "/%00"])
def test_an_unknown_path_is_404_in_json(server: HealthServer, path: str) -> None:
    answer, body = ask(server, "GET", path)
    assert answer.status == 404 and json.loads(body)["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_a_wrong_method_is_405_in_json(server: HealthServer, method: str) -> None:
    answer, body = ask(server, method, "/health")
    assert answer.status == 405 and json.loads(body)["error"]
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_is_refused_and_harms_nobody(
    server: HealthServer, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(server.server_address[:2], timeout=5) as sock:
        sock.sendall(sent)
        assert sock.recv(100)[:9] in (b"HTTP/1.1 ", b'{\n  "erro')
    assert ask(server, "GET", "/health")[0].status == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("idle_timeout_s", [600, 0.2], ids=["hold up nobody", "are cut off"])
def test_idle_clients(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch, idle_timeout_s: float
) -> None:
    monkeypatch.setattr(http_server.JsonHandler, "timeout", idle_timeout_s)
    idle = [socket.create_connection(server.server_address[:2], timeout=20) for _ in range(20)]
    idle[0].sendall(b"GET /heal")
    assert ask(server, "GET", "/health")[0].status == 200
    for sock in idle:
        assert idle_timeout_s > 1 or sock.recv(1) == b""  # closed by the server
        sock.close()


def test_a_port_in_use_is_an_os_error(server: HealthServer) -> None:
    with pytest.raises(OSError, match="in use"):
        HealthServer("127.0.0.1", server.server_address[1], dict, no_api)  # type: ignore[arg-type]


def test_a_bug_in_the_state_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    running = HealthServer("127.0.0.1", 0, lambda: 1 / 0, no_api)  # type: ignore[arg-type, return-value]
    running.start()
    with pytest.raises(http.client.RemoteDisconnected):
        ask(running, "GET", "/health")
    running.stop()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_stop_wakes_up_a_server_that_waits_for_clients() -> None:
    running = HealthServer("127.0.0.1", 0, dict, no_api)  # type: ignore[arg-type]
    running.start()
    time.sleep(0.1)  # so that it waits; if it does not yet, this proves nothing but still passes
    running.stop()  # must not wait forever
    assert not running._thread.is_alive()


def test_stop_without_start_frees_the_port() -> None:
    first = HealthServer("127.0.0.1", 0, dict, no_api)  # type: ignore[arg-type]
    port = first.server_address[1]
    first.stop()
    HealthServer("127.0.0.1", port, dict, no_api).stop()  # type: ignore[arg-type]
