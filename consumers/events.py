"""Server-sent events of the dashboard: each goes to every page that listens, and who is slow is cut
off. Knows nothing of what they tell."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

MAX_LISTENERS = 50  # each has a thread
MAX_WAITING = 500  # messages for a slow listener; then it is cut off, reconnects and reads anew
# Of these messages, so that they take 16 MB for all listeners together.
MAX_WAITING_BYTES = 16_000_000 // MAX_LISTENERS


class Listener(queue.Queue[bytes]):
    """The messages that wait for one listener."""

    dropped = False  # set once, by the publishing thread; a single flag needs no lock
    waiting_bytes = 0

    def _put(self, item: bytes) -> None:
        super()._put(item)
        self.waiting_bytes += len(item)

    def _get(self) -> bytes:
        item = super()._get()
        self.waiting_bytes -= len(item)
        return item

    def has_room_for(self, message: bytes) -> bool:
        """One message may wait, however large: it is the same object for all listeners."""
        fits = self.waiting_bytes + len(message) <= MAX_WAITING_BYTES
        return self.empty() or (fits and not self.full())


class Events:
    """Passes each event to every listener, as a server-sent event."""

    def __init__(self) -> None:
        # Guards _listeners: HTTP threads add and remove theirs while other threads publish.
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()

    def publish(self, name: str, value: Any) -> None:
        message = f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
        # Nobody else puts, and nothing here waits: a slow listener cannot hold the lock up.
        with self._lock:
            for listener in list(self._listeners):
                if listener.has_room_for(message):
                    listener.put_nowait(message)
                else:
                    listener.dropped = True
                    self._listeners.remove(listener)

    def close(self) -> None:
        """Cut all listeners off."""
        with self._lock:
            for listener in self._listeners:
                listener.dropped = True
                with suppress(queue.Full):
                    listener.put_nowait(b"")  # wakes its thread up
            self._listeners.clear()

    @contextmanager
    def listener(self) -> Iterator[Listener | None]:
        """Yields a new listener, or None if there are too many already."""
        listener = Listener(MAX_WAITING)
        # Counted and added under one lock, or two threads could both take the last place.
        with self._lock:
            full = len(self._listeners) >= MAX_LISTENERS
            if not full:
                self._listeners.add(listener)
        try:
            yield None if full else listener
        finally:
            with self._lock:
                self._listeners.discard(listener)
