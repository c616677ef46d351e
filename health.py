"""GET /health, /metrics and /api/v3/ over http.server, and what any small JSON server needs.

Knows nothing of the service: it is handed callables that return its state and answer for the
exchange, and only reads. The dashboard serves its pages with the same handler and server.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

State = Callable[[], tuple[int, dict[str, Any]]]
Api = Callable[[str, str], tuple[int, bytes]]  # of a path and a query: status and JSON
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


class _HealthHandler(JsonHandler):
    server: HealthServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/api/"):
            status, body = self.server.api(path, query)
            self.send_bytes(status, body, "application/json;charset=UTF-8", **NO_WEIGHT)
        elif path == "/health":
            self.send_json(*self.server.state())
        elif path == "/metrics":
            text = metrics(self.server.state()[1])
            self.send_bytes(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self.send_json(404, {"error": "not found", "paths": PATHS})

    do_HEAD = do_GET


PATHS = ["/health", "/metrics", "/api/v3/"]
STATUSES = ("ok", "degraded", "standby", "starting", "down")
# How the exchange refuses: counted from 0, or Prometheus would see no increase by the first one.
REFUSALS = dict.fromkeys(("403", "418", "429", "451"), 0)
# What clients of the exchange look at, to learn how much of its limit they have used.
NO_WEIGHT = {"X-MBX-USED-WEIGHT": "0", "X-MBX-USED-WEIGHT-1M": "0"}


def metrics(health: dict[str, Any]) -> str:
    """The body of /health in the text format of Prometheus, version 0.0.4:
    https://prometheus.io/docs/instrumenting/exposition_formats/"""
    exchange, store, frames = health["exchange"], health["redis"], health["timeframes"]
    parts = {**frames, "price": health["prices"]}
    leads = health["leader"] == health["instance"]
    ages = {name: part["age_s"] for name, part in parts.items() if part["age_s"] is not None}
    lines: list[str] = []

    def add(name: str, kind: str, about: str, samples: Any, label: str = "") -> None:
        lines.append(f"# HELP market_data_{name} {about}\n# TYPE market_data_{name} {kind}")
        for key, value in samples.items() if label else [("", samples)]:
            labels = f"{{{label}={json.dumps(key)}}}" if label else ""
            lines.append(f"market_data_{name}{labels} {float(value)}")

    add("build_info", "gauge", "Always 1.", {health["version"]: 1}, "version")
    add("uptime_seconds", "gauge", "Since the start.", health["uptime_s"])
    add(
        "status",
        "gauge",
        "1 for that of /health, 0 for the others.",
        {status: status == health["status"] for status in STATUSES},
        "status",
    )
    add("leader", "gauge", "Whether this instance fetches.", leads)
    add("problem", "gauge", "1 for each of /health.", dict.fromkeys(health["problems"], 1), "what")
    add("symbols", "gauge", "Symbols that are asked for.", health["symbols"])
    fresh = {name: part["fresh"] for name, part in parts.items()}
    failing = {name: len(part["failing"]) for name, part in parts.items()}
    add("symbols_fresh", "gauge", "Symbols with data younger than its TTL.", fresh, "what")
    add("symbols_failing", "gauge", "Symbols whose last read failed.", failing, "what")
    add("age_seconds", "gauge", "Age of the newest data.", ages, "what")
    for name, about in (("refreshes", "Refreshes."), ("refresh_seconds", "Time spent refreshing.")):
        counts = {frame: of[name] for frame, of in frames.items()}
        add(f"{name}_total", "counter", about, counts, "timeframe")
    add(
        "requests_total",
        "counter",
        "Requests to the exchange, by HTTP status or none.",
        REFUSALS | exchange["requests"],
        "status",
    )
    add("used_weight", "gauge", "Used by this address in a minute.", exchange["used_weight"])
    add("weight_limit", "gauge", "Weight that this program may use.", exchange["weight_limit"])
    add("hold_seconds", "gauge", "Until the exchange may be asked again.", exchange["hold_s"])
    add("redis_up", "gauge", "Whether Redis takes data.", store["up"])
    add("message_log_entries", "gauge", "Length of the message log.", store["message_log_length"])
    add("operations_logged_total", "counter", "Entries written to it.", store["operations_logged"])
    return "\n".join(lines) + "\n"


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


class HealthServer(JsonServer):
    """Serves `state()`, a pair of HTTP status and JSON object, at /health and as /metrics, and what
    `api` answers below /api/."""

    def __init__(self, host: str, port: int, state: State, api: Api) -> None:
        self.state, self.api = state, api
        super().__init__(host, port, _HealthHandler)
