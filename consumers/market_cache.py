"""Candles, prices and updates from Redis, for any Python program.

docs/redis-schema.md says what the service promises its readers. This file needs redis_log.py,
journal.py and the redis package, and connects to nothing but Redis:

    cache = MarketCache(connect("redis://127.0.0.1:6379/0"), "ta-service")
    for update in cache.updates("1h"):
        with cache.attempt():
            candles, missing = cache.all_candles(["BTCUSDT", "ETHUSDT"], "1h")
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import redis

import journal
from redis_log import DEFAULT_KEY, DEFAULT_MAXLEN, LoggedRedis

ALIVE_KEY = "consumers:alive"  # a hash: the last sign of life of each consumer
ALIVE_EVERY_S = 10.0
WAKE_S = 1.0  # the longest wait for a message, so that a stop is noticed within a second
SILENCE_S = 5.0  # then Redis is pinged, and has as long again to answer
MAX_BATCH = 1000  # messages taken at once, so that a flood cannot fill the memory
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before the next attempt, after a failure of Redis

SYMBOL = re.compile(r"[A-Z0-9]{2,20}")  # the names that the service accepts
CLOCK_SKEW_MS = 60_000  # further ahead of this clock, a time is of the future
TOO_LARGE = 1e18  # for a price or a volume: products and sums of them must stay finite
MAX_DIGITS = 18  # of a whole number; a time in ms has 13

Value = TypeVar("Value")
# What code that takes JSON apart raises where the JSON is not as expected.
BAD_DATA = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class NoData(LookupError):
    """There is no fresh data; the message says what is missing and why."""


class Candle(NamedTuple):
    """`timestamp` is the open time in ms UTC, `volume` in units of the base coin."""

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Candles(list[Candle]):
    """The candles of a symbol and timeframe, oldest first; the last one may still be forming.

    Fresh until `expires_at`, epoch seconds.
    """

    expires_at: float = 0.0

    @property
    def closed(self) -> list[Candle]:
        """All but the last. By the clock that one may have closed as well, but it may have been
        fetched before its close, so its values may not be final."""
        return self[:-1]


class Price(NamedTuple):
    """`change24h` in percent, `volume` in base units over 24 h, `timestamp` of the exchange in
    ms UTC; fresh until `expires_at`, epoch seconds."""

    price: float
    change24h: float
    volume: float
    timestamp: int
    expires_at: float


class Update(NamedTuple):
    """A published refresh of `timeframe`, or of "all": `symbols` were updated, `failed` were not;
    `timestamp` in ms UTC."""

    timeframe: str
    symbols: list[str]
    failed: list[str]
    timestamp: int
    duration_ms: int


def ohlcv_key(symbol: str, timeframe: str) -> str:
    return f"market:ohlcv:{symbol}:{timeframe}"


def price_key(symbol: str) -> str:
    return f"market:price:{symbol}"


def update_channel(timeframe: str) -> str:
    return f"market:update:{timeframe}"


def timeframe_ms(timeframe: str) -> int:
    """The length of a candle: 300000 for "5m". Raises ValueError if that is not a timeframe."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}[mhd]", timeframe):
        raise ValueError(f"{timeframe!r} is not a timeframe like 5m, 1h or 1d")
    return int(timeframe[:-1]) * {"m": 60_000, "h": 3_600_000, "d": 86_400_000}[timeframe[-1]]


def parse_json(text: str) -> Any:
    """The value of JSON from Redis. Raises ValueError, also for NaN and infinities, for numbers
    out of range, and for deep nesting."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:MAX_DIGITS]}... is too large")
    return int(text)


class MarketCache:
    """Reads the cache for a program called `source`; each read is logged as `cache_read`.

    Many threads may read; a read raises redis.RedisError if Redis does not answer. One thread may
    wait for updates or messages; while it does, it gives signs of life under `name`. It stops
    waiting within a second after `stopping` is set. Its loop calls `on_turn` between any two
    messages, and every few seconds without one, with what is wrong with Redis, "" for nothing.
    """

    def __init__(
        self,
        client: redis.Redis,
        source: str,
        name: str = "",
        *,
        log_key: str = DEFAULT_KEY,
        log_maxlen: int = DEFAULT_MAXLEN,
        stopping: threading.Event | None = None,
        on_turn: Callable[[str], None] = lambda problem: None,
    ) -> None:
        self.logged = LoggedRedis(client, source, log_key=log_key, log_maxlen=log_maxlen)
        self.name = name or source
        self.client, self._stopping = client, stopping or threading.Event()
        self._on_turn = on_turn
        self._bad: set[str] = set()  # keys whose bad data was logged
        self._started_ms = now_ms()
        self._alive_said_at = -math.inf  # monotonic
        self._alive_refused = ""  # why Redis refused the last sign of life
        self._failures = 0  # consecutive failures of Redis
        self._problem = ""  # the last of them, "" once Redis answers again
        self._failed = False  # whether an `attempt` has failed since the last subscription

    # --- reading ---

    def candles(self, symbol: str, timeframe: str) -> Candles:
        """Raises NoData if none are fresh."""
        return _only(self.all_candles([symbol], timeframe))

    def price(self, symbol: str) -> Price:
        """Raises NoData if none is fresh."""
        return _only(self.all_prices([symbol]))

    def all_candles(
        self, symbols: Iterable[str], timeframe: str
    ) -> tuple[dict[str, Candles], dict[str, str]]:
        """The candles of each symbol that has fresh ones, and for each other one the reason.
        Reads all in one round trip."""
        keys = {symbol: ohlcv_key(symbol, timeframe) for symbol in symbols}
        return self.read(keys, _candles)

    def all_prices(self, symbols: Iterable[str]) -> tuple[dict[str, Price], dict[str, str]]:
        """The price of each symbol that has a fresh one, and for each other one the reason.
        Reads all in one round trip."""
        return self.read({symbol: price_key(symbol) for symbol in symbols}, _price)

    def read(
        self, keys: Mapping[str, str], parse: Callable[[Any, float], Value]
    ) -> tuple[dict[str, Value], dict[str, str]]:
        """The value of each of `keys`, by name, and for each name without a good one the reason.

        `parse(json_value, expires_at)` makes the value, and raises BAD_DATA if it cannot. A key
        that never expires is bad data too: it is not the service's, and would be fresh for ever.
        """
        found: dict[str, Value] = {}
        missing: dict[str, str] = {}
        now = time.time()
        reads = self.logged.cache_read(*keys.values()) if keys else []
        for (name, key), read in zip(keys.items(), reads, strict=True):
            if read.value is None:
                missing[name] = f"nothing fresh in {key}"
                continue
            try:
                if read.left_s == math.inf:
                    raise ValueError("it never expires")
                found[name] = parse(parse_json(read.value), now + read.left_s)
                self._bad.discard(key)
            except BAD_DATA as error:
                missing[name] = f"bad data in {key}: {type(error).__name__}: {error}"
                if key not in self._bad and len(self._bad) < MAX_BATCH:
                    self._bad.add(key)
                    journal.event(logging.WARNING, "bad_data", key=key, reason=error)
        return found, missing

    def series(self) -> dict[str, list[str]]:
        """The symbols that have fresh candles, by timeframe, the shortest first."""
        found: dict[str, set[str]] = {}
        for key in self.client.scan_iter(ohlcv_key("*", "*"), count=1000):
            symbol, timeframe = key.split(":")[2:4]
            with suppress(ValueError):  # raised by a key that is not the service's
                timeframe_ms(timeframe)
                symbols = _symbols([symbol])
                found.setdefault(timeframe, set()).update(symbols)
        return {name: sorted(found[name]) for name in sorted(found, key=timeframe_ms)}

    # --- listening ---

    def updates(self, *timeframes: str) -> Iterator[Update | None]:
        """Yields each published refresh of one of `timeframes` (none given: of any).

        Yields None first, and again after each failure of Redis: updates may have been missed, so
        read all you need again. A consumer that is slower than the service gets one Update a
        timeframe that merges all that came meanwhile.
        """
        patterns = [update_channel(name) for name in timeframes or ["*"]]
        for batch in self._batches(patterns):
            if batch is None:
                yield None
                continue
            newest: dict[str, Update] = {}
            for channel, payload in batch:
                update = parse_update(channel, payload)
                if update and (timeframes or update.timeframe != "all"):
                    newest[channel] = _merged(newest.get(channel), update)
            yield from newest.values()

    def messages(self, *patterns: str) -> Iterator[tuple[str, str] | None]:
        """Yields the (channel, payload) of each message on a channel that matches a pattern, or has
        that name, but for those that say that they are of another database.

        Yields None first, and again after each failure of Redis: messages may have been missed.
        """
        for batch in self._batches(patterns):
            yield from [None] if batch is None else batch

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Put around the handling of an update: a failure of Redis in it is logged and ends the
        block, and after a pause the iterator yields None."""
        try:
            yield
        except redis.RedisError as error:
            self._failed = True
            self._note_failure(error)

    def _batches(self, patterns: Iterable[str]) -> Iterator[list[tuple[str, str]] | None]:
        """Yields the messages that have arrived, at least one, and None after each subscription."""
        while not self._stopping.is_set():
            self._failed = False
            try:
                # PubSub.listen would not do: it raises when the channel is silent for as long as
                # the socket's timeout, and it reconnects without telling that messages were missed.
                with self.client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    _subscribe(pubsub, list(patterns))
                    yield None
                    for batch in self._receive(pubsub):
                        if batch:
                            yield batch
                        if self._failed or self._stopping.is_set():
                            break
            except redis.RedisError as error:
                self._note_failure(error)
            self._on_turn(self._problem)
            pause_s = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
            self._stopping.wait(pause_s * random.uniform(0.5, 1))

    def _receive(self, pubsub: Any) -> Iterator[list[tuple[str, str]]]:
        """Yields the messages that have arrived, or an empty list after a second without any.

        Gives signs of life; raises redis.RedisError if Redis is gone.
        """
        heard_at, asked = time.monotonic(), False
        while not self._failed:
            self._on_turn("")
            self._say_alive()
            message = pubsub.get_message(timeout=WAKE_S)
            self._note_success()
            now = time.monotonic()
            if message:
                heard_at, asked = now, False
            elif now - heard_at > 2 * SILENCE_S:
                raise redis.TimeoutError(f"no answer for {now - heard_at:.0f} s")
            elif now - heard_at > SILENCE_S and not asked:
                pubsub.ping()
                asked = True
            batch: list[tuple[str, str]] = []
            while message and len(batch) < MAX_BATCH:
                if message["type"] in ("message", "pmessage") and self._is_ours(message["data"]):
                    batch.append((message["channel"], message["data"]))
                message = pubsub.get_message(timeout=0)
            yield batch

    def _is_ours(self, payload: str) -> bool:
        """Not if it says that it is of another database: channels are common to all of them."""
        try:
            return bool(parse_json(payload).get("db", self.logged.db) == self.logged.db)
        except BAD_DATA:
            return True  # for whoever parses it to complain

    def _say_alive(self) -> None:
        """Write a sign of life, if one is due. If Redis refuses it (read-only, disk full, another
        type of key), listening goes on."""
        now = time.monotonic()
        if now - self._alive_said_at < ALIVE_EVERY_S:
            return
        self._alive_said_at = now
        life = {"timestamp": now_ms(), "started": self._started_ms, "pid": os.getpid()}
        refused = ""
        try:
            self.client.hset(ALIVE_KEY, self.name, json.dumps(life))
        except redis.ResponseError as error:
            refused = str(error)
        if refused and not self._alive_refused:
            journal.event(logging.WARNING, "no_sign_of_life", consumer=self.name, reason=refused)
        self._alive_refused = refused

    def _note_failure(self, error: redis.RedisError) -> None:
        reason = journal.short(error)
        self._problem = f"waiting for Redis: {reason}"
        if not self._failures:
            journal.event(logging.WARNING, "redis_lost", consumer=self.name, reason=reason)
        self._failures = min(self._failures + 1, 10)  # enough for LONGEST_PAUSE_S

    def _note_success(self) -> None:
        if self._failures:
            journal.event(logging.INFO, "redis_back", consumer=self.name)
        self._failures, self._problem = 0, ""


def now_ms() -> int:
    """ms UTC."""
    return int(time.time() * 1000)


def _only(result: tuple[dict[str, Value], dict[str, str]]) -> Value:
    found, missing = result
    for reason in missing.values():
        raise NoData(reason)
    return next(iter(found.values()))


def _candles(rows: Any, expires_at: float) -> Candles:
    candles = Candles(Candle(**row) for row in rows)
    if not candles:
        raise ValueError("no candles")
    if not all(min(candle) >= 0 and max(candle) < TOO_LARGE for candle in candles):
        raise ValueError("numbers out of range")
    check_time(max(candle.timestamp for candle in candles))
    candles.expires_at = expires_at
    return candles


def _price(ticker: Any, expires_at: float) -> Price:
    price = Price(**ticker, expires_at=expires_at)
    if any(isinstance(value, bool) for value in price) or not 0 < price.price < TOO_LARGE:
        raise ValueError("not a price")
    price.change24h + price.volume  # a TypeError if one is not a number
    check_time(price.timestamp)
    return price


def check_time(time_ms: Any) -> None:
    """Raises ValueError if `time_ms` is not a time in ms, or of the future."""
    if type(time_ms) is not int:
        raise ValueError(f"the time {str(time_ms)[:20]!r} is not a whole number")
    if time_ms > now_ms() + CLOCK_SKEW_MS:
        raise ValueError(f"{time_ms} is of the future, by this machine's clock")


def _symbols(names: Any) -> list[str]:
    for name in names:
        if not SYMBOL.fullmatch(name):
            raise ValueError(f"{name!r} is not a symbol")
    return list(names)


def _subscribe(pubsub: Any, channels: list[str]) -> None:
    """Returns once Redis has confirmed it: every later message will be received.

    A name without a wildcard is subscribed to plainly, for which an ACL may have a rule of its own.
    """
    patterns = [channel for channel in channels if re.search(r"[*?[]", channel)]
    if names := [channel for channel in channels if channel not in patterns]:
        pubsub.subscribe(*names)
    if patterns:
        pubsub.psubscribe(*patterns)
    left = len({*channels})
    while left:
        message = pubsub.get_message(timeout=SILENCE_S)
        if message is None:
            raise redis.TimeoutError("no answer to a subscription")
        left -= message["type"] in ("subscribe", "psubscribe")


def parse_update(channel: str, payload: str) -> Update | None:
    """The Update in a message; None, with a warning, if the service cannot have published it."""
    try:
        body, timeframe = parse_json(payload), channel.removeprefix(update_channel(""))
        if timeframe != "all":
            timeframe_ms(timeframe)
        return Update(
            timeframe,
            _symbols(body["symbols"]),
            _symbols(body["failed"]),
            int(body["timestamp"]),
            int(body["duration_ms"]),
        )
    except BAD_DATA as error:
        journal.event(logging.WARNING, "bad_update", channel=channel, reason=repr(error))
        return None


def _merged(earlier: Update | None, update: Update) -> Update:
    """The later of two updates of a timeframe, with the symbols of the earlier one added."""
    if earlier is None:
        return update
    symbols = sorted({*earlier.symbols, *update.symbols})
    failed = sorted({*earlier.failed, *update.failed}.difference(symbols))
    return update._replace(symbols=symbols, failed=failed)
