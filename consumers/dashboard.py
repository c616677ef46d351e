"""The dashboard: two pages and what they show, all of it out of Redis.

    /            the scanner page       /api/scanner     /api/candles?symbol=&timeframe=
    /status      the status page        /api/status      /api/redis/log?limit=&type=&source=
                                        /api/events      server-sent events

Four threads keep what the pages show: the scanner writes scores, Board reads what there is of each
coin whenever it changes, Activity follows the message log, Watch asks who is alive. HTTP threads
look at what these hold; only candles and the message log are read as they are asked for.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import queue
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import redis

from consumers import program, scanner, ta_service
from consumers.market_cache import (
    ALIVE_EVERY_S,
    ALIVE_KEY,
    BAD_DATA,
    SYMBOL,
    MarketCache,
    NoData,
    Update,
    now_ms,
    parse_json,
    parse_update,
    price_key,
    timeframe_ms,
    update_channel,
)
from consumers.scanner import Scanner, score_key
from consumers.ta_service import indicators_key
from http_server import JsonHandler, JsonServer
from redis_log import SOURCES, TYPES, connect, follow_log, read_log, redact

CONSUMERS = ("scanner", "ta-service", "trader-bot", "dashboard")
MINUTE_MS, CHARTED_MINUTES = 60_000, 30  # of the chart of messages a minute
WATCH_EVERY_S = 2.0
HEALTH_TIMEOUT_S = 2.0
DEAD_AFTER_S = 3 * ALIVE_EVERY_S
KEEP_ALIVE_S = 10.0  # between two signs to a client of /api/events, which may have gone
MAX_LISTENERS = 50  # such clients; each has a thread
MAX_WAITING = 500  # messages for a slow one; then it is cut off, reconnects, and reads anew
RETRY_S = 1.0
STOP_WITHIN_S = 3.0  # for each thread; one that hangs ends with the program
STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

log = logging.getLogger("dashboard")


class Listener(queue.Queue[bytes]):
    """The messages that wait for one client of /api/events."""

    dropped = False  # set for good by the publishing thread; one flag needs no lock


class Events:
    """Hands what happens to whoever listens, as server-sent events."""

    def __init__(self) -> None:
        # Guards _listeners: clients come and go while other threads publish.
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()

    def publish(self, name: str, value: Any) -> None:
        message = f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
        with self._lock:
            for listener in list(self._listeners):
                try:
                    listener.put_nowait(message)
                except queue.Full:
                    listener.dropped = True
                    self._listeners.remove(listener)

    def close(self) -> None:
        """Cut everybody off."""
        with self._lock:
            for listener in self._listeners:
                listener.dropped = True
                with suppress(queue.Full):
                    listener.put_nowait(b"")  # wakes it up
            self._listeners.clear()

    @contextmanager
    def listener(self) -> Iterator[Listener | None]:
        """None if too many listen already."""
        listener = Listener(MAX_WAITING)
        with self._lock:
            full = len(self._listeners) >= MAX_LISTENERS
            if not full:
                self._listeners.add(listener)
        try:
            yield None if full else listener
        finally:
            with self._lock:
                self._listeners.discard(listener)


class Held(NamedTuple):
    """What a key holds, to be shown until `expires_at`, epoch seconds."""

    value: Any
    expires_at: float


class Board:
    """What there is of each coin: price, score and analyses, each for as long as it is fresh.

    Read anew when something was published, so once however many look at the page.
    """

    def __init__(self, cache: MarketCache, events: Events) -> None:
        self._cache, self._events = cache, events
        # Guards all below: one thread reads Redis and changes it, HTTP threads look.
        self._lock = threading.Lock()
        self._symbols: set[str] = set()  # all that were ever seen: one may be missing now
        self._timeframes: set[str] = set()
        self._held: dict[str, Held] = {}  # by key
        self._updates: dict[str, dict[str, int]] = {}  # by timeframe: the last one heard of

    def run(self) -> None:
        """Until it is to stop."""
        channels = (update_channel("*"), ta_service.update_channel("*"), scanner.UPDATE_CHANNEL)
        for message in self._cache.messages(*channels):
            with self._cache.attempt():
                self.turn(message)

    def turn(self, message: tuple[str, str] | None) -> None:
        """Read what a message tells of; all there is, if that cannot be known."""
        channel, payload = message or ("", "")
        if message is None:
            for timeframe, symbols in self._cache.series().items():
                self._see(timeframe, symbols)
            self._read_prices()
            self._read_scores()
            self._read_analyses(self.timeframes())
        elif channel == scanner.UPDATE_CHANNEL:
            self._read_scores()
        elif channel.startswith(ta_service.update_channel("")):
            self._read_analyses([channel.removeprefix(ta_service.update_channel(""))])
        elif channel != update_channel("all") and (update := parse_update(channel, payload)):
            self._note_update(update)
            self._read_prices()
        self._events.publish("update", {"channel": channel})

    def _see(self, timeframe: str, symbols: Iterable[str]) -> None:
        with self._lock:
            self._timeframes.add(timeframe)
            self._symbols.update(symbols)

    def _note_update(self, update: Update) -> None:
        self._see(update.timeframe, update.symbols + update.failed)
        counts = {"symbols": len(update.symbols), "failed": len(update.failed)}
        with self._lock:
            self._updates[update.timeframe] = {"timestamp": update.timestamp, **counts}

    def _read_prices(self) -> None:
        self._read(price_key(symbol) for symbol in self.symbols())

    def _read_scores(self) -> None:
        self._read(score_key(symbol) for symbol in self.symbols())

    def _read_analyses(self, timeframes: Iterable[str]) -> None:
        self._read(
            indicators_key(symbol, timeframe)
            for timeframe in timeframes
            for symbol in self.symbols()
        )

    def _read(self, keys: Iterable[str]) -> None:
        found, _ = self._cache.read({key: key for key in keys}, Held)
        with self._lock:
            self._held |= found

    def symbols(self) -> list[str]:
        with self._lock:
            return sorted(self._symbols)

    def timeframes(self) -> list[str]:
        """The shortest first."""
        with self._lock:
            return sorted(self._timeframes, key=timeframe_ms)

    def updates(self) -> dict[str, dict[str, int]]:
        """By timeframe: when its last refresh was published (ms UTC), and how many symbols were
        updated and failed; as far as this program has heard."""
        with self._lock:
            return dict(self._updates)

    def rows(self) -> list[dict[str, Any]]:
        """For each coin the values of its keys as they are in Redis; None is what has none."""
        now, symbols, timeframes = time.time(), self.symbols(), self.timeframes()
        with self._lock:
            fresh = {key: held.value for key, held in self._held.items() if held.expires_at > now}
        return [
            {
                "symbol": symbol,
                "price": fresh.get(price_key(symbol)),
                "scan": fresh.get(score_key(symbol)),
                "ta": {name: fresh.get(indicators_key(symbol, name)) for name in timeframes},
            }
            for symbol in symbols
        ]


class Activity:
    """Follows the message log: each entry to who listens, and how many there were a minute."""

    def __init__(
        self,
        client: redis.Redis,
        log_key: str,
        log_maxlen: int,
        events: Events,
        stopping: threading.Event,
    ) -> None:
        self._client, self._log_key, self._log_maxlen = client, log_key, log_maxlen
        self._events, self._stopping = events, stopping
        # Guards _counts: one thread counts, HTTP threads look.
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()  # by minute since the epoch

    def run(self) -> None:
        """Until it is to stop."""
        failed = False
        while not self._stopping.is_set():
            try:
                after = self._count()
                if failed:  # only now, so that whoever reads the log upon it misses nothing
                    self._events.publish("redis", {"up": True, "error": ""})
                failed = False
                self._follow(after)
            except redis.RedisError as error:
                if not failed:
                    self._events.publish("redis", {"up": False, "error": str(error)})
                failed = True
                self._stopping.wait(RETRY_S)

    def _count(self) -> str:
        """Count what is in the log of the charted minutes; returns the id behind which more is
        to come."""
        start_ms = (now_ms() // MINUTE_MS - CHARTED_MINUTES + 1) * MINUTE_MS
        entries: Any = self._client.xrange(self._log_key, min=str(start_ms))
        counts = Counter(_minute(id_) for id_, _ in entries)
        if len(entries) >= self._log_maxlen:
            del counts[min(counts)]  # part of that minute has been cut off
        with self._lock:
            self._counts = counts
        return str(entries[-1][0]) if entries else str(start_ms)

    def _follow(self, after: str) -> None:
        for added in follow_log(self._client, after, key=self._log_key):
            if self._stopping.is_set():
                return
            if added:
                with self._lock:
                    self._counts.update(_minute(entry["id"]) for entry in added)
                    for minute in sorted(self._counts)[:-CHARTED_MINUTES]:
                        del self._counts[minute]
                self._events.publish("log", added)

    def per_minute(self) -> list[tuple[int, int]]:
        """Start of the minute in ms UTC and count, the oldest first, up to the running one."""
        running = now_ms() // MINUTE_MS
        with self._lock:
            oldest = max(min(self._counts, default=running), running - CHARTED_MINUTES + 1)
            return [
                (minute * MINUTE_MS, self._counts[minute]) for minute in range(oldest, running + 1)
            ]


def _minute(entry_id: str) -> int:
    return int(entry_id.partition("-")[0]) // MINUTE_MS


class Watch:
    """Asks every 2 s whether the service and Redis answer, and which consumers are alive."""

    def __init__(
        self, client: redis.Redis, log_key: str, health_url: str, stopping: threading.Event
    ) -> None:
        self._client, self._log_key, self._health_url = client, log_key, health_url
        self._stopping = stopping
        # The last answers; replaced as a whole by one thread, so that others need no lock.
        self.state: dict[str, Any] = {
            "service": {"up": False, "error": "not asked yet", "health": None},
            "redis": {"up": False, "error": "not asked yet", "message_log_length": None},
            "consumers": dict.fromkeys(CONSUMERS),
        }

    def run(self) -> None:
        """Until it is to stop."""
        while not self._stopping.is_set():
            self.turn()
            self._stopping.wait(WATCH_EVERY_S)

    def turn(self) -> None:
        redis_state, lives = self._ask_redis()
        consumers = self.state["consumers"] if lives is None else lives
        service = self._ask_service()
        self.state = {"service": service, "redis": redis_state, "consumers": consumers}

    def _ask_service(self) -> dict[str, Any]:
        url = self._health_url
        try:
            try:
                answer = urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S)
            except urllib.error.HTTPError as error:
                answer = error  # 503 has the same body
            with answer:
                return {"up": True, "error": "", "health": dict(json.load(answer))}
        except OSError as error:
            reason = f"{redact(url)} does not answer: {getattr(error, 'reason', error)}"
        except (TypeError, ValueError, http.client.HTTPException):
            reason = f"what answers at {redact(url)} is not the service"
        return {"up": False, "error": reason, "health": None}

    def _ask_redis(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Its state, and by consumer the last sign of life."""
        pipeline: Any = self._client.pipeline(transaction=False)
        pipeline.hgetall(ALIVE_KEY)
        pipeline.xlen(self._log_key)
        try:
            lives, length = pipeline.execute(raise_on_error=False)
        except redis.RedisError as error:
            return {"up": False, "error": str(error), "message_log_length": None}, None
        refused = [str(answer) for answer in (lives, length) if isinstance(answer, Exception)]
        length = length if isinstance(length, int) else None
        state = {"up": True, "error": "; ".join(refused), "message_log_length": length}
        known = lives if isinstance(lives, dict) else {}
        names = [*CONSUMERS, *sorted(known.keys() - set(CONSUMERS))]
        return state, {name: _life(known.get(name)) for name in names}


def _life(text: str | None) -> dict[str, Any] | None:
    """When a consumer was last seen, in ms UTC; None: never."""
    try:
        body = parse_json(text or "")
        return {"timestamp": int(body["timestamp"]), "pid": int(body["pid"])}
    except BAD_DATA:
        return None


# --- HTTP ---


class BadRequest(ValueError):
    """The message says what is accepted."""


class _Handler(JsonHandler):
    server: Dashboard
    indent = None

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        server = self.server
        routes: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
            "/api/scanner": server.scanner,
            "/api/status": server.status,
            "/api/candles": server.candles,
            "/api/redis/log": server.message_log,
        }
        try:
            if file := server.files.get(path):
                self.send_bytes(200, file.read_bytes(), CONTENT_TYPES[file.suffix])
            elif path == "/api/events":
                self._send_events()
            elif path in routes:
                self.send_json(200, routes[path](_parameters(query)))
            else:
                paths = [*PAGES, *routes, "/api/events"]
                self.send_json(404, {"error": "not found", "paths": paths})
        except BadRequest as error:
            self.send_json(400, {"error": str(error)})
        except NoData as error:
            self.send_json(404, {"error": str(error)})
        except redis.RedisError as error:
            self.send_json(503, {"error": f"Redis: {error}"})
        except OSError:  # the client has gone
            raise
        except Exception:
            log.exception("event=bug path=%s", json.dumps(path))
            self.send_json(500, {"error": "a defect of the dashboard; its log says more"})

    do_HEAD = do_GET

    def end_headers(self) -> None:
        # What comes from Redis is shown as text; should that ever fail, nothing of it would run.
        self.send_header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def _send_events(self) -> None:
        """Until the client goes, or is too slow."""
        with self.server.events.listener() as listener:
            if listener is None:
                self.send_json(503, {"error": f"more than {MAX_LISTENERS} listen already"})
                return
            self.close_connection = True  # its end is the end of the connection
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


PAGES = {"/": "index.html", "/status": "status.html"}


class Dashboard(JsonServer):
    """Serves the pages and what they show. Listens at once (OSError if it cannot)."""

    def __init__(
        self, host: str, port: int, connection: program.Connection, health_url: str
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
                target=self._keep_on, args=(part,), name=type(part).__name__.lower(), daemon=True
            )
            for part in parts
        ]
        super().__init__(host, port, _Handler)

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

    def _keep_on(self, part: Board | Activity | Watch | Scanner) -> None:
        """A thread's life: a bug must not end it, or a page would show what was."""
        while not self._stopping.is_set():
            try:
                part.run()
            except Exception:
                log.exception("event=bug thread=%s", threading.current_thread().name)
                self._stopping.wait(RETRY_S)

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
        consumers = {
            name: life and life | {"alive": abs(now - life["timestamp"]) < DEAD_AFTER_S * 1000}
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
        limit = parameters.get("limit", "100")
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= 1000:
            raise BadRequest(f"limit={limit!r}: must be a whole number from 1 to 1000")
        for name, accepted in (("type", TYPES), ("source", SOURCES)):
            value = parameters.get(name, accepted[0])
            if value not in accepted:
                raise BadRequest(f"{name}={value!r}: must be one of {' '.join(accepted)}")
        length: Any = self._client.xlen(self._log_key)
        entries = read_log(
            self._client,
            int(limit),
            parameters.get("type"),
            parameters.get("source"),
            key=self._log_key,
        )
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


# --- program ---


def main(connection: program.Connection, _: argparse.Namespace) -> int:
    host = os.environ.get("DASHBOARD_HOST", "127.0.0.1")
    port = program.number("DASHBOARD_PORT", 8896, 0, 65535, int)
    health_url = os.environ.get("HEALTH_URL", "http://127.0.0.1:8895/health")
    if not re.match(r"https?://\S+$", health_url):
        raise program.SettingsError(
            f"HEALTH_URL={health_url!r}: must be like http://HOST:PORT/health"
        )
    try:
        server = Dashboard(host, port, connection, health_url)
    except OSError as error:
        problem = f"cannot listen on DASHBOARD_HOST={host} DASHBOARD_PORT={port}"
        raise program.Failure(f"{problem}: {error.strerror}") from error
    # An exit in the midst of `start` would leave threads; and one just before a wait is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, program.END_SIGNALS)
    server.start()
    log.info("event=start url=%s", server.url)
    signal.sigwait(program.END_SIGNALS)
    server.stop()
    return 0


SETTINGS = """\
  DASHBOARD_HOST, DASHBOARD_PORT           127.0.0.1, 8896
  HEALTH_URL                               http://127.0.0.1:8895/health, of the service
"""

if __name__ == "__main__":
    program.run(
        main,
        argparse.ArgumentParser(
            "dashboard", description="Serves the scanner page and the status page."
        ),
        SETTINGS,
    )
