"""What watches a storm on a real Redis, and what disturbs the way there."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from redis_log import connect
from tests.chaos.checker import Listener, Reader
from tests.chaos.events import Events
from tests.chaos.judges import Verdicts
from tests.chaos.redis_cards import RedisCards
from tests.chaos.transactions import TransactionJudge
from tests.support import Line, RedisServer, until

CHANNEL = "market:update:1m"


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts()


def update(db: int, symbol: str) -> str:
    fields = {"timeframe": "1m", "symbols": [symbol], "failed": [], "timestamp": 1, "db": db}
    return json.dumps({**fields, "duration_ms": 1})


def refresh(redis_server: RedisServer, db: int, symbol: str, *, writes: bool = True) -> None:
    """Publish a symbol as a service of `db` does, after its candles if it `writes`."""
    client = connect(f"redis://127.0.0.1:{redis_server.port}/{db}")
    pipeline: Any = client.pipeline(transaction=True)
    if writes:
        pipeline.set(f"market:ohlcv:{symbol}:1m", "[]", ex=10)
    pipeline.publish(CHANNEL, update(db, symbol))
    pipeline.execute()


def test_each_database_is_judged_by_itself(redis_server: RedisServer, verdicts: Verdicts) -> None:
    judges = {db: TransactionJudge(verdicts, ["1m"], "log", db=db) for db in (0, 1)}
    listener = Listener(redis_server.url, judges)
    listener.start()
    client: Any = redis_server.client
    until(lambda: "cmd=monitor" in str(client.execute_command("CLIENT", "LIST")), 5)
    refresh(redis_server, 0, "BTCUSDT")
    refresh(redis_server, 1, "BTCUSDT")
    until(lambda: verdicts.payloads.checks == 2, 5)
    assert verdicts.payloads.fine and verdicts.publishes.fine
    refresh(redis_server, 1, "ETHUSDT", writes=False)
    until(lambda: verdicts.payloads.checks == 3, 5)
    listener.stop()
    assert verdicts.publishes.shown == ["1m: ['ETHUSDT'] not written"]
    assert listener.error is None


def test_a_reader_that_hears_of_another_database(
    redis_server: RedisServer, verdicts: Verdicts
) -> None:
    reader = Reader(redis_server.url, ["BTCUSDT"], ["1m"], verdicts.readers)
    reader.start()
    until(lambda: redis_server.client.publish(CHANNEL, update(0, "BTCUSDT")), 5)
    redis_server.client.publish(CHANNEL, update(1, "ETHUSDT"))
    until(lambda: verdicts.readers.checks, 5)
    assert verdicts.readers.fine
    redis_server.client.publish(CHANNEL, update(0, "ETHUSDT"))
    until(lambda: verdicts.readers.broken, 5)
    reader.stop()
    assert reader.error is None


def test_who_loses_the_lease_may_not_have_noted_a_hold(redis_server: RedisServer) -> None:
    stopped: list[str] = []
    own: Any = SimpleNamespace(
        fleet=SimpleNamespace(names=lambda: ["a"]), record=SimpleNamespace(stop=stopped.append)
    )
    rng, line = random.Random(1), Line(redis_server.port)
    cards = RedisCards(rng, Events(rng), redis_server, line, own, [own])
    for key, lost in (("market:price:BTCUSDT", []), ("market:leader", ["a"])):
        redis_server.client.set(key, "x", ex=9)
        deleted = cards._delete(key)
        assert not redis_server.client.exists(key)
        assert 8 < deleted.expires_at - deleted.at <= 9
        assert stopped == lost
    line.close()


class TestLine:
    @pytest.fixture
    def line(self, redis_server: RedisServer) -> Iterator[Line]:
        line = Line(redis_server.port)
        yield line
        line.close()

    @pytest.mark.parametrize(
        ("delay_s", "bytes_per_s", "least_s"), [(0.2, 1e9, 0.4), (0.0, 100_000, 0.4)]
    )
    def test_it_is_long_or_thin(
        self, line: Line, delay_s: float, bytes_per_s: float, least_s: float
    ) -> None:
        client = connect(line.url())
        client.ping()
        line.delay_s, line.bytes_per_s = delay_s, bytes_per_s
        began = time.monotonic()
        client.set("key", "x" * 40_000)
        assert time.monotonic() - began >= least_s

    def test_what_was_sent_arrives_though_the_sender_has_gone(
        self, line: Line, redis_server: RedisServer
    ) -> None:
        client: Any = connect(line.url(1))
        client.ping()
        line.delay_s = 0.3
        connection = client.connection_pool.get_connection()
        connection.send_command("SET", "key", "late")
        connection.disconnect()
        other = connect(f"redis://127.0.0.1:{redis_server.port}/1")
        assert other.get("key") is None
        until(lambda: other.get("key") == "late", 5)

    def test_it_hangs_up_while_redis_is_down_and_works_again_after(
        self, line: Line, redis_server: RedisServer
    ) -> None:
        client = connect(line.url())
        client.ping()
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        redis_server.start()
        assert client.ping()
