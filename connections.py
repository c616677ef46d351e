"""Connections to the exchange on which every answer ends in time."""

from __future__ import annotations

import io
import time
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection


class _BoundedAnswer(io.RawIOBase):
    """One answer, which must arrive whole within the socket's timeout. The socket itself restarts
    its timeout with every byte, so a server that drips bytes would hold a worker for ever.

    HTTPResponse takes this for the socket.
    """

    def __init__(self, sock: Any) -> None:
        super().__init__()
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._give_up_at = time.monotonic() + sock.gettimeout()

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._give_up_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left_s)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """Closes the connection after any status but 200: after a 1xx another answer follows, which
    the next request would take for its own."""

    def begin(self) -> None:
        super().begin()
        self.will_close = self.will_close or self.status != 200


def _bounded(sock: Any, **kwargs: Any) -> HTTPResponse:
    answer: Any = _BoundedAnswer(sock)
    return _Answer(answer, **kwargs)


class _HTTPConnection(HTTPConnection):
    response_class: Any = staticmethod(_bounded)


class _HTTPSConnection(HTTPSConnection):
    response_class: Any = staticmethod(_bounded)


class BoundedAdapter(HTTPAdapter):
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _HTTPSConnection if pool.scheme == "https" else _HTTPConnection
        return pool
