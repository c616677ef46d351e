"""Connecting to the first of a name's addresses that answers, within one bound for all of them.

Not bounded is resolving a name, which only the resolver's own timeouts end.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

# How long an address may be silent before the next is tried as well (RFC 8305, section 5).
ATTEMPT_DELAY_S = 0.25
# Reasons may quote what a server sent.
MAX_REASON = 200

# An entry of socket.getaddrinfo.
Address = tuple[Any, Any, int, str, Any]


def resolve(host: str, port: int) -> list[Address]:
    try:
        return socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a label is too long
        raise OSError(f"the name {host} does not resolve: {text_of(error)}") from error


def interleaved(addresses: list[Address]) -> Iterator[Address]:
    """In turn of the family that the resolver prefers, and of the other (RFC 8305, section 4)."""
    preferred = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    for pair in zip_longest(preferred, others):
        yield from filter(None, pair)


class Race:
    """Connects to all addresses of a name, one more every ATTEMPT_DELAY_S or after a failure, and
    takes the first connection. Leaving the context closes the others."""

    def __init__(self, addresses: list[Address], options: Iterable[Any], give_up_at: float) -> None:
        self._waiting, self._count = deque(interleaved(addresses)), len(addresses)
        self._options, self._give_up_at = options, give_up_at
        self._selector = selectors.DefaultSelector()
        self._running: set[socket.socket] = set()
        self._next_at = time.monotonic()
        self._errors: list[str] = []

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._selector.close()
        for sock in self._running:
            sock.close()

    def run(self) -> socket.socket:
        """Raises TimeoutError or another OSError, whose text is the reason."""
        while (now := time.monotonic()) < self._give_up_at:
            if self._waiting and now >= self._next_at:
                self._next_at = now + ATTEMPT_DELAY_S
                self._start(self._waiting.popleft())
            elif not self._waiting and not self._running:
                raise OSError("connection failed: " + "; ".join(dict.fromkeys(self._errors)))
            elif winner := self._wait(now):
                return winner
        last = f", last: {self._errors[-1]}" if self._errors else ""
        many = f" to {self._count} addresses" if self._count > 1 else ""
        raise TimeoutError(f"no connection in time{many}{last}")

    def _start(self, address: Address) -> None:
        family, kind, protocol, _, where = address
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a machine without IPv6
            self._failed(error.errno or 0)
            return
        self._running.add(sock)
        sock.setblocking(False)
        for option in self._options:
            sock.setsockopt(*option)
        code = sock.connect_ex(where)
        if code in (0, errno.EINPROGRESS):
            self._selector.register(sock, selectors.EVENT_WRITE)
        else:
            self._failed(code, sock)

    def _wait(self, now: float) -> socket.socket | None:
        """Until a connection is there, or something is to be done."""
        wake_at = min(self._next_at, self._give_up_at) if self._waiting else self._give_up_at
        for key, _ in self._selector.select(wake_at - now):
            sock: Any = key.fileobj
            self._selector.unregister(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                self._running.remove(sock)
                return sock  # type: ignore[no-any-return]
            self._failed(code, sock)
        return None

    def _failed(self, code: int, sock: socket.socket | None = None) -> None:
        if sock:
            self._running.remove(sock)
            sock.close()
        self._errors.append(os.strerror(code))
        self._next_at = time.monotonic()


def text_of(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)[:MAX_REASON]
