"""Is this Redis fit for the service? Looks, and writes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import redis

# A clock of Redis that is further off this machine's than this is a problem: keys expire by it.
CLOCK_OFF_S = 5

Finding = tuple[str, str, str]  # "FAIL" or "warn", what is wrong, and what to do


def look_at_redis(client: redis.Redis) -> tuple[str, list[Finding]]:
    """The name of the server, and what is wrong with it. Raises redis.RedisError if it does not
    answer."""
    client.ping()
    try:
        info: Any = client.info()
    except redis.ResponseError:  # no permission, which nothing but this needs
        info = {}
    return server_name(info), [*_unfit(info), *_refused(client), *_off(client)]


def server_name(info: Mapping[str, Any]) -> str:
    """The server that INFO describes. Valkey's `redis_version` is that of the Redis it is like."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if info else "it answers, but may not tell its version"


def _unfit(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What INFO shows that would fail later."""
    version = [int(part) for part in info.get("redis_version", "9.9").split(".")[:2]]
    if version < [6, 2]:
        yield "FAIL", server_name(info), "Redis 6.2 or newer is needed, or Valkey"
    if info.get("role", "master") != "master":
        yield "FAIL", "it is a replica, which takes no writes", "point REDIS_URL at the master"
    if info.get("cluster_enabled"):
        yield "FAIL", "it is a node of a cluster", "use one without: a transaction has many keys"
    limit, policy = info.get("maxmemory", 0), str(info.get("maxmemory_policy", ""))
    if 0 < limit <= info.get("used_memory", 0) and policy == "noeviction":
        yield "FAIL", "it is full", "raise maxmemory: the service needs about 12 MB"
    if limit and policy.startswith("allkeys-"):
        what = f"maxmemory-policy {policy} evicts keys that have no TTL, like the trader's book"
        yield "warn", what, "use volatile-ttl or noeviction"


def clock_problem(redis_time: Any, asked_at: float, answered_at: float) -> str:
    """How far the clock of Redis is off this machine's, by its answer to TIME, and what follows;
    "" if it is right, or not known: who may not ask must do without."""
    if isinstance(redis_time, Exception):
        return ""
    seconds = redis_time[0] + redis_time[1] / 1e6
    if seconds < asked_at - CLOCK_OFF_S:
        return f"it is {asked_at - seconds:.0f} s behind, so keys expire too late: use NTP"
    if seconds > answered_at + CLOCK_OFF_S:
        return f"it is {seconds - answered_at:.0f} s ahead, so keys expire too early: use NTP"
    return ""


def _off(client: redis.Redis) -> Iterator[Finding]:
    asked_at = time.time()
    with suppress(redis.ResponseError):  # no permission, which the service can do without
        if off := clock_problem(client.time(), asked_at, time.time()):
            yield "warn", "its clock", off


def _refused(client: redis.Redis) -> Iterator[Finding]:
    try:
        client.eval("return 1", 0)
    except redis.ResponseError as error:
        yield "FAIL", f"EVAL is refused ({error})", "grant it: the lease needs it"
