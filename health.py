"""GET /health over http.server, and what any small JSON server needs.

Knows nothing of the service: it is handed a callable that returns the state, and only reads.
The dashboard serves its pages with the same handler and server.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

State = Callable[[], tuple[int, dict[str, Any]]]
IDLE_TIMEOUT_S = 5.0  # for a client that connects and says nothing, or reads nothing


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, errors too; writes no access log."""

    timeout = IDLE_TIMEOUT_S
    server_version, sys_version = "coinex-market-data", ""
    indent: int | None = 2  # spaces, for the eye; None is ten times faster

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

    def __init__(self, host: str, port: int, handler: type[JsonHandler]) -> None:
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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off is no news; anything else is a bug."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HealthServer(JsonServer):
    """Serves `state()`, a pair of HTTP status and JSON object, at /health."""

    def __init__(self, host: str, port: int, state: State) -> None:
        self.state = state
        super().__init__(host, port, _HealthHandler)
