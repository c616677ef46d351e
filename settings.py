"""The settings of the service: its environment variables, checked whole, as one frozen object.

Knows nothing of threads, Redis or HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import redis_log
from binance_answers import MAX_CANDLES, MAX_TICKER_SYMBOLS, TIMEFRAME_MS
from candles import PRICE_TTL_S
from environment import (
    Environment,
    decimal,
    host_names,
    host_or_address,
    matching,
    message_log_key,
    redis_url,
    whole,
)

VERSION = "1.0.0"

EXCHANGE_URL = "https://api.binance.us"
_COINS = """BTC ETH SOL XRP ADA DOGE AVAX LINK DOT LTC BCH UNI ATOM XLM ALGO
    NEAR FIL ICP HBAR VET AAVE GRT SHIB BNB SUI APT ARB OP ETC"""
DEFAULT_SYMBOLS = ",".join(f"{coin}USDT" for coin in _COINS.split())

DEFAULT_LEADER_KEY = "market:leader"

# Weight a minute beside the refreshes: the hourly listing of symbols must always fit in.
LISTING_WEIGHT = 20


class Timeframe(NamedTuple):
    """How often the candles of `name` are refreshed and how long they live in Redis."""

    name: str
    refresh_s: int
    ttl_s: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, checked. Each is the environment variable of the same name in capitals."""

    binance_base_url: str
    redis_url: str
    symbols: tuple[str, ...]
    timeframes: tuple[Timeframe, ...]
    candle_limit: int
    refresh_offset_ms: int
    health_host: str
    health_port: int
    allowed_hosts: tuple[str, ...]
    max_workers: int
    weight_limit: int
    message_log_key: str
    message_log_maxlen: int
    leader_key: str
    leader_ttl: float
    log_level: str
    request_timeout: float

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """As `read`."""
        return cls.read(Environment(environ))

    @classmethod
    def read(cls, env: Environment) -> Settings:
        """Raises SettingsError that names each bad variable, its value and what is accepted."""
        read = env.read
        settings = cls(
            binance_base_url=read("BINANCE_BASE_URL", EXCHANGE_URL, _base_url),
            redis_url=read("REDIS_URL", redis_log.DEFAULT_URL, redis_url),
            symbols=read("SYMBOLS", DEFAULT_SYMBOLS, _symbols),
            timeframes=read("TIMEFRAMES", "5m:30:120,1h:120:300,4h:300:600", _timeframes),
            candle_limit=read("CANDLE_LIMIT", "500", whole(10, MAX_CANDLES)),
            refresh_offset_ms=read("REFRESH_OFFSET_MS", "500", whole(0, 10_000)),
            health_host=read("HEALTH_HOST", "127.0.0.1", host_or_address),
            health_port=read("HEALTH_PORT", "8895", whole(0, 65535)),
            allowed_hosts=read("ALLOWED_HOSTS", "", host_names),
            max_workers=read("MAX_WORKERS", "32", whole(1, 64)),
            weight_limit=read("WEIGHT_LIMIT", "1200", whole(20, 100_000)),
            message_log_key=read("MESSAGE_LOG_KEY", redis_log.DEFAULT_KEY, message_log_key),
            message_log_maxlen=read("MESSAGE_LOG_MAXLEN", "10000", whole(100, 1_000_000)),
            leader_key=read("LEADER_KEY", DEFAULT_LEADER_KEY, _leader_key),
            leader_ttl=read("LEADER_TTL", "10", decimal(3, 60)),
            log_level=read("LOG_LEVEL", "INFO", _log_level),
            request_timeout=read("REQUEST_TIMEOUT", "5", decimal(0.1, 60)),
        )
        env.check()
        if settings.leader_key == settings.message_log_key:
            env.refuse("LEADER_KEY", "must be another key than MESSAGE_LOG_KEY")
        # The limiter's window is longer than a minute, by the time that a request may travel.
        window_s = 60 + settings.request_timeout
        needed = settings.weight_a_minute * window_s / 60 + LISTING_WEIGHT
        if needed > settings.weight_limit:
            env.refuse(
                "WEIGHT_LIMIT",
                f"must be {math.ceil(needed)} or more for these SYMBOLS and TIMEFRAMES, or there "
                "must be fewer of them",
            )
        env.check()
        return settings

    @property
    def hold_key(self) -> str:
        """Where Redis has the end of a hold, for whoever leads next. A hold is an IP address's, and
        services on addresses of their own have a LEADER_KEY of their own."""
        return "market:hold" if self.leader_key == DEFAULT_LEADER_KEY else f"{self.leader_key}:hold"

    @property
    def price_timeframe(self) -> Timeframe:
        """The one that refreshes most often; prices are read with it."""
        return min(self.timeframes, key=lambda timeframe: timeframe.refresh_s)

    @property
    def weight_a_minute(self) -> float:
        """What all refreshes cost in steady state; each request weighs 1."""
        count = len(self.symbols)
        prices = math.ceil(count / MAX_TICKER_SYMBOLS) * 60 / self.price_timeframe.refresh_s
        return prices + sum(count * 60 / timeframe.refresh_s for timeframe in self.timeframes)


_leader_key = matching(
    r"(?!market:(ohlcv|price|update):)\S+", "a key without spaces, not one of the market's data"
)
_log_level = matching("DEBUG|INFO|WARNING|ERROR", "one of DEBUG INFO WARNING ERROR")


def _base_url(text: str) -> str:
    url = text.rstrip("/")
    loopback = r"https?://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[1-9][0-9]{0,4})?"
    if url != EXCHANGE_URL and not re.fullmatch(loopback, url):
        raise ValueError(
            f"must be {EXCHANGE_URL}, the only exchange that this service may talk to, or a "
            "loopback address like http://127.0.0.1:18080 for a simulation"
        )
    return url


def _symbols(text: str) -> tuple[str, ...]:
    symbols = tuple(symbol.strip().upper() for symbol in text.split(","))
    valid = text.isascii() and all(re.fullmatch(r"[A-Z0-9]{2,20}", symbol) for symbol in symbols)
    if not valid or len(set(symbols)) < len(symbols):
        raise ValueError("must be the exchange's symbols, each once, like BTCUSDT,ETHUSDT")
    return symbols


def _timeframes(text: str) -> tuple[Timeframe, ...]:
    timeframes: list[Timeframe] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\w+):([0-9]{1,5}):([0-9]{1,5})", part.strip(), re.ASCII)
        names = [timeframe.name for timeframe in timeframes]
        if not found or found[1] not in TIMEFRAME_MS or found[1] in names:
            raise ValueError(
                "must be name:refresh:TTL in seconds, each name once, like 5m:30:120,1h:120:300; "
                f"names are {' '.join(TIMEFRAME_MS)}"
            )
        timeframes.append(Timeframe(found[1], int(found[2]), int(found[3])))
        if not 1 <= timeframes[-1].refresh_s < timeframes[-1].ttl_s:
            raise ValueError(f"must have a TTL longer than the refresh interval, unlike {part}")
    if min(timeframe.refresh_s for timeframe in timeframes) >= PRICE_TTL_S:
        raise ValueError(f"must have one that refreshes in under {PRICE_TTL_S} s, for the prices")
    return tuple(timeframes)
