"""What the users of docs/users.acl may not do: each line is sent to a real server by the user."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from redis_log import connect
from tests.acl import USERS, GuardedRedis

# What no program needs.
NOBODY = """
    ACL LIST
    ACL SETUSER default nopass
    CLIENT KILL TYPE normal
    CLIENT LIST
    CLIENT PAUSE 1000
    CONFIG GET *
    CONFIG SET maxmemory 1
    DBSIZE
    DEBUG SLEEP 0
    FLUSHALL
    FLUSHDB
    FUNCTION LIST
    KEYS *
    MODULE LIST
    MONITOR
    PSUBSCRIBE *
    PUBSUB CHANNELS
    RANDOMKEY
    REPLICAOF 127.0.0.1 1
    SAVE
    SCRIPT FLUSH
    SELECT 1
    SHUTDOWN NOSAVE
    SLOWLOG GET
    SWAPDB 0 1
    EVAL "return redis.call('FLUSHALL')" 0
    EVAL "return redis.call('GET', 'another:key')" 0
    EVAL "return 1" 1 another:key
    EVALSHA 0000000000000000000000000000000000000000 0
    GET another:key
    SET another:key 1
    PUBLISH another:channel x
    COPY market:price:BTCUSDT another:key
    EXPIRE market:price:BTCUSDT 1
    GETDEL market:price:BTCUSDT
    PERSIST market:price:BTCUSDT
    RENAME market:price:BTCUSDT another:key
    DEL market:ohlcv:BTCUSDT:5m
    DEL market:leader:term
    DEL ta:state:BTCUSDT:5m
    DEL scanner:score:BTCUSDT
    DEL paper:positions
    DEL paper:leader:term
    DEL paper:trades:log
    SET paper:trades:log 1
    XTRIM paper:trades:log MAXLEN 0
    SUBSCRIBE paper:trades
    DEL redis:message_log
    SET redis:message_log 1
    XDEL redis:message_log 1-0
    XTRIM redis:message_log MAXLEN 0
    XADD redis:message_log:other * a 1
    DEL consumers:alive
    HDEL consumers:alive trader-bot
    SET consumers:alive 1
"""
THE_SERVICE_ALONE = """
    INFO
    DEL market:hold
    DEL market:leader
    EVAL "return 1" 1 market:leader
    GET market:hold
    GET market:leader
    GETRANGE market:price:BTCUSDT 0 -1
    PUBLISH market:update:5m x
    PUBLISH market:update:all x
    SET market:hold 1
    SET market:leader me
    SET market:leader:term 1
    SET market:ohlcv:BTCUSDT:5m 1
    SET market:price:BTCUSDT 1
    WATCH market:leader:term
"""
THE_TA_SERVICE_ALONE = """
    PUBLISH ta:signals x
    PUBLISH ta:update:5m x
    SET ta:indicators:BTCUSDT:5m 1
    SET ta:state:BTCUSDT:5m 1
    XADD redis:message_log:signal * a 1
"""
THE_TRADER_ALONE = """
    DEL paper:leader
    EVAL "return 1" 1 paper:leader
    EXISTS paper:positions
    GET paper:leader
    MGET paper:positions
    PUBLISH paper:trades x
    SET paper:leader me
    SET paper:leader:term 1
    SET paper:positions {}
    SUBSCRIBE ta:signals
    WATCH paper:leader:term
    XADD paper:trades:log * a 1
    XADD redis:message_log:trade * a 1
"""
THE_DASHBOARD_ALONE = """
    GET paper:positions
    HGETALL consumers:alive
    MGET scanner:score:BTCUSDT
    MGET ta:indicators:BTCUSDT:5m
    PSUBSCRIBE ta:update:*
    PUBLISH scanner:update x
    SET scanner:score:BTCUSDT 1
    XRANGE paper:trades:log - +
    XRANGE redis:message_log - +
    XREAD STREAMS redis:message_log 0
    XREVRANGE redis:message_log:trade + -
"""
ALONE = {
    "coinex-service": THE_SERVICE_ALONE,
    "coinex-ta": THE_TA_SERVICE_ALONE,
    "coinex-trader": THE_TRADER_ALONE,
    "coinex-dashboard": THE_DASHBOARD_ALONE,
}
# What several programs do, but not this one.
ALSO = {
    "coinex-service": """
        GET market:price:BTCUSDT
        HSET consumers:alive market-data x
        MGET market:ohlcv:BTCUSDT:5m
        SCAN 0
        SET market:none 1
        SUBSCRIBE market:update:5m
        XADD market:hold * a 1
        XRANGE redis:message_log:error - +
    """,
    "coinex-ta": """
        EVAL "return 1" 0
        GET market:price:BTCUSDT
        MGET market:price:BTCUSDT
        SUBSCRIBE market:update:5m
        XADD redis:message_log:error * a 1
    """,
    "coinex-trader": """
        MGET market:ohlcv:BTCUSDT:5m
        MGET ta:indicators:BTCUSDT:5m
        SCAN 0
    """,
    "coinex-dashboard": """
        EVAL "return 1" 0
        MGET ta:state:BTCUSDT:5m
        XADD redis:message_log:error * a 1
    """,
    "coinex-reader": """
        EVAL "return 1" 0
        MGET ta:state:BTCUSDT:5m
        SET market:price:BTCUSDT 1 GET
        XADD redis:message_log:error * a 1
        XLEN redis:message_log
    """,
}


def refused_to(user: str) -> list[str]:
    alone = [lines for other, lines in ALONE.items() if other != user]
    texts = "".join([NOBODY, *alone, ALSO[user]]).splitlines()
    return [line.strip() for line in texts if line.strip()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    server = GuardedRedis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.mark.parametrize("user", ALSO)
def test_each_user_is_refused_all_else_that_was_tried(server: GuardedRedis, user: str) -> None:
    client = connect(server.url_of(user))
    allowed = []
    for line in refused_to(user):
        server.client.acl_log_reset()
        with suppress(redis.ResponseError):  # NOPERM, or what a script makes of it
            client.execute_command(*shlex.split(line))
        if not server.denied():
            allowed.append(line)
    assert allowed == []
    assert server.client.dbsize() == 0


def test_who_gives_no_password_is_refused_all(server: GuardedRedis) -> None:
    with pytest.raises(redis.AuthenticationError):
        connect(server.url).ping()


def test_no_user_may_do_more_than_is_written_out() -> None:
    """Categories of commands grow with each version of the server."""
    for line in USERS[1:]:
        assert not re.search(r"\+@|[~&]\*|all(keys|channels|commands)", line)
