"""What makes a consumer a program: settings, log lines, help, what systemd hears, a clean exit."""

from __future__ import annotations

import argparse
import gc
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import journal
import redis_log
from consumers.market_cache import MarketCache
from environment import Environment, SettingsError, message_log_key, redis_url, whole

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A loop that does not turn for so long hangs. Waiting for a Redis that does not answer takes less.
HANG_S = 15.0
EPILOG = """settings (environment variables, the same as the service's):
  REDIS_URL                                redis://127.0.0.1:6379/0
  MESSAGE_LOG_KEY, MESSAGE_LOG_MAXLEN      redis:message_log, 10000
"""

Main = Callable[[Environment, argparse.Namespace], int]


class Failure(Exception):
    """Why the program cannot continue."""


class Loops:
    """The loops of a program, and what systemd hears of them: READY once each has turned, WATCHDOG
    while each goes on turning, and STATUS.

    The loops tell it themselves, in `turned`: that a thread exists does not mean that it works.
    """

    def __init__(self, *names: str) -> None:
        # Each loop sets its own entries, whichever turns reads all; none is added, so no lock.
        self._turned_at = dict.fromkeys(names, -math.inf)  # monotonic
        self._problems = dict.fromkeys(names, "")
        self.url = ""  # for STATUS, if the program listens

    def turned(self, name: str, problem: str = "") -> None:
        """Called by the loop `name` every few seconds, with what is wrong with it."""
        now = time.monotonic()
        self._turned_at[name], self._problems[name] = now, problem
        hanging = [each for each, at in self._turned_at.items() if now - at > HANG_S]
        problems = [f"hanging: {' '.join(hanging)}"] if hanging else []
        problems += sorted(set(filter(None, self._problems.values())))
        at_url = f" at {self.url}" if self.url else ""
        status = " ".join(f"STATUS={'; '.join(problems) or 'ok'}{at_url}".split())  # one line
        journal.notify(status if hanging else f"{status}\nREADY=1\nWATCHDOG=1")


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
        self,
        source: str,
        name: str = "",
        stopping: threading.Event | None = None,
        loops: Loops | None = None,
    ) -> MarketCache:
        """A MarketCache with its own client. Its loop is `name`, or else `source`, of `loops`; if
        these are not given, it is the program's only one."""
        loop = name or source
        return MarketCache(
            redis_log.connect(self.redis_url),
            source,
            name,
            log_key=self.log_key,
            log_maxlen=self.log_maxlen,
            stopping=stopping,
            on_turn=partial((loops or Loops(loop)).turned, loop),
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
    env = Environment(os.environ)
    env.warn()
    try:
        return main(env, arguments)
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
