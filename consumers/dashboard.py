"""The dashboard: an HTTP server of two pages and of what they show, all of it from Redis.

    /            the scanner page       /api/scanner     /api/candles?symbol=&timeframe=
    /status      the status page        /api/status      /api/redis/log?limit=&type=&source=
                                        /api/events      server-sent events

Four threads keep up to date what the pages show: the three of live.py and the scanner, which writes
the scores. HTTP threads only look at what these hold; candles and the message log are read on
request.
"""

from __future__ import annotations

import argparse
import logging
import queue
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import redis

import journal
from consumers import live, program
from consumers.live import Activity, Board, Events, Watch
from consumers.market_cache import SYMBOL, NoData, now_ms, timeframe_ms
from consumers.scanner import Scanner
from environment import Environment, host_names, host_or_address, matching, whole
from http_server import JsonHandler, JsonServer
from redis_log import TYPES, check_source, connect, read_log

KEEP_ALIVE_S = 10.0  # between two messages of /api/events: a write shows whether the client is gone
STOP_WITHIN_S = 3.0  # for each thread; one that hangs dies with the program
STATIC = Path(__file__).parent / "static"
PAGES = {"/": "index.html", "/status": "status.html"}
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class BadRequest(ValueError):
    """The message says what is accepted."""


class _Handler(JsonHandler):
    server: Dashboard
    indent = None

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            self._answer(path, query)
        except BadRequest as error:
            self.send_json(400, {"error": str(error)})
        except NoData as error:
            self.send_json(404, {"error": str(error)})
        except redis.RedisError as error:
            self.send_json(503, {"error": f"Redis: {error}"})
        except OSError:  # the client is gone
            raise
        except Exception:
            journal.event(logging.ERROR, "bug", path=path, traceback=traceback.format_exc())
            self.send_json(500, {"error": "a defect of the dashboard; its log says more"})

    do_HEAD = do_GET

    def _answer(self, path: str, query: str) -> None:
        server = self.server
        routes: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
            "/api/scanner": server.scanner,
            "/api/status": server.status,
            "/api/candles": server.candles,
            "/api/redis/log": server.message_log,
        }
        if file := server.files.get(path):
            self.send_bytes(200, file.read_bytes(), CONTENT_TYPES[file.suffix])
        elif path == "/api/events":
            self._send_events()
        elif path in routes:
            self.send_json(200, routes[path](_parameters(query)))
        else:
            paths = [*PAGES, *routes, "/api/events"]
            self.send_json(404, {"error": "not found", "paths": paths})

    def end_headers(self) -> None:
        # The pages show whatever is in Redis as text. Should one ever fail to, the browser still
        # runs no script but ours.
        policy = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def _send_events(self) -> None:
        """Send events until the client goes or falls too far behind."""
        with self.server.events.listener() as listener:
            if listener is None:
                self.send_json(503, {"error": f"more than {live.MAX_LISTENERS} listen already"})
                return
            self.close_connection = True  # the body has no length, so its end must close it
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Connection", "close")
            self.end_headers()
            message = b": welcome\n\n"
            while self.command == "GET" and not listener.dropped:
                self.wfile.write(message)
                try:
                    message = listener.get(timeout=KEEP_ALIVE_S)
                except queue.Empty:
                    message = b": still here\n\n"


class Dashboard(JsonServer):
    """Serves the pages and what they show. Listens at once (OSError if it cannot)."""

    def __init__(
        self,
        host: str,
        port: int,
        connection: program.Connection,
        health_url: str,
        names: Iterable[str] = (),
    ) -> None:
        self.files = {path: STATIC / name for path, name in PAGES.items()}
        self.files |= {
            f"/static/{file.name}": file
            for file in STATIC.iterdir()
            if file.suffix in CONTENT_TYPES
        }
        self.events = Events()
        self._stopping = threading.Event()
        self._client, self._log_key = connect(connection.redis_url), connection.log_key
        self._cache = connection.cache("dashboard", stopping=self._stopping)
        self._board = Board(self._cache, self.events)
        self._activity = Activity(
            self._client, self._log_key, connection.log_maxlen, self.events, self._stopping
        )
        self._watch = Watch(self._client, self._log_key, health_url, self._stopping)
        scanner_cache = connection.cache("dashboard", "scanner", self._stopping)
        parts = (self._board, self._activity, self._watch, Scanner(scanner_cache))
        self._workers = [
            threading.Thread(
                target=self._keep_running,
                args=(part,),
                name=type(part).__name__.lower(),
                daemon=True,
            )
            for part in parts
        ]
        super().__init__(host, port, _Handler, names)

    def start(self) -> None:
        for thread in self._workers:
            thread.start()
        super().start()

    def stop(self) -> None:
        self._stopping.set()
        super().stop()
        self.events.close()
        for thread in self._workers:
            if thread.is_alive():
                thread.join(STOP_WITHIN_S)

    def _keep_running(self, part: Board | Activity | Watch | Scanner) -> None:
        """The loop of a thread. A bug must not end it, or the page would keep showing old data."""
        while not self._stopping.is_set():
            try:
                part.run()
            except Exception:
                name = threading.current_thread().name
                journal.event(logging.ERROR, "bug", thread=name, traceback=traceback.format_exc())
                self._stopping.wait(live.RETRY_S)

    # --- the answers ---

    def scanner(self, parameters: dict[str, str]) -> dict[str, Any]:
        _accept(parameters)
        return {
            "timestamp": now_ms(),
            "redis": self._watch.state["redis"],
            "timeframes": self._board.timeframes(),
            "updates": self._board.updates(),
            "symbols": self._board.rows(),
        }

    def status(self, parameters: dict[str, str]) -> dict[str, Any]:
        _accept(parameters)
        now, state = now_ms(), self._watch.state
        dead_after_ms = live.DEAD_AFTER_S * 1000
        consumers = {
            name: life and life | {"alive": abs(now - life["timestamp"]) < dead_after_ms}
            for name, life in state["consumers"].items()
        }
        return {
            "timestamp": now,
            **state,
            "consumers": consumers,
            "updates": self._board.updates(),
            "messages_per_minute": self._activity.per_minute(),
        }

    def candles(self, parameters: dict[str, str]) -> dict[str, Any]:
        _accept(parameters, "symbol", "timeframe")
        symbol, timeframe = parameters.get("symbol", ""), parameters.get("timeframe", "")
        if not SYMBOL.fullmatch(symbol):
            raise BadRequest(f"symbol={symbol!r}: must be one of the exchange's, like BTCUSDT")
        try:
            timeframe_ms(timeframe)
        except ValueError as error:
            raise BadRequest(f"timeframe={timeframe!r}: {error}") from None
        candles = self._cache.candles(symbol, timeframe)
        return {
            "symbol": symbol,
            "timeframe": timeframe,
            "expires_at": int(candles.expires_at * 1000),
            "candles": [candle._asdict() for candle in candles],
        }

    def message_log(self, parameters: dict[str, str]) -> dict[str, Any]:
        _accept(parameters, "limit", "type", "source")
        limit, type_ = parameters.get("limit", "100"), parameters.get("type")
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= 1000:
            raise BadRequest(f"limit={limit!r}: must be a whole number from 1 to 1000")
        if type_ not in (None, *TYPES):
            raise BadRequest(f"type={type_!r}: must be one of {' '.join(TYPES)}")
        try:
            source = check_source(parameters["source"]) if "source" in parameters else None
        except ValueError as error:
            raise BadRequest(str(error)) from None
        length: Any = self._client.xlen(self._log_key)
        entries = read_log(self._client, int(limit), type_, source, key=self._log_key)
        return {"length": length, "entries": entries}


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=10)
    except ValueError as error:
        raise BadRequest(f"bad query: {error}") from None
    if len(dict(pairs)) < len(pairs):
        raise BadRequest("each parameter only once")
    return dict(pairs)


def _accept(parameters: dict[str, str], *names: str) -> None:
    if unknown := parameters.keys() - set(names):
        accepted = f"only {' '.join(names)}" if names else "none"
        raise BadRequest(f"unknown parameter {min(unknown)!r}; accepted: {accepted}")


# --- the program ---

_health_url = matching(r"https?://\S+", "like http://HOST:PORT/health")

SETTINGS = """\
  DASHBOARD_HOST, DASHBOARD_PORT           127.0.0.1, 8896
  HEALTH_URL                               http://127.0.0.1:8895/health, of the service
  ALLOWED_HOSTS                            none; names of this machine for browsers, comma-separated
"""


def main(env: Environment, _: argparse.Namespace) -> int:
    connection = program.Connection.read(env)
    host = env.read("DASHBOARD_HOST", "127.0.0.1", host_or_address)
    port = env.read("DASHBOARD_PORT", "8896", whole(0, 65535))
    health_url = env.read("HEALTH_URL", "http://127.0.0.1:8895/health", _health_url)
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
            "dashboard", description="Serves the scanner page and the status page."
        ),
        SETTINGS,
    )
