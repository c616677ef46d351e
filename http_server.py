"""A small JSON server on http.server: connections that are bounded in number and in silence.

Knows nothing of the service; the dashboard serves its pages with it too.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

IDLE_TIMEOUT_S = 5.0  # for a client that connects and says nothing, or reads nothing
KEEP_ALIVE_S = 75.0  # until its next request, for one that has been answered
MAX_CONNECTIONS = 100  # each has a thread; for one more that which is silent the longest goes
OWN_NAMES = {"localhost", socket.gethostname().lower()}


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, errors too; writes no access log."""

    server: JsonServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body may wait 40 ms for its head's ACK
    timeout = IDLE_TIMEOUT_S
    server_version, sys_version = "coinex-market-data", ""
    indent: int | None = 2  # spaces, for the eye; None is ten times faster

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if not self.close_connection:
            self.connection.settimeout(KEEP_ALIVE_S)
            self.server.request_over(self.connection)

    def parse_request(self) -> bool:
        """Refuses what was not meant for this machine: a page of another site whose name was made
        to point here (DNS rebinding) sends that name as Host."""
        self.connection.settimeout(self.timeout)
        if not super().parse_request():
            return False
        self.server.request_came(self.connection)
        if self.headers.defects:  # then not all of them were read, perhaps not Host
            self.send_error(HTTPStatus.BAD_REQUEST, "Malformed headers")
            return False
        body = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        if body or self.request_version != "HTTP/1.1":
            self.close_connection = True  # nobody here reads a body, and it is no next request
        host = re.sub(r":[0-9]+$", "", self.headers.get("Host", "localhost")).lower()
        if re.fullmatch(r"[0-9.]+|\[[0-9a-f:.]+\]", host) or host in OWN_NAMES:
            return True
        self.close_connection = True
        self.send_json(421, {"error": f"{host!r} is no name of this machine; use its address"})
        return False

    def send_json(self, status: int, body: dict[str, Any], **headers: str) -> None:
        text = json.dumps(body, indent=self.indent, allow_nan=False)
        self.send_bytes(status, f"{text}\n".encode(), "application/json", **headers)

    def send_bytes(self, status: int, payload: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself finds wrong; a method without a do_ function comes as 501."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self.send_json(405, {"error": f"{self.command} is not allowed"}, Allow="GET, HEAD")
        else:
            self.send_json(code, {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a monitor that asks every second is no news."""


class JsonServer(ThreadingHTTPServer):
    """Serves requests with `handler` at http://host:port, a thread each.

    Listens at once (OSError if it cannot), answers between `start` and `stop`.
    """

    daemon_threads = True  # an idle client must not hold up the end of the program
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[JsonHandler]) -> None:
        # Guards _silent and _connections: the accepting thread adds, those of requests remove.
        self._lock = threading.Lock()
        self._silent: dict[socket.socket, None] = {}  # have asked nothing since; the longest first
        self._connections = 0
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)
        forever = partial(self.serve_forever, poll_interval=3600.0)  # `stop` wakes it up
        self._thread = threading.Thread(target=forever, name="http", daemon=True)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if self.address_family == socket.AF_INET6 else host
        return f"http://{name!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.socket.shutdown(socket.SHUT_RDWR)
            self.shutdown()
        with self._lock:
            self.server_close()
            silent = list(self._silent)
        for connection in silent:
            _let_go(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keeps to MAX_CONNECTIONS, and for a new one lets go of one that says nothing: who means
        to occupy this server must work for it, and who asks is answered."""
        with self._lock:
            full = self._connections >= MAX_CONNECTIONS
            idle = next(iter(self._silent), None) if full else None
            self._connections += 1
            if idle:
                del self._silent[idle]
            self._silent[request] = None
        if full and not idle:
            self.shutdown_request(request)
            return
        if idle:
            _let_go(idle)
        super().process_request(request, client_address)

    def request_came(self, request: socket.socket) -> None:
        with self._lock:
            self._silent.pop(request, None)

    def request_over(self, request: socket.socket) -> None:
        with self._lock:
            self._silent[request] = None
            stopped = self.fileno() < 0
        if stopped:  # after `stop` had looked who is silent
            _let_go(request)

    def shutdown_request(self, request: Any) -> None:
        """Called once for each connection, also where no thread could be started for it."""
        with self._lock:
            self._silent.pop(request, None)
            self._connections -= 1
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off is no news; anything else is a bug."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _let_go(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends
