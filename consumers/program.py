"""What makes a consumer a program: settings, log lines, help, and a clean end."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import redis_log
from consumers.market_cache import MarketCache

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EPILOG = """settings (environment variables, the same as the service's):
  REDIS_URL                                redis://127.0.0.1:6379/0
  MESSAGE_LOG_KEY, MESSAGE_LOG_MAXLEN      redis:message_log, 10000
"""


class SettingsError(ValueError):
    """Names the variable, its value and what is accepted."""


class Failure(Exception):
    """Why the program cannot go on."""


@dataclass(frozen=True)
class Connection:
    """Where Redis and the message log in it are."""

    redis_url: str
    log_key: str
    log_maxlen: int

    @classmethod
    def from_env(cls) -> Connection:
        """Raises SettingsError."""
        url = os.environ.get("REDIS_URL", redis_log.DEFAULT_URL)
        try:
            redis_log.connect(url)
        except ValueError as error:
            raise SettingsError(f"REDIS_URL={redis_log.redact(url)!r}: {error}") from None
        maxlen = number("MESSAGE_LOG_MAXLEN", redis_log.DEFAULT_MAXLEN, 100, 1_000_000, int)
        return cls(url, os.environ.get("MESSAGE_LOG_KEY", redis_log.DEFAULT_KEY), maxlen)

    def cache(
        self, source: str, name: str = "", stopping: threading.Event | None = None
    ) -> MarketCache:
        """A MarketCache with a client of its own."""
        return MarketCache(
            redis_log.connect(self.redis_url),
            source,
            name,
            log_key=self.log_key,
            log_maxlen=self.log_maxlen,
            stopping=stopping,
        )


def number(
    name: str, default: float, low: float, high: float, kind: type[int] | type[float] = float
) -> Any:
    """The number, of that kind, that the environment variable `name` says.

    Raises SettingsError.
    """
    text = os.environ.get(name, str(default)).strip()
    pattern = r"[0-9]{1,9}" if kind is int else r"[0-9]{1,9}(\.[0-9]{1,9})?"
    if not re.fullmatch(pattern, text) or not low <= float(text) <= high:
        whole = "whole " if kind is int else ""
        raise SettingsError(f"{name}={text!r}: must be a {whole}number from {low} to {high}")
    return kind(text)


def run(
    main: Callable[[Connection, argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    settings: str = "",
) -> NoReturn:
    """Run `main` as the program that `parser` describes, and exit with what it returns.

    Ends with 0 on SIGTERM and SIGINT, at any moment from here on, and however many come; with one
    line and 2 after a SettingsError, 1 after a Failure. `settings` are lines of help about those
    that only this program has.
    """
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        if not ending:  # a second one must not break off a clean end
            ending = True
            sys.exit(0)

    for signum in END_SIGNALS:
        signal.signal(signum, end)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + settings
    arguments = parser.parse_args()
    logging.Formatter.converter = time.gmtime
    logging.raiseExceptions = False  # a log that nobody can read is no reason to end
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        datefmt="%Y-%m-%dT%H:%M:%S",
        format="time=%(asctime)s.%(msecs)03dZ level=%(levelname)s %(message)s",
    )
    gc.freeze()  # what is there now stays: not to be looked through again, 30 ms at a time
    try:
        sys.exit(main(Connection.from_env(), arguments))
    except BrokenPipeError:  # the reader (head, say) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (SettingsError, Failure) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    finally:
        ending = True
        for signum in END_SIGNALS:  # or Python, as it ends, would let them kill it
            signal.signal(signum, signal.SIG_IGN)
