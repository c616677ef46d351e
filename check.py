"""`python market_data.py --check`: is everything right that the service needs? Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import redis

import redis_log
from binance_answers import BinanceError
from binance_client import BinanceClient
from rate_limiter import RateLimiter
from redis_log import redact
from settings import Settings

# For all questions to the exchange together: --check does not wait for the end of a ban.
CHECK_WITHIN_S = 30.0
# Candles of a clock that is further off would be taken for late or for future ones.
CLOCK_OFF_S = 1.0


class Findings:
    """Prints a line for each thing that was looked at, and remembers whether one had a problem."""

    failed = False

    def ok(self, what: str, text: str) -> None:
        print(f"{'ok':<6}{what:<10}{text}")

    def fail(self, what: str, problem: object) -> None:
        self.failed = True
        print(f"{'FAIL':<6}{what:<10}{problem}")


def check(settings: Settings) -> int:
    """Say what is right and wrong with Redis, the exchange and each symbol. Returns 0 or 1."""
    findings = Findings()
    count, weight = len(settings.symbols), settings.weight_a_minute
    findings.ok("settings", f"{count} symbols need {weight:.0f} weight a minute")
    _check_redis(settings, findings)
    try:
        _check_exchange(settings, findings)
    except BinanceError as error:
        findings.fail("exchange", f"{settings.binance_base_url}: {error}")
    return int(findings.failed)


def _check_redis(settings: Settings, findings: Findings) -> None:
    try:
        info: Any = redis_log.connect(settings.redis_url).info("server")
    except redis.RedisError as error:
        findings.fail("redis", f"{redact(settings.redis_url)}: {error}")
        return
    server = server_name(info)
    if [int(part) for part in info["redis_version"].split(".")[:2]] < [6, 2]:
        findings.fail("redis", f"{server}: Redis 6.2 or newer is needed, or Valkey")
    else:
        findings.ok("redis", server)


def server_name(info: Mapping[str, Any]) -> str:
    """The server that INFO describes. Valkey's `redis_version` is that of the Redis it is like."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _check_exchange(settings: Settings, findings: Findings) -> None:
    """The exchange, the clock, and whether each symbol is traded. Raises BinanceError."""
    url, timeout_s = settings.binance_base_url, settings.request_timeout
    client = BinanceClient(url, RateLimiter(), timeout_s=timeout_s)
    give_up_at = time.monotonic() + CHECK_WITHIN_S
    ahead_s = client.server_time(give_up_at) / 1000 - time.time()
    findings.ok("exchange", url)
    if abs(ahead_s) > CLOCK_OFF_S:
        findings.fail("clock", f"the exchange's is {ahead_s:+.1f} s off this one: use NTP")
    else:
        findings.ok("clock", "right")
    statuses = client.exchange_info(settings.symbols, give_up_at).statuses
    traded = [symbol for symbol in settings.symbols if statuses.get(symbol) == "TRADING"]
    for symbol in settings.symbols:
        if symbol not in traded:
            status = statuses.get(symbol, "unknown")
            findings.fail("symbol", f"{symbol} is {status}: take it out of SYMBOLS")
    findings.ok("symbols", f"{len(traded)} of {len(settings.symbols)} are traded")
