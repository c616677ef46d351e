"""The dashboard: pages that show what is in Redis, and the JSON they are made of.

    /            the scanner page       /api/scanner     /api/chart?symbol=&timeframe=
    /status      the status page        /api/status      /api/redis/log?type=&q=&…
    /trades      the trades page        /api/positions   /api/trades, /api/trades.csv
                                        /api/events      server-sent events

Four threads keep up to date what the pages show: the three of live.py and the scanner, which
writes the scores. HTTP threads (pages.py, api.py) only look at what these hold; charts, trades and
the message log are read on request.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterable
from functools import partial

import journal
from consumers import live, program
from consumers.api import Api
from consumers.events import Events
from consumers.live import Activity, Board, Watch
from consumers.pages import PageServer
from consumers.scanner import Scanner
from environment import Environment, host_names, host_or_address, matching, whole
from redis_log import connect

STOP_WITHIN_S = 3.0  # for all threads; one that hangs dies with the program


class Dashboard(PageServer):
    """Serves the pages and keeps what they show. Listens at once (OSError if it cannot)."""

    def __init__(
        self,
        host: str,
        port: int,
        connection: program.Connection,
        health_url: str,
        names: Iterable[str] = (),
    ) -> None:
        self._stopping = threading.Event()
        self._loops = loops = program.Loops("dashboard", "scanner", "activity", "watch")
        events, log_key = Events(), connection.log_key
        client = connect(connection.redis_url)
        cache = connection.cache("dashboard", "", self._stopping, loops)
        board = Board(cache, log_key, events)
        activity = Activity(
            client,
            log_key,
            connection.log_maxlen,
            events,
            self._stopping,
            partial(loops.turned, "activity"),
        )
        watch = Watch(
            client, log_key, health_url, events, self._stopping, partial(loops.turned, "watch")
        )
        scanner = Scanner(connection.cache("dashboard", "scanner", self._stopping, loops))
        parts = {"dashboard": board, "scanner": scanner, "activity": activity, "watch": watch}
        self._workers = [
            threading.Thread(target=self._keep_running, args=(part,), name=name, daemon=True)
            for name, part in parts.items()
        ]
        super().__init__(host, port, Api(cache, board, activity, watch, log_key), events, names)
        loops.url = self.url

    def start(self) -> None:
        for thread in self._workers:
            thread.start()
        super().start()

    def stop(self) -> None:
        self._stopping.set()
        super().stop()
        self.events.close()
        until = time.monotonic() + STOP_WITHIN_S
        for thread in self._workers:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def _keep_running(self, part: Board | Activity | Watch | Scanner) -> None:
        """The loop of a thread. A bug must not end it, or the page would keep showing old data."""
        while not self._stopping.is_set():
            try:
                part.run()
            except Exception:
                name = threading.current_thread().name
                journal.event(logging.ERROR, "bug", thread=name, traceback=traceback.format_exc())
                self._loops.turned(name, f"{name} has a bug, see the journal")
                self._stopping.wait(live.RETRY_S)


# --- the program ---

_health_url = matching(r"https?://\S+", "like http://HOST:PORT/health")

SETTINGS = """\
  DASHBOARD_HOST, DASHBOARD_PORT           127.0.0.1, 8896
  HEALTH_URL                               http://127.0.0.1:HEALTH_PORT/health, of the service
  HEALTH_PORT                              8895
  ALLOWED_HOSTS                            none; names of this machine for browsers, comma-separated
"""


def main(env: Environment, _: argparse.Namespace) -> int:
    connection = program.Connection.read(env)
    host = env.read("DASHBOARD_HOST", "127.0.0.1", host_or_address)
    port = env.read("DASHBOARD_PORT", "8896", whole(0, 65535))
    health_port = env.read("HEALTH_PORT", "8895", whole(0, 65535))  # of the service beside it
    health_url = env.read("HEALTH_URL", f"http://127.0.0.1:{health_port}/health", _health_url)
    names = env.read("ALLOWED_HOSTS", "", host_names)
    env.check()
    try:
        server = Dashboard(host, port, connection, health_url, names)
    except OSError as error:
        problem = f"cannot listen on DASHBOARD_HOST={host} DASHBOARD_PORT={port}"
        raise program.Failure(f"{problem}: {error.strerror}") from error
    # Blocked, signals cannot interrupt `start`, which would leave threads behind, and none is lost
    # that arrives just before `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, program.END_SIGNALS)
    server.start()
    journal.event(logging.INFO, "start", url=server.url)
    signal.sigwait(program.END_SIGNALS)
    server.stop()
    return 0


if __name__ == "__main__":
    program.run(
        main,
        argparse.ArgumentParser(
            "dashboard", description="Serves the scanner, the trades and the status page."
        ),
        SETTINGS,
    )
