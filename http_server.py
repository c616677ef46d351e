"""A small JSON server on http.server, with a bounded number of connections.

Knows nothing of the service; the dashboard serves its pages with it too.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from journal import event

# How long a client may say nothing before its first request, or in the middle of one.
IDLE_TIMEOUT_S = 5.0
# How long a client may say nothing between two requests: longer than most monitors' intervals.
KEEP_ALIVE_S = 75.0
# Each connection has a thread. When full, the one that has been idle longest is evicted.
MAX_CONNECTIONS = 100
# Names that a client may send as Host, besides addresses.
OWN_NAMES = {"localhost", socket.gethostname().lower()}


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, errors too; writes no access log."""

    server: JsonServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # without it, a body may wait 40 ms for the ACK of its head
    timeout = IDLE_TIMEOUT_S
    server_version, sys_version = "coinex-market-data", ""
    indent: int | None = 2  # spaces, to be read by people; None is ten times faster

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if not self.close_connection:
            self.connection.settimeout(KEEP_ALIVE_S)
            self.server.request_over(self.connection)

    def parse_request(self) -> bool:
        """Refuse requests that were not meant for this machine: after DNS rebinding, a page of
        another site sends the name of that site as Host."""
        self.connection.settimeout(self.timeout)
        if not super().parse_request():
            return False
        self.server.request_came(self.connection)
        if self.headers.defects:  # some headers were not read; Host may be one of them
            self.send_error(HTTPStatus.BAD_REQUEST, "Malformed headers")
            return False
        body = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        if body or self.request_version != "HTTP/1.1":
            self.close_connection = True  # the body is not read, and must not be the next request
        host = re.sub(r":[0-9]+$", "", self.headers.get("Host", "localhost")).lower()
        if re.fullmatch(r"[0-9.]+|\[[0-9a-f:.]+\]", host) or host in self.server.names:
            return True
        self.close_connection = True
        what = f"{host!r} is no name of this machine; use its address, or set ALLOWED_HOSTS"
        self.send_json(421, {"error": what})
        return False

    def send_json(self, status: int, body: dict[str, Any], **headers: str) -> None:
        text = json.dumps(body, indent=self.indent, allow_nan=False)
        self.send_bytes(status, f"{text}\n".encode(), "application/json", **headers)

    def send_bytes(self, status: int, payload: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(payload)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {"Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses. A method without a do_ function comes as 501."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self.send_json(405, {"error": f"{self.command} is not allowed"}, Allow="GET, HEAD")
        else:
            self.send_json(code, {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a monitor asks every second."""


class JsonServer(ThreadingHTTPServer):
    """Serves requests with `handler` at http://host:port, a thread each. `names` are further names
    that a client may send as Host, say those of a reverse proxy.

    Listens at once (OSError if it cannot), answers between `start` and `stop`.
    """

    daemon_threads = True  # so an idle client does not delay the end of the program
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, handler: type[JsonHandler], names: Iterable[str] = ()
    ) -> None:
        self.names = OWN_NAMES.union(names)
        # Guards _idle and _connections: the accepting thread adds, request threads remove.
        self._lock = threading.Lock()
        self._idle: dict[socket.socket, None] = {}  # connections without a request, oldest first
        self._connections = 0
        self._short_of_threads = False  # only used by the accepting thread
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)
        forever = partial(self.serve_forever, poll_interval=3600.0)  # stop() wakes it
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
            self._thread.join()  # so that a second stop() finds it ended
        with self._lock:
            self.server_close()
            idle = list(self._idle)
        for connection in idle:
            _shut_down(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """When full, evict the connection that has been idle longest, so idle clients cannot lock
        out active ones."""
        with self._lock:
            full = self._connections >= MAX_CONNECTIONS
            oldest = next(iter(self._idle), None) if full else None
            self._connections += 1
            if oldest:
                del self._idle[oldest]
            self._idle[request] = None
        if full and not oldest:
            self.shutdown_request(request)
            return
        if oldest:
            _shut_down(oldest)
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:  # the system has no thread left
            self.shutdown_request(request)
            if not self._short_of_threads:
                event(logging.WARNING, "requests_refused", reason=error)
            self._short_of_threads = True
            return
        self._short_of_threads = False

    def request_came(self, request: socket.socket) -> None:
        with self._lock:
            self._idle.pop(request, None)

    def request_over(self, request: socket.socket) -> None:
        with self._lock:
            self._idle[request] = None
            stopped = self.fileno() < 0
        if stopped:  # stop() did not see this connection among the idle ones
            _shut_down(request)

    def shutdown_request(self, request: Any) -> None:
        """Called once a connection, even if no thread could be started for it."""
        with self._lock:
            self._idle.pop(request, None)
            self._connections -= 1
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that broke off; anything else is a bug."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends
