"""What the journal and systemd hear of a program: log lines, problems said once, sd_notify.

For the service and the consumers alike. Knows nothing of candles, Redis or HTTP.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from redis_log import iso_ms

log = logging.getLogger("coinex")
MAX_WAITING_LINES = 1000  # for a sink that blocks
FLUSH_WITHIN_S = 1.0  # at the end of the program
MAX_REASON = 200  # characters of an error
_SYSLOG_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3}


def write_to(stream: TextIO | None, level: str | int) -> None:
    """Let lines of `level` and above go to `stream`, from now on; None is a closed one."""
    log.setLevel(level)
    if stream:
        handler = _Sink(stream.fileno())
        handler.setFormatter(LineFormatter())
        log.addHandler(handler)


class _Sink(logging.Handler):
    """Writes lines to a file descriptor, from a thread of its own: a descriptor that blocks (a
    terminal after Ctrl-S, a full pipe) must not stop the program. What has no room to wait is
    dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = 0  # emit is called under the handler's own lock
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                self._lines.put_nowait(self._dropped_line())
                self._dropped = 0
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until all is written, but not for ever."""
        done = self._lines.all_tasks_done
        with done:
            done.wait_for(lambda: not self._lines.unfinished_tasks, FLUSH_WITHIN_S)

    def _dropped_line(self) -> str:
        message = f"event=lines_dropped count={self._dropped}"
        record = logging.LogRecord(log.name, logging.WARNING, "", 0, message, None, None)
        return self.format(record)

    def _write_all(self) -> None:
        while True:
            left = f"{self._lines.get()}\n".encode()
            with suppress(OSError):  # a log that nobody can read is no reason to end
                while left:
                    left = left[os.write(self._descriptor, left) :]
            self._lines.task_done()


class LineFormatter(logging.Formatter):
    """Puts a syslog priority first if stdout is the journal, else time and level."""

    to_journal = False
    with suppress(OSError):  # stdout may be closed
        to_journal = os.environ.get("JOURNAL_STREAM") == "{0.st_dev}:{0.st_ino}".format(os.fstat(1))

    def format(self, record: logging.LogRecord) -> str:
        if self.to_journal:
            return f"<{_SYSLOG_PRIORITIES[record.levelname]}>{record.getMessage()}"
        level = record.levelname.lower()
        return f"time={iso_ms(record.created)} level={level} {record.getMessage()}"


def event(level: int, name: str, **fields: object) -> None:
    """Log one logfmt line: event=name and the fields, quoted where they need it."""
    line = [f"event={name}"]
    for key, value in fields.items():
        text = str(value)
        line.append(f"{key}={text if re.fullmatch(r'[!#-<>-~]+', text) else json.dumps(text)}")
    log.log(level, " ".join(line))


def short(error: Exception) -> str:
    """What an error says, without a library's long quotation of itself."""
    return str(error)[:MAX_REASON] or type(error).__name__


class CannotRun(Exception):
    """Why the program cannot run, for its user."""


def complain(program: str, problem: str) -> None:
    """Say on stderr why `program` cannot run."""
    print(f"{'<3>' if LineFormatter.to_journal else ''}{program}: {problem}", file=sys.stderr)


_bugs_said: set[str] = set()


def log_bug(error: Exception) -> None:
    """Say once where a defect showed."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(at.filename).name}:{at.lineno}"
    if where not in _bugs_said:
        _bugs_said.add(where)
        event(logging.ERROR, "bug", error=repr(error), where=where)


class Problem(NamedTuple):
    """Why something is wrong, and since when, epoch seconds."""

    reason: str
    since: float


class Problems:
    """What is wrong now, by what has it. Logged when it begins and when it is over."""

    def __init__(self) -> None:
        # Guards _problems: loops and the main thread note, HTTP threads copy. Without it the same
        # beginning could be logged twice.
        self._lock = threading.Lock()
        self._problems: dict[str, Problem] = {}

    def note(self, what: str, reason: object) -> None:
        """`what` has a problem, or, where the `reason` is false, none any more."""
        text = short(reason) if isinstance(reason, Exception) else str(reason or "")
        with self._lock:
            before = self._problems.pop(what, None)
            if text:  # since when it is there, whatever its reason was then
                self._problems[what] = Problem(text, before.since if before else time.time())
        if text and not before:
            event(logging.WARNING, "problem", what=what, reason=text)
        elif before and not text:
            event(logging.INFO, "problem_over", what=what)

    def now(self) -> dict[str, Problem]:
        """By what has the problem."""
        with self._lock:
            return dict(self._problems)


def notify(message: str) -> None:
    """Send systemd `message` as sd_notify does, if it started this program."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
