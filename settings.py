"""The settings of the service: its environment variables, checked whole, as one frozen object.

Knows nothing of threads, Redis or HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import redis_log
from binance_answers import MAX_CANDLES, TIMEFRAME_MS
from binance_client import MAX_TICKER_SYMBOLS, WEIGHT_LIMIT
from candles import PRICE_TTL_S
from redis_log import redact

VERSION = "0.1.0"
EXCHANGE_URL = "https://api.binance.us"
DEFAULT_COINS = """BTC ETH SOL XRP ADA DOGE AVAX LINK DOT LTC BCH UNI ATOM XLM ALGO
    NEAR FIL ICP HBAR VET AAVE GRT SHIB BNB SUI APT ARB OP ETC"""
DEFAULT_SYMBOLS = ",".join(f"{coin}USDT" for coin in DEFAULT_COINS.split())
SPARE_WEIGHT = 20  # a minute, for the listing, which weighs up to that, or for some retries


class SettingsError(ValueError):
    """Its `args`: a sentence for each bad variable."""


class Timeframe(NamedTuple):
    """How often the candles of `name` are refreshed and how long they live in Redis."""

    name: str
    refresh_s: int
    ttl_s: int


def _number(text: str, low: float, high: float, kind: type[int] | type[float] = int) -> float:
    pattern = r"[0-9]{1,9}" if kind is int else r"[0-9]{1,9}(\.[0-9]{1,9})?"
    if not re.fullmatch(pattern, text) or not low <= float(text) <= high:
        raise ValueError(f"must be a {'whole ' * (kind is int)}number from {low} to {high}")
    return kind(text)


def _text(text: str, pattern: str, accepted: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(f"must be {accepted}")
    return text


def _base_url(text: str) -> str:
    url = text.rstrip("/")
    loopback = r"https?://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[1-9][0-9]{0,4})?"
    if url != EXCHANGE_URL and not re.fullmatch(loopback, url):
        raise ValueError(
            f"must be {EXCHANGE_URL}, the only exchange that this service may talk to, or a "
            "loopback address like http://127.0.0.1:18080 for a simulation"
        )
    return url


def _redis_url(text: str) -> str:
    redis_log.connect(text)
    return text


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


def _env(default: str, parse: Callable[..., Any], *accepted: Any) -> Any:
    """A field of Settings: its variable's default, and how and within what its text is read."""
    return field(metadata={"read": (default, parse, accepted)})


_LEVELS = "DEBUG|INFO|WARNING|ERROR"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, checked. Each is the environment variable of the same name in capitals."""

    binance_base_url: str = _env(EXCHANGE_URL, _base_url)
    redis_url: str = _env(redis_log.DEFAULT_URL, _redis_url)
    symbols: tuple[str, ...] = _env(DEFAULT_SYMBOLS, _symbols)
    timeframes: tuple[Timeframe, ...] = _env("5m:30:120,1h:120:300,4h:300:600", _timeframes)
    candle_limit: int = _env("500", _number, 10, MAX_CANDLES)
    refresh_offset_ms: int = _env("500", _number, 0, 10_000)
    health_host: str = _env("127.0.0.1", _text, r"[\w.:-]+", "a host or address")
    health_port: int = _env("8895", _number, 0, 65535)
    max_workers: int = _env("32", _number, 1, 64)
    weight_limit: int = _env("1200", _number, 20, WEIGHT_LIMIT)
    message_log_key: str = _env(
        redis_log.DEFAULT_KEY, _text, r"(?!market:)\S+", "a key without spaces, not one of market:"
    )
    leader_ttl: float = _env("10", _number, 3, 60, float)
    message_log_maxlen: int = _env(str(redis_log.DEFAULT_MAXLEN), _number, 100, 1_000_000)
    log_level: str = _env("INFO", _text, _LEVELS, f"one of {_LEVELS}")
    request_timeout: float = _env("5", _number, 0.1, 60, float)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Raises SettingsError that names each bad variable, its value and what is accepted."""
        problems: list[str] = []
        values: dict[str, Any] = {}
        for each in fields(cls):
            default, parse, accepted = each.metadata["read"]
            name = each.name.upper()
            text = environ.get(name, default).strip()
            try:
                values[each.name] = parse(text, *accepted)
            except ValueError as error:
                problems.append(f"{name}={redact(text)!r}: {error}")
        if problems:
            raise SettingsError(*problems)
        settings = cls(**values)
        # The limiter's window is longer than a minute.
        needed = settings.weight_a_minute * (60 + settings.request_timeout) / 60 + SPARE_WEIGHT
        if needed > settings.weight_limit:
            raise SettingsError(
                f"WEIGHT_LIMIT={settings.weight_limit}: must be {math.ceil(needed)} or more for "
                "these SYMBOLS and TIMEFRAMES, or there must be fewer of them"
            )
        return settings

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
