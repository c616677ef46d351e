"""What the pages show, kept up to date; knows nothing of HTTP requests.

Board reads prices, scores and indicators whenever they change, Activity follows the message log,
and Watch asks whether the service, Redis and the consumers are alive. Each `run` is the loop of one
thread, and any other thread may read what they hold. Each publishes its news as events.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis

from consumers import scanner, ta_service
from consumers.events import Events
from consumers.market_cache import (
    ALIVE_EVERY_S,
    ALIVE_KEY,
    BAD_DATA,
    MarketCache,
    Update,
    now_ms,
    parse_json,
    parse_update,
    price_key,
    timeframe_ms,
    update_channel,
)
from consumers.scanner import score_key
from consumers.ta_service import indicators_key
from consumers.trouble import NOT_ASKED, Trouble, trouble
from environment import is_loopback
from journal import short
from redis_log import RARE_TYPES, follow_log, log_extent, redact

CONSUMERS = ("scanner", "ta-service", "trader-bot", "dashboard")  # shown even if never seen
MINUTE_MS, CHARTED_MINUTES = 60_000, 30  # the chart of messages a minute
WATCH_EVERY_S = 2.0
HEALTH_TIMEOUT_S = 2.0  # the service answers from memory, so a slower answer is trouble
DEAD_AFTER_S = 3 * ALIVE_EVERY_S  # a consumer may be busy and give one sign of life late
LOGS = (None, *RARE_TYPES)  # the message log, and the rare types with streams of their own
RETRY_S = 1.0  # after a failure of Redis, or a bug

OnTurn = Callable[[str], None]  # called by a loop at each turn, with what is wrong with it


class Held(NamedTuple):
    """The value of a key, which may be shown until `expires_at`, epoch seconds."""

    value: Any
    expires_at: float


class Board:
    """Price, score and indicators of each coin, each for as long as it is fresh, and its newest
    signal.

    Reads Redis when something is published, so requests for a page cost Redis nothing.
    """

    def __init__(self, cache: MarketCache, log_key: str, events: Events) -> None:
        self._cache, self._log_key, self._events = cache, log_key, events
        # Guards the fields below: one thread changes them, HTTP threads read them.
        self._lock = threading.Lock()
        self._symbols: set[str] = set()  # all ever seen, so that a missing one is shown as missing
        self._timeframes: set[str] = set()
        self._held: dict[str, Held] = {}  # by key
        self._updates: dict[str, dict[str, int]] = {}  # the last update heard, by timeframe
        self._signals: dict[str, dict[str, Any]] = {}  # the newest one, by symbol

    def run(self) -> None:
        """Read what each message announces, until the cache stops."""
        channels = (update_channel("*"), ta_service.update_channel("*"), scanner.UPDATE_CHANNEL)
        for message in self._cache.messages(*channels):
            with self._cache.attempt():
                self.turn(message)

    def turn(self, message: tuple[str, str] | None) -> None:
        """Read what a message announces; everything if messages may have been missed (None)."""
        channel, payload = message or ("", "")
        if message is None:
            for timeframe, symbols in self._cache.series().items():
                self._see(timeframe, symbols)
            self._read_prices()
            self._read_scores()
            self._read_analyses(self.timeframes())
            self._read_signals()
        elif channel == scanner.UPDATE_CHANNEL:
            self._read_scores()
        elif channel.startswith(ta_service.update_channel("")):
            self._read_analyses([channel.removeprefix(ta_service.update_channel(""))])
            self._read_signals()  # the update came with those of its candles
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
        failed = len(update.failed)
        with self._lock:
            if update.symbols:
                counts = {"symbols": len(update.symbols), "failed": failed}
                self._updates[update.timeframe] = {"timestamp": update.timestamp, **counts}
            elif known := self._updates.get(update.timeframe):
                self._updates[update.timeframe] = known | {"failed": failed}

    def _read_prices(self) -> None:
        found, _ = self._cache.all_prices(self.symbols())
        with self._lock:
            for symbol, price in found.items():
                body = price._asdict()
                self._held[price_key(symbol)] = Held(body, body.pop("expires_at"))

    def _read_scores(self) -> None:
        self._read(score_key(symbol) for symbol in self.symbols())

    def _read_analyses(self, timeframes: Iterable[str]) -> None:
        self._read(
            indicators_key(symbol, timeframe)
            for timeframe in timeframes
            for symbol in self.symbols()
        )

    def _read(self, keys: Iterable[str]) -> None:
        """A missing key leaves the older value, which `rows` hides once it expires."""
        found, _ = self._cache.read({key: key for key in keys}, Held)
        with self._lock:
            self._held |= found

    def _read_signals(self) -> None:
        # A user without the right to read them has all the rest; Watch says that it is refused.
        with suppress(redis.ResponseError):
            entries = ta_service.newest_signals(self._cache.client, self._log_key)
            newest = {
                said.symbol: said._asdict() | {"timestamp": said_ms}
                for said, said_ms in ta_service.logged_signals(reversed(entries))
            }
            with self._lock:
                self._signals |= newest

    def symbols(self) -> list[str]:
        with self._lock:
            return sorted(self._symbols)

    def timeframes(self) -> list[str]:
        """The shortest first."""
        with self._lock:
            return sorted(self._timeframes, key=timeframe_ms)

    def updates(self) -> dict[str, dict[str, int]]:
        """The last refresh heard of each timeframe that brought something: when it was published
        (ms UTC), how many symbols it updated, and how many failed in the last one."""
        with self._lock:
            return dict(self._updates)

    def expires_at(self) -> int | None:
        """When the first of the fresh values expires, ms UTC: nothing is published then."""
        ends = [held.expires_at for held in self._fresh().values()]
        return int(min(ends) * 1000) if ends else None

    def _fresh(self) -> dict[str, Held]:
        now = time.time()
        with self._lock:
            return {key: held for key, held in self._held.items() if held.expires_at > now}

    def prices(self) -> dict[str, float]:
        """The fresh price of each coin that has one."""
        fresh, keys = self._fresh(), {symbol: price_key(symbol) for symbol in self.symbols()}
        return {symbol: fresh[key].value["price"] for symbol, key in keys.items() if key in fresh}

    def rows(self) -> list[dict[str, Any]]:
        """The fresh values of each coin as they are in Redis, and its newest signal with the time
        of its publication (ms UTC); None where there is none."""
        symbols, timeframes = self.symbols(), self.timeframes()
        fresh = {key: held.value for key, held in self._fresh().items()}
        with self._lock:
            signals = self._signals.copy()
        return [
            {
                "symbol": symbol,
                "price": fresh.get(price_key(symbol)),
                "scan": fresh.get(score_key(symbol)),
                "ta": {name: fresh.get(indicators_key(symbol, name)) for name in timeframes},
                "signal": signals.get(symbol),
            }
            for symbol in symbols
        ]


class Activity:
    """Follows the message log: publishes each entry as an event and counts entries a minute."""

    def __init__(
        self,
        client: redis.Redis,
        log_key: str,
        log_maxlen: int,
        events: Events,
        stopping: threading.Event,
        on_turn: OnTurn = lambda problem: None,
    ) -> None:
        self._client, self._log_key, self._log_maxlen = client, log_key, log_maxlen
        self._events, self._stopping, self._on_turn = events, stopping, on_turn
        # Guards _counts: one thread counts, HTTP threads read.
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()  # by minute since the epoch

    def run(self) -> None:
        """Follow the log until `stopping` is set, through every failure of Redis."""
        failed = False
        while not self._stopping.is_set():
            try:
                after = self._count()
                if failed:  # announced only now: a page that reads the log on it misses nothing
                    self._events.publish("redis", {"up": True, "error": ""})
                failed = False
                self._follow(after)
            except redis.RedisError as error:
                if not failed:
                    self._events.publish("redis", {"up": False, "error": str(error)})
                failed = True
                self._on_turn(f"waiting for Redis: {short(error)}")
                self._stopping.wait(RETRY_S)

    def _count(self) -> str:
        """Count the entries of the charted minutes; returns the id after which to follow."""
        start_ms = (now_ms() // MINUTE_MS - CHARTED_MINUTES + 1) * MINUTE_MS
        entries: Any = self._client.xrange(self._log_key, min=str(start_ms))
        counts = Counter(_minute(id_) for id_, _ in entries)
        if len(entries) >= self._log_maxlen:
            del counts[min(counts)]  # the cap of the log has removed part of that minute
        with self._lock:
            self._counts = counts
        return str(entries[-1][0]) if entries else str(start_ms)

    def _follow(self, after: str) -> None:
        for added in follow_log(self._client, after, key=self._log_key):
            if self._stopping.is_set():
                return
            self._on_turn("")
            if added:
                with self._lock:
                    self._counts.update(_minute(entry["id"]) for entry in added)
                    for minute in sorted(self._counts)[:-CHARTED_MINUTES]:
                        del self._counts[minute]
                self._events.publish("log", added)

    def per_minute(self) -> list[tuple[int, int]]:
        """Start (ms UTC) and count of each charted minute, oldest first, up to the current one."""
        current = now_ms() // MINUTE_MS
        with self._lock:
            oldest = max(min(self._counts, default=current), current - CHARTED_MINUTES + 1)
            return [
                (minute * MINUTE_MS, self._counts[minute]) for minute in range(oldest, current + 1)
            ]


def _minute(entry_id: str) -> int:
    return int(entry_id.partition("-")[0]) // MINUTE_MS


class Watch:
    """Asks every 2 s whether the service and Redis answer, and which consumers are alive. Publishes
    an event when Redis begins or ceases to answer, and when the service's trouble changes."""

    def __init__(
        self,
        client: redis.Redis,
        log_key: str,
        health_url: str,
        events: Events,
        stopping: threading.Event,
        on_turn: OnTurn = lambda problem: None,
    ) -> None:
        self._client, self._log_key, self._health_url = client, log_key, health_url
        self._events, self._stopping, self._on_turn = events, stopping, on_turn
        # A proxy of the environment is not for this machine.
        of_here = is_loopback(urlsplit(health_url).hostname or "")
        no_proxy = [urllib.request.ProxyHandler({})] if of_here else []
        self._opener = urllib.request.build_opener(*no_proxy)
        # The last answers. One thread replaces the whole dict, so readers need no lock.
        self.state: dict[str, Any] = {
            "service": {"up": False, "error": NOT_ASKED, "health": None},
            "redis": _redis_state(NOT_ASKED),
            "consumers": dict.fromkeys(CONSUMERS),
        }

    def run(self) -> None:
        """Ask until `stopping` is set."""
        while not self._stopping.is_set():
            self.turn()
            self._on_turn("")
            self._stopping.wait(WATCH_EVERY_S)

    def turn(self) -> None:
        redis_state, lives = self._ask_redis()
        consumers = self.state["consumers"] if lives is None else lives
        service = self._ask_service()
        before = self.redis(), self.trouble()
        self.state = {"service": service, "redis": redis_state, "consumers": consumers}
        if (self.redis(), self.trouble()) != before:
            self._events.publish("state", {"redis": self.redis(), "trouble": self.trouble()})

    def redis(self) -> dict[str, Any]:
        """Whether Redis answers, and else why not."""
        return {name: self.state["redis"][name] for name in ("up", "error")}

    def trouble(self) -> Trouble | None:
        """What is wrong with the service; None if nothing is."""
        return trouble(self.state["service"])

    def _ask_service(self) -> dict[str, Any]:
        url = self._health_url
        try:
            try:
                answer = self._opener.open(url, timeout=HEALTH_TIMEOUT_S)
            except urllib.error.HTTPError as error:
                answer = error  # a 503 of the service has the same body
            with answer:
                return {"up": True, "error": "", "health": dict(json.load(answer))}
        except OSError as error:
            reason = f"{redact(url)} does not answer: {getattr(error, 'reason', error)}"
        except (TypeError, ValueError, http.client.HTTPException):
            reason = f"what answers at {redact(url)} is not the service"
        return {"up": False, "error": reason, "health": None}

    def _ask_redis(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The state of Redis, and each consumer's last sign of life; None if it does not answer."""
        refused: list[str] = []

        def answer_of(question: Callable[[], Any]) -> Any:
            try:
                return question()
            except redis.ResponseError as error:
                refused.append(str(error))
                return None

        try:
            known = answer_of(lambda: self._client.hgetall(ALIVE_KEY)) or {}
            log = {type_ or "all": answer_of(partial(self._extent, type_)) for type_ in LOGS}
        except redis.RedisError as error:
            return _redis_state(str(error)), None
        names = [*CONSUMERS, *sorted(known.keys() - set(CONSUMERS))]
        state = _redis_state("; ".join(refused), log)
        return state, {name: _life(known.get(name)) for name in names}

    def _extent(self, type_: str | None) -> dict[str, Any]:
        return log_extent(self._client, type_, key=self._log_key)._asdict()


def _redis_state(error: str, log: dict[str, Any] | None = None) -> dict[str, Any]:
    """`log`: the extents of the whole message log and of each rare type; None if Redis is down."""
    length = log["all"]["length"] if log and log["all"] else None
    return {"up": log is not None, "error": error, "message_log_length": length, "log": log or {}}


def _life(text: str | None) -> dict[str, Any] | None:
    """The time (ms UTC) and process of a consumer's last sign of life; None if there is none."""
    try:
        body = parse_json(text or "")
        return {"timestamp": int(body["timestamp"]), "pid": int(body["pid"])}
    except BAD_DATA:
        return None
