"""What makes a consumer a program: settings, log lines, help, and a clean exit."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import journal
import redis_log
from consumers.market_cache import MarketCache
from environment import Environment, SettingsError, message_log_key, redis_url, whole

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EPILOG = """settings (environment variables, the same as the service's):
  REDIS_URL                                redis://127.0.0.1:6379/0
  MESSAGE_LOG_KEY, MESSAGE_LOG_MAXLEN      redis:message_log, 10000
"""

Main = Callable[[Environment, argparse.Namespace], int]


class Failure(Exception):
    """Why the program cannot continue."""


@dataclass(frozen=True)
class Connection:
    """Where Redis and its message log are."""

    redis_url: str
    log_key: str
    log_maxlen: int

    @classmethod
    def read(cls, env: Environment) -> Connection:
        """`env.check()` tells whether the settings were good."""
        return cls(
            env.read("REDIS_URL", redis_log.DEFAULT_URL, redis_url),
            env.read("MESSAGE_LOG_KEY", redis_log.DEFAULT_KEY, message_log_key),
            env.read("MESSAGE_LOG_MAXLEN", str(redis_log.DEFAULT_MAXLEN), whole(100, 1_000_000)),
        )

    def cache(
        self, source: str, name: str = "", stopping: threading.Event | None = None
    ) -> MarketCache:
        """A MarketCache with its own client."""
        return MarketCache(
            redis_log.connect(self.redis_url),
            source,
            name,
            log_key=self.log_key,
            log_maxlen=self.log_maxlen,
            stopping=stopping,
        )


def run(main: Main, parser: argparse.ArgumentParser, settings: str = "") -> NoReturn:
    """Run `main` as the program that `parser` describes, and exit with the code it returns.

    From here on SIGTERM and SIGINT end the program with exit code 0, at any moment and however
    many arrive. A SettingsError ends it with a line for each bad setting and 2, a Failure with one
    line and 1. `main` reads its settings and calls `env.check()` before it starts anything;
    `settings` are the lines of help about those that only this program has.
    """
    exiting = False

    def exit_once(*_: object) -> None:
        nonlocal exiting
        if not exiting:  # a second signal must not interrupt a clean exit
            exiting = True
            sys.exit(0)

    def exit_after_all(lost: sys.UnraisableHookArgs) -> None:
        """An exception is lost if the signal came in a finalizer, a callback or the like."""
        nonlocal exiting
        if isinstance(lost.exc_value, SystemExit):
            exiting = False
            signal.setitimer(signal.ITIMER_REAL, 0.01)  # not at once: here it would be lost again
        else:
            sys.__unraisablehook__(lost)

    sys.unraisablehook = exit_after_all
    for signum in (*END_SIGNALS, signal.SIGALRM):
        signal.signal(signum, exit_once)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + settings
    arguments = parser.parse_args()
    journal.write_to(sys.stdout, "INFO")
    gc.freeze()  # what is loaded now stays: the collector need not scan it, 30 ms at a time
    try:
        sys.exit(_exit_code(main, parser.prog, arguments))
    finally:
        exiting = True
        # Python restores the default handlers as it exits: a late signal would kill it.
        for signum in (*END_SIGNALS, signal.SIGALRM):
            signal.signal(signum, signal.SIG_IGN)


def _exit_code(main: Main, program: str, arguments: argparse.Namespace) -> int:
    try:
        return main(Environment(os.environ), arguments)
    except BrokenPipeError:  # the reader, say head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SettingsError as error:
        for problem in error.args:
            journal.complain(program, problem)
        return 2
    except Failure as error:
        journal.complain(program, str(error))
        return 1
