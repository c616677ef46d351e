"""Candles, prices and updates out of Redis, for any Python program.

What the service promises its readers is in docs/redis-schema.md. This file needs redis_log.py and
the redis package, and talks to nobody but Redis:

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

from redis_log import DEFAULT_KEY, DEFAULT_MAXLEN, LoggedRedis

ALIVE_KEY = "consumers:alive"  # hash: by consumer, its last sign of life
ALIVE_EVERY_S = 10.0
WAKE_S = 1.0  # the longest wait for a message at once
SILENCE_S = 5.0  # then Redis is asked whether it is still there, and has as long to answer
MAX_BATCH = 1000  # messages taken at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before the next try, after a failure of Redis

SYMBOL = re.compile(r"[A-Z0-9]{2,20}")  # names that the service accepts
TOO_LARGE = 1e18  # for a price or a volume: what is made of them stays a number
MAX_DIGITS = 18

log = logging.getLogger("market_cache")
Value = TypeVar("Value")
# What is raised by code that takes JSON apart and finds something else than it expects.
BAD_DATA = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class NoData(LookupError):
    """There is no fresh data; the message says what is missing, and why if that is known."""


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

    They are fresh until `expires_at`, epoch seconds.
    """

    expires_at: float = 0.0

    @property
    def closed(self) -> list[Candle]:
        """Those that a later one follows. By the clock the last one may have closed too, but
        whether it was read before its close or after it cannot be told from here."""
        return self[:-1]


class Price(NamedTuple):
    """`change24h` in percent, `volume` in base units over 24 h, `timestamp` ms UTC, the
    exchange's; fresh until `expires_at`, epoch seconds."""

    price: float
    change24h: float
    volume: float
    timestamp: int
    expires_at: float


class Update(NamedTuple):
    """A refresh of `timeframe`, or of "all", was published: `symbols` were updated, `failed` were
    not; `timestamp` in ms UTC."""

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
    """The length of a candle: 300000 for "5m". Raises ValueError if it is no timeframe."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}[mhd]", timeframe):
        raise ValueError(f"{timeframe!r} is no timeframe like 5m, 1h or 1d")
    return int(timeframe[:-1]) * {"m": 60_000, "h": 3_600_000, "d": 86_400_000}[timeframe[-1]]


def parse_json(text: str) -> Any:
    """What JSON from Redis says. Raises ValueError, also for numbers that are none or out of all
    range, and for deep nesting."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


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
    """Reads the cache, as one of redis_log.SOURCES; each read is logged as `cache_read`.

    Reads raise redis.RedisError if Redis does not answer; many threads may read. One thread may
    wait for updates or messages, and gives signs of life under `name` while it does. Its waiting
    ends within a second after `stopping` is set.
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
    ) -> None:
        self.logged = LoggedRedis(client, source, log_key=log_key, log_maxlen=log_maxlen)
        self.name = name or source
        self._client, self._stopping = client, stopping or threading.Event()
        self._started_ms = now_ms()
        self._alive_said_at = -math.inf  # monotonic
        self._alive_refused = ""  # why Redis would not have the last sign of life
        self._failures = 0  # of Redis, one after the other
        self._failed = False  # whether an `attempt` failed since the last subscription

    # --- reading ---

    def candles(self, symbol: str, timeframe: str) -> Candles:
        """Raises NoData if there are no fresh ones."""
        return _only(self.all_candles([symbol], timeframe))

    def price(self, symbol: str) -> Price:
        """Raises NoData if there is no fresh one."""
        return _only(self.all_prices([symbol]))

    def all_candles(
        self, symbols: Iterable[str], timeframe: str
    ) -> tuple[dict[str, Candles], dict[str, str]]:
        """Fresh candles by symbol; and of each symbol without, the reason. One round trip."""
        keys = {symbol: ohlcv_key(symbol, timeframe) for symbol in symbols}
        return self.read(keys, _candles)

    def all_prices(self, symbols: Iterable[str]) -> tuple[dict[str, Price], dict[str, str]]:
        """Fresh prices by symbol; and of each symbol without, the reason. One round trip."""
        return self.read({symbol: price_key(symbol) for symbol in symbols}, _price)

    def read(
        self, keys: Mapping[str, str], parse: Callable[[Any, float], Value]
    ) -> tuple[dict[str, Value], dict[str, str]]:
        """JSON values by the names of their keys; and of each name without, the reason.

        `parse(value, expires_at)` makes a value of what the JSON says; BAD_DATA that it raises
        means that what is there is not as it should be. So does a key that never expires.
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
            except BAD_DATA as error:
                missing[name] = f"bad data in {key}: {type(error).__name__}: {error}"
        return found, missing

    def series(self) -> dict[str, list[str]]:
        """The symbols that have fresh candles, by timeframe, the shortest first."""
        found: dict[str, set[str]] = {}
        for key in self._client.scan_iter(ohlcv_key("*", "*"), count=1000):
            symbol, timeframe = key.split(":")[2:4]
            with suppress(ValueError):  # not a key of the service
                timeframe_ms(timeframe)
                symbols = _symbols([symbol])
                found.setdefault(timeframe, set()).update(symbols)
        return {name: sorted(found[name]) for name in sorted(found, key=timeframe_ms)}

    # --- hearing ---

    def updates(self, *timeframes: str) -> Iterator[Update | None]:
        """Yields when a refresh of one of `timeframes` (none: any) was published.

        None means that updates may have been missed, so read again all you need: it comes first,
        and again after each failure of Redis. Whoever is slower than the service gets one Update
        a timeframe that tells of all that came meanwhile.
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
        """Yields (channel, payload) of each message of the channels that match.

        None means that messages may have been missed: it comes first, and again after each
        failure of Redis.
        """
        for batch in self._batches(patterns):
            yield from [None] if batch is None else batch

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around what is done with an update: if Redis fails meanwhile, this is logged, what is
        left of the block is not done, and after a pause the iterator yields None."""
        try:
            yield
        except redis.RedisError as error:
            self._failed = True
            self._note_failure(error)

    def _batches(self, patterns: Iterable[str]) -> Iterator[list[tuple[str, str]] | None]:
        """All messages that have arrived, at least one; None after each (re)subscription."""
        while not self._stopping.is_set():
            self._failed = False
            try:
                # Not PubSub.listen: it raises after a silence as long as the socket's time-out,
                # and where it reconnects by itself nobody would know that messages were missed.
                with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.psubscribe(*patterns)
                    _confirm(pubsub)
                    yield None
                    for batch in self._receive(pubsub):
                        if batch:
                            yield batch
                        if self._failed or self._stopping.is_set():
                            break
            except redis.RedisError as error:
                self._note_failure(error)
            pause_s = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
            self._stopping.wait(pause_s * random.uniform(0.5, 1))

    def _receive(self, pubsub: Any) -> Iterator[list[tuple[str, str]]]:
        """All messages that have arrived, at the latest after a second, if there are none.

        Gives signs of life; raises redis.RedisError if Redis is gone.
        """
        heard_at, asked = time.monotonic(), False
        while not self._failed:
            self._say_alive()
            message = pubsub.get_message(timeout=WAKE_S)
            self._note_success()
            now = time.monotonic()
            if message:
                heard_at, asked = now, False
            elif now - heard_at > 2 * SILENCE_S:
                raise redis.TimeoutError(f"silent for {now - heard_at:.0f} s")
            elif now - heard_at > SILENCE_S and not asked:
                pubsub.ping()
                asked = True
            batch: list[tuple[str, str]] = []
            while message and len(batch) < MAX_BATCH:
                if message["type"] == "pmessage":
                    batch.append((message["channel"], message["data"]))
                message = pubsub.get_message(timeout=0)
            yield batch

    def _say_alive(self) -> None:
        """Where Redis will not have it (read-only, its disk full, another type of key), what can
        be heard is heard nevertheless."""
        now = time.monotonic()
        if now - self._alive_said_at < ALIVE_EVERY_S:
            return
        self._alive_said_at = now
        life = {"timestamp": now_ms(), "started": self._started_ms, "pid": os.getpid()}
        refused = ""
        try:
            self._client.hset(ALIVE_KEY, self.name, json.dumps(life))
        except redis.ResponseError as error:
            refused = str(error)
        if refused and not self._alive_refused:
            log.warning(
                "event=no_sign_of_life consumer=%s reason=%s", self.name, json.dumps(refused)
            )
        self._alive_refused = refused

    def _note_failure(self, error: redis.RedisError) -> None:
        if not self._failures:
            log.warning("event=redis_lost consumer=%s reason=%s", self.name, json.dumps(str(error)))
        self._failures = min(self._failures + 1, 10)

    def _note_success(self) -> None:
        if self._failures:
            log.info("event=redis_back consumer=%s", self.name)
        self._failures = 0


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
        raise ValueError("no candle in it")
    if not all(min(candle) >= 0 and max(candle) < TOO_LARGE for candle in candles):
        raise ValueError("numbers out of range")
    candles.expires_at = expires_at
    return candles


def _price(ticker: Any, expires_at: float) -> Price:
    price = Price(**ticker, expires_at=expires_at)
    if any(isinstance(value, bool) for value in price) or not 0 < price.price < TOO_LARGE:
        raise ValueError("no price in it")
    price.change24h + price.volume + price.timestamp  # numbers, or this is a TypeError
    return price


def _symbols(names: Any) -> list[str]:
    for name in names:
        if not SYMBOL.fullmatch(name):
            raise ValueError(f"{name!r} is no symbol")
    return list(names)


def _confirm(pubsub: Any) -> None:
    """Wait until Redis has taken the subscription: what is published from now on is heard."""
    left = len(pubsub.patterns)
    while left:
        message = pubsub.get_message(timeout=SILENCE_S)
        if message is None:
            raise redis.TimeoutError("no answer to a subscription")
        left -= message["type"] == "psubscribe"


def parse_update(channel: str, payload: str) -> Update | None:
    """None, with a warning, if it is not what the service publishes."""
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
        log.warning(
            "event=bad_update channel=%s reason=%s", json.dumps(channel), json.dumps(repr(error))
        )
        return None


def _merged(earlier: Update | None, update: Update) -> Update:
    """The newer of two updates of a timeframe, with what the earlier one told."""
    if earlier is None:
        return update
    symbols = sorted({*earlier.symbols, *update.symbols})
    failed = sorted({*earlier.failed, *update.failed}.difference(symbols))
    return update._replace(symbols=symbols, failed=failed)
