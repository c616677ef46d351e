"""What the journal and systemd hear of the service: log lines, defects said once, sd_notify.

Knows nothing of candles, Redis or HTTP.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from redis_log import iso_ms

log = logging.getLogger("market_data")
_SYSLOG_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3}


def event(level: int, name: str, **fields: object) -> None:
    """Log one logfmt line: event=name and the fields, quoted where they need it."""
    line = [f"event={name}"]
    for key, value in fields.items():
        text = str(value)
        line.append(f"{key}={text if re.fullmatch(r'[!#-<>-~]+', text) else json.dumps(text)}")
    log.log(level, " ".join(line))


_bugs_said: set[str] = set()


def log_bug(error: Exception) -> None:
    """Say once where a defect showed."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(at.filename).name}:{at.lineno}"
    if where not in _bugs_said:
        _bugs_said.add(where)
        event(logging.ERROR, "bug", error=repr(error), where=where)


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


def complain(problem: str) -> None:
    """Say why the program cannot run."""
    print(f"{'<3>' if LineFormatter.to_journal else ''}market_data: {problem}", file=sys.stderr)


def notify(message: str) -> None:
    """Send systemd `message` as sd_notify does, if it started this program."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
