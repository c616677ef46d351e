"""GET /health over http.server, and what any small JSON server needs.

Knows nothing of the service: it is handed a callable that returns the state, and only reads.
The dashboard serves its pages with the same handler and server.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

State = Callable[[], tuple[int, dict[str, Any]]]
IDLE_TIMEOUT_S = 5.0  # for a client that connects and says nothing, or reads nothing
MAX_CONNECTIONS = 100  # each has a thread; for one more the oldest that has asked nothing goes


OWN_NAMES = {"localhost", socket.gethostname().lower()}


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, errors too; writes no access log."""

    server: JsonServer
    timeout = IDLE_TIMEOUT_S
    server_version, sys_version = "coinex-market-data", ""
    indent: int | None = 2  # spaces, for the eye; None is ten times faster

    def parse_request(self) -> bool:
        """Refuses what was not meant for this machine: a page of another site whose name was made
        to point here (DNS rebinding) sends that name as Host."""
        if not super().parse_request():
            return False
        self.server.request_came(self.connection)
        host = re.sub(r":[0-9]+$", "", self.headers.get("Host", "localhost")).lower()
        if re.fullmatch(r"[0-9.]+|\[[0-9a-f:.]+\]", host) or host in OWN_NAMES:
            return True
        self.send_json(421, {"error": f"{host!r} is no name of this machine; use its address"})
        self.close_connection = True
        return False

    def send_json(self, status: int, body: dict[str, Any], **headers: str) -> None:
        text = json.dumps(body, indent=self.indent, allow_nan=False)
        self.send_bytes(status, f"{text}\n".encode(), "application/json", **headers)

    def send_bytes(self, status: int, payload: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself finds wrong; a method without a do_ function comes as 501."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self.send_json(405, {"error": f"{self.command} is not allowed"}, Allow="GET, HEAD")
        else:
            self.send_json(code, {"error": message or HTTPStatus(code).phrase})
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a monitor that asks every second is no news."""


class _HealthHandler(JsonHandler):
    server: HealthServer

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/health":
            self.send_json(*self.server.state())
        else:
            self.send_json(404, {"error": "not found", "paths": ["/health"]})

    do_HEAD = do_GET


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
        self._silent: dict[socket.socket, None] = {}  # have sent no request yet; the oldest first
        self._connections = 0
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)
        self._thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if self.address_family == socket.AF_INET6 else host
        return f"http://{name!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keeps to MAX_CONNECTIONS, and for a new one lets go of one that says nothing: who means
        to occupy this server must work for it, and who asks is answered."""
        with self._lock:
            full = self._connections >= MAX_CONNECTIONS
            idle = next(iter(self._silent), None) if full else None
            if idle:
                del self._silent[idle]
            if not full or idle:
                self._connections += 1
                self._silent[request] = None
        if full and not idle:
            self.shutdown_request(request)
            return
        if idle:
            with suppress(OSError):
                idle.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends
        super().process_request(request, client_address)

    def request_came(self, request: socket.socket) -> None:
        with self._lock:
            self._silent.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._silent.pop(request, None)
                self._connections -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off is no news; anything else is a bug."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HealthServer(JsonServer):
    """Serves `state()`, a pair of HTTP status and JSON object, at /health."""

    def __init__(self, host: str, port: int, state: State) -> None:
        self.state = state
        super().__init__(host, port, _HealthHandler)
