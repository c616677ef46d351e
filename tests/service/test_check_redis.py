"""What --check says of a Redis that answers, but would fail the service later."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from check_redis import _unfit, look_at_redis
from redis_log import connect
from tests.support import RedisServer

Prepare = Callable[[redis.Redis], object]


def fill(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)


def evict_all(client: redis.Redis) -> None:
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")


def test_a_fit_one_is_named(redis_server: RedisServer) -> None:
    name, wrong = look_at_redis(redis_server.client)
    assert name.startswith(("Valkey ", "Redis ")) and wrong == []
    assert redis_server.client.dbsize() == 0


@pytest.mark.parametrize(
    ("prepare", "level", "what"),
    [
        (lambda client: client.replicaof("127.0.0.1", 1), "FAIL", "replica"),
        (fill, "FAIL", "full"),
        (evict_all, "warn", "allkeys-lru evicts keys that have no TTL"),
    ],
)
def test_what_would_fail_later_is_said(
    redis_server: RedisServer, prepare: Prepare, level: str, what: str
) -> None:
    prepare(redis_server.client)
    _, [finding] = look_at_redis(redis_server.client)
    assert finding[0] == level and what in finding[1] and finding[2]


@pytest.mark.parametrize(("rule", "wrong"), [("-info", []), ("-time", []), ("-eval", ["EVAL"])])
def test_a_user_who_may_not(redis_server: RedisServer, rule: str, wrong: list[str]) -> None:
    rules = ("on", ">p", "~*", "&*", "+@all", rule)
    redis_server.client.execute_command("ACL", "SETUSER", "service", *rules)
    client = connect(redis_server.url.replace("//", "//service:p@"))
    name, findings = look_at_redis(client)
    assert name and [what.split()[0] for _, what, _ in findings] == wrong


@pytest.mark.parametrize(
    ("info", "what"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16"),
        ({"redis_version": "7.2.4", "cluster_enabled": 1}, "a node of a cluster"),
    ],
)
def test_other_kinds_of_server(info: dict[str, object], what: str) -> None:
    [(level, said, todo)] = _unfit(info)
    assert level == "FAIL" and what in said and todo


@pytest.mark.parametrize(
    ("off_s", "said"),
    [
        (-90, "it is 90 s behind, so keys expire too late: use NTP"),
        (90, "it is 90 s ahead, so keys expire too early: use NTP"),
        (-3, ""),
        (3, ""),
    ],
)
def test_its_clock(redis_server: RedisServer, off_s: int, said: str) -> None:
    def shifted(answer: list[str], **_: object) -> tuple[int, int]:
        return int(answer[0]) + off_s, int(answer[1])

    redis_server.client.set_response_callback("TIME", shifted)
    _, findings = look_at_redis(redis_server.client)
    assert [what for _, _, what in findings] == ([said] if said else [])


def test_who_does_not_answer_is_an_error(redis_server: RedisServer) -> None:
    redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        look_at_redis(redis_server.client)
