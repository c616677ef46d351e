"""A line between a browser and the dashboard that counts requests and may be cut without a word."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress


class Line:
    """Passes each connection to `port` of this machine on to `target_port`, both ways."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests: list[str] = []  # the path of each
        self.heartbeats = 0
        self._open: list[_Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Pass nothing more on over the connections that are open, and do not close them either:
        both ends go on as if the other had nothing to say. New connections are not affected."""
        for connection in self._open:
            connection.is_cut = True

    def close(self) -> None:
        self._listening.close()
        for connection in self._open:
            connection.close()

    def asked(self, path: str) -> int:
        return self.requests.count(path)

    def streams(self) -> int:
        """How many connections with a stream of events are open."""
        return sum(each.is_stream and not each.is_closed for each in self._open)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                browser, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
                connection = _Connection(browser, server)
                self._open.append(connection)
                for pump in (self._pass_requests, self._pass_answers):
                    threading.Thread(target=pump, args=(connection,), daemon=True).start()

    def _pass_requests(self, connection: _Connection) -> None:
        for data in connection.pump(connection.browser, connection.server):
            paths = re.findall(rb"^GET (\S+) HTTP", data, re.MULTILINE)
            self.requests += [path.decode() for path in paths]
            connection.is_stream |= b"/api/events" in paths

    def _pass_answers(self, connection: _Connection) -> None:
        for data in connection.pump(connection.server, connection.browser):
            self.heartbeats += data.count(b"event: heartbeat\n")


class _Connection:
    is_stream = False
    is_cut = False
    is_closed = False

    def __init__(self, browser: socket.socket, server: socket.socket) -> None:
        self.browser, self.server = browser, server

    def pump(self, source: socket.socket, sink: socket.socket) -> Iterator[bytes]:
        """Pass on what comes until either end closes; yields it before."""
        with suppress(OSError):
            while data := source.recv(65_536):
                if not self.is_cut:
                    yield data
                    sink.sendall(data)
        self.close()

    def close(self) -> None:
        self.is_closed = True
        for end in (self.browser, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
