"""`python market_data.py --check`: is everything there that the service needs? Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import redis

import binance_client as binance
import redis_log
from binance_answers import BinanceError
from redis_log import redact
from settings import Settings

CHECK_WITHIN_S = 30.0  # --check does not wait for the end of a ban


def server_name(info: Mapping[str, Any]) -> str:
    """What INFO says that a server is: Valkey's `redis_version` is the Redis that it is like."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def check(settings: Settings) -> int:
    """Say what is right and wrong with Redis, the exchange and each symbol; write nothing."""
    failed = False

    def say(what: str, fine: str, problem: object = "") -> None:
        nonlocal failed
        failed = failed or bool(problem)
        print(f"{'FAIL' if problem else 'ok':<6}{what:<10}{problem or fine}")

    count = len(settings.symbols)
    say("settings", f"{count} symbols need {settings.weight_a_minute:.0f} weight a minute")
    try:
        info: Any = redis_log.connect(settings.redis_url).info("server")
        old = [int(part) for part in info["redis_version"].split(".")[:2]] < [6, 2]
        needed = f"{server_name(info)}: Redis 6.2 or newer is needed, or Valkey"
        say("redis", server_name(info), old and needed)
    except redis.RedisError as error:
        say("redis", "", f"{redact(settings.redis_url)}: {error}")
    url, timeout_s = settings.binance_base_url, settings.request_timeout
    client = binance.BinanceClient(url, binance.RateLimiter(), timeout_s=timeout_s)
    give_up_at = time.monotonic() + CHECK_WITHIN_S
    try:
        ahead_s = client.server_time(give_up_at) / 1000 - time.time()
        say("exchange", url)
        skewed = abs(ahead_s) > 1 and f"the exchange's is {ahead_s:+.1f} s off this one: use NTP"
        say("clock", "right", skewed)
        statuses = client.exchange_info(settings.symbols, give_up_at).statuses
    except BinanceError as error:
        say("exchange", "", f"{url}: {error}")
        return 1
    traded = [symbol for symbol in settings.symbols if statuses.get(symbol) == "TRADING"]
    for symbol in settings.symbols:
        if symbol not in traded:
            status = statuses.get(symbol, "unknown")
            say("symbol", "", f"{symbol} is {status}: take it out of SYMBOLS")
    say("symbols", f"{len(traded)} of {count} are traded")
    return int(failed)
