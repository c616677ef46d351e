"""The HTTP server of the simulated exchange: connections, TLS, and the bytes of replies.

What the replies say is up to `demo.exchange`.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from demo import faults
from demo.faults import Fault, Reply


class Options(NamedTuple):
    """How connections are served: in plain text unless there is `tls`; closed after `close_after`
    answers and after `idle_s` seconds without a request, where None is no bound."""

    tls: ssl.SSLContext | None = None
    close_after: int | None = None
    idle_s: float | None = None


class Site(Protocol):
    """What a server serves."""

    def serve(
        self, method: str, path: str, query: str, address: str
    ) -> tuple[Reply, Fault | None]: ...

    def control(self, method: str, path: str, query: str, body: bytes) -> Reply: ...

    def count_connection(self) -> None: ...

    def count_client(self, name: str) -> None: ...

    def count_bytes(self, sent: int) -> None: ...


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, and writes the site's replies."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body after its head may wait 40 ms for an ACK
    server: Server
    answers = 0

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.options.idle_s)
        if isinstance(self.connection, ssl.SSLSocket):
            # Only here, in the connection's own thread: a client that never shakes hands would
            # keep the accepting one from all others.
            self.connection.do_handshake()

    def answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if url.path.startswith("/sim/"):
                reply = self.server.site.control(self.command, url.path, url.query, body)
                self._close_if_last(reply)
                self.wfile.write(reply.head() + reply.body)
            else:
                self._answer_api(url.path, url.query)
        except OSError:
            self.close_connection = True  # the client is gone

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def _answer_api(self, path: str, query: str) -> None:
        site = self.server.site
        site.count_client(self.headers.get("User-Agent", ""))
        reply, fault = site.serve(self.command, path, query, self.client_address[0])
        self._close_if_last(reply)
        if fault:
            self.close_connection = True
            chunks = faults.sent(reply, fault, self.connection)
        else:
            chunks = iter([reply.head() + reply.body])
        for chunk in chunks:
            self.wfile.write(chunk)
            site.count_bytes(len(chunk))

    def _close_if_last(self, reply: Reply) -> None:
        self.answers += 1
        if self.answers == self.server.options.close_after:
            reply.headers["Connection"] = "close"
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the log."""


class Server(ThreadingHTTPServer):
    """Serves in its own thread, and tracks open connections so that `stop` can close them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], site: Site, options: Options) -> None:
        self.site, self.options = site, options
        # Guards _open: the accepting thread adds, connection threads remove.
        self._open_lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="exchange", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            # Wakes the thread that is blocked on the socket, which then closes it. (SSLSocket's own
            # `shutdown` would also take the TLS state from under that thread.)
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.site.count_connection()
        if self.options.tls:
            connection = self.options.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        with self._open_lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        if isinstance(request, ssl.SSLSocket):
            # Says goodbye in TLS, too, but waits for no reply.
            with suppress(OSError, ValueError):
                request.settimeout(0)
                request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up; print any other error, which is a defect."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
