"""How consumers read Redis and receive updates, on a real Redis that stops and starts."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import redis

from binance_answers import TIMEFRAME_MS
from candles import PRICE, Feed, update_channel
from consumers import market_cache
from consumers.market_cache import ALIVE_KEY, Candle, MarketCache, NoData, Update
from redis_log import connect, read_log
from tests.candles import put_candles, put_price, update, walk
from tests.support import RedisServer, until


@pytest.fixture
def cache(redis_server: RedisServer) -> MarketCache:
    return MarketCache(redis_server.client, "ta-service")


def log_of(client: redis.Redis) -> list[tuple[str, str, str, str]]:
    """(type, source, channel, summary), newest first."""
    fields = ("type", "source", "channel", "summary")
    return [tuple(entry[f] for f in fields) for entry in read_log(client)]  # type: ignore[misc]


def test_the_names_are_the_services() -> None:
    assert market_cache.ohlcv_key("BTCUSDT", "5m") == Feed("BTCUSDT", "5m").key
    assert market_cache.price_key("BTCUSDT") == Feed("BTCUSDT", PRICE).key
    assert market_cache.update_channel("5m") == update_channel("5m")
    for name, length_ms in TIMEFRAME_MS.items():
        assert market_cache.timeframe_ms(name) == length_ms


class TestRead:
    def test_candles_and_price_with_their_expiry(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        put_candles(redis_server.client, "BTCUSDT", "1h", walk(5), ttl_s=30)
        put_price(redis_server.client, "BTCUSDT", 52530.04, ttl_s=20)
        candles = cache.candles("BTCUSDT", "1h")
        assert [candle[1:] for candle in candles] == [candle[1:] for candle in walk(5)]
        assert isinstance(candles[0], Candle) and candles.closed == candles[:4]
        assert candles.expires_at == pytest.approx(time.time() + 30, abs=5)
        price = cache.price("BTCUSDT")
        assert price[:4] == (52530.04, 1.5, 10.0, 1795489650577)
        assert price.expires_at == pytest.approx(time.time() + 20, abs=5)
        assert log_of(redis_server.client) == [
            ("cache_read", "ta-service", "market:price:BTCUSDT", ""),
            ("cache_read", "ta-service", "market:ohlcv:BTCUSDT:1h", ""),
        ]

    def test_missing_and_expired_are_said(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        with pytest.raises(NoData, match="nothing fresh in market:ohlcv:BTCUSDT:1h"):
            cache.candles("BTCUSDT", "1h")
        put_price(redis_server.client, "BTCUSDT", 1.0, ttl_s=0.1)
        assert cache.price("BTCUSDT").price == 1.0
        until(lambda: not redis_server.client.exists("market:price:BTCUSDT"), 2)
        with pytest.raises(NoData, match="nothing fresh in market:price:BTCUSDT"):
            cache.price("BTCUSDT")

    def test_many_in_one_round_trip(self, cache: MarketCache, redis_server: RedisServer) -> None:
        for symbol in ("AUSDT", "BUSDT"):
            put_candles(redis_server.client, symbol, "5m", walk(3))
        calls = redis_server.client.info("commandstats")
        found, missing = cache.all_candles(["AUSDT", "BUSDT", "CUSDT"], "5m")
        assert sorted(found) == ["AUSDT", "BUSDT"]
        assert missing == {"CUSDT": "nothing fresh in market:ohlcv:CUSDT:5m"}
        assert "cmdstat_mget" not in calls
        after: Any = redis_server.client.info("commandstats")
        assert after["cmdstat_mget"]["calls"] == 1 and after["cmdstat_multi"]["calls"] == 2
        [entry] = log_of(redis_server.client)
        assert entry[2:] == ("market:ohlcv:*:5m", "3 keys, 1 missing")

    def test_nothing_asked_for_is_nothing_read(self, cache: MarketCache) -> None:
        assert cache.all_prices([]) == ({}, {})

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "nonsense",
            "[]",
            "{}",
            "[1]",
            '[{"timestamp":1}]',
            "null",
            "[[1,2,3,4,5,6]]",
            "[" * 5000,
            '[{"timestamp":1,"open":-1,"high":1,"low":1,"close":1,"volume":1}]',
            '[{"timestamp":1,"open":1,"high":1,"low":1,"close":1,"volume":%s}]' % ("9" * 400),
            '[{"timestamp":1,"open":1e300,"high":1,"low":1,"close":1,"volume":1}]',
            '[{"timestamp":1,"open":NaN,"high":1,"low":1,"close":1,"volume":1}]',
            '[{"timestamp":1,"open":1e999,"high":1,"low":1,"close":1,"volume":1}]',
            '[{"timestamp":1,"open":"1","high":1,"low":1,"close":1,"volume":1}]',
        ],
    )
    def test_bad_data_is_said_and_harms_no_other(
        self, cache: MarketCache, redis_server: RedisServer, value: str
    ) -> None:
        redis_server.client.set("market:ohlcv:AUSDT:5m", value, ex=60)
        put_candles(redis_server.client, "BUSDT", "5m", walk(3))
        found, missing = cache.all_candles(["AUSDT", "BUSDT"], "5m")
        assert list(found) == ["BUSDT"]
        assert missing["AUSDT"].startswith("bad data in market:ohlcv:AUSDT:5m: ")
        with pytest.raises(NoData, match="bad data"):
            cache.candles("AUSDT", "5m")

    @pytest.mark.parametrize(
        "value",
        [
            "1",
            "{}",
            '{"price":true,"change24h":1,"volume":1,"timestamp":1}',
            '{"price":1,"change24h":"1","volume":1,"timestamp":1}',
            '{"price":0,"change24h":1,"volume":1,"timestamp":1}',
            '{"price":null,"change24h":1,"volume":1,"timestamp":1}',
        ],
    )
    def test_a_bad_price_is_none(
        self, cache: MarketCache, redis_server: RedisServer, value: str
    ) -> None:
        redis_server.client.set("market:price:AUSDT", value, ex=60)
        with pytest.raises(NoData, match="bad data in market:price:AUSDT"):
            cache.price("AUSDT")

    def test_what_never_expires_is_no_data(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        """Such a key is not the service's, and would look fresh forever."""
        put_price(redis_server.client, "AUSDT", 1.0)
        redis_server.client.persist("market:price:AUSDT")
        with pytest.raises(NoData, match="never expires"):
            cache.price("AUSDT")

    def test_a_key_of_another_type_is_no_data(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        redis_server.client.hset("market:price:AUSDT", "a", "b")
        with pytest.raises(NoData):
            cache.price("AUSDT")

    def test_redis_away_is_an_error_and_not_no_data(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            cache.price("AUSDT")

    def test_series_are_those_with_fresh_candles(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        assert cache.series() == {}
        for symbol, timeframe in (("BUSDT", "4h"), ("AUSDT", "4h"), ("AUSDT", "15m")):
            put_candles(redis_server.client, symbol, timeframe, walk(1))
        for key in ("XX:my:key", "x\x1b[31m:5m", "AUSDT:0m", "AUSDT:\u0661h", "AUSDT:"):
            redis_server.client.set(f"market:ohlcv:{key}", "not the service's")
        assert cache.series() == {"15m": ["AUSDT"], "4h": ["AUSDT", "BUSDT"]}


Heard = queue.SimpleQueue[Any]


@pytest.fixture
def hear(redis_server: RedisServer) -> Iterator[Callable[..., Heard]]:
    """hear(iterate): what `iterate(cache)` yields, collected in its own thread."""

    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def start(iterate: Callable[[MarketCache], Iterator[Any]]) -> Heard:
        heard: Heard = queue.SimpleQueue()
        cache = MarketCache(connect(redis_server.url), "ta-service", "test", stopping=stopping)

        def gather() -> None:
            for item in iterate(cache):
                heard.put(item)

        threads.append(threading.Thread(target=gather, daemon=True))
        threads[-1].start()
        return heard

    yield start
    stopping.set()
    for thread in threads:
        thread.join(2)
        assert not thread.is_alive()


class TestUpdates:
    def test_none_first_then_each_refresh(
        self, hear: Callable[..., Heard], redis_server: RedisServer
    ) -> None:
        heard = hear(lambda cache: cache.updates("1h"))
        assert heard.get(timeout=5) is None
        redis_server.client.publish("market:update:5m", update(["XX"]))
        redis_server.client.publish("market:update:1h", update(["AA"], ["BB"], 7))
        assert heard.get(timeout=5) == Update("1h", ["AA"], ["BB"], 7, 5)
        assert heard.empty()

    def test_all_timeframes_but_not_the_channel_of_all(
        self, hear: Callable[..., Heard], redis_server: RedisServer
    ) -> None:
        heard = hear(lambda cache: cache.updates())
        assert heard.get(timeout=5) is None
        for name in ("all", "5m", "4h"):
            redis_server.client.publish(f"market:update:{name}", update(["AA"]))
        assert [heard.get(timeout=5).timeframe for _ in range(2)] == ["5m", "4h"]
        only = hear(lambda cache: cache.updates("all"))
        assert only.get(timeout=5) is None
        redis_server.client.publish("market:update:all", update(["AA"]))
        assert only.get(timeout=5).timeframe == "all"

    def test_whoever_is_slow_skips_to_the_newest(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        updates = cache.updates("1h", "5m")
        assert next(updates) is None
        publish = redis_server.client.publish
        publish("market:update:1h", update(["AA", "BB"], ["CC"], 1))
        publish("market:update:5m", update(["AA"], [], 2))
        publish("market:update:1h", update(["CC"], ["BB", "DD"], 3))
        assert next(updates) == Update("1h", ["AA", "BB", "CC"], ["DD"], 3, 5)
        assert next(updates) == Update("5m", ["AA"], [], 2, 5)

    @pytest.mark.parametrize(
        "payload",
        [
            "",
            "nonsense",
            "{}",
            "[]",
            '{"symbols":1}',
            "[" * 5000,
            update([1, "AA"]),  # type: ignore[list-item]
            update(["\ud800\ud800"]),
            update([["AA"]]),
            update(["AA"], timestamp=10**400) + "0",  # type: ignore[list-item]
            '{"symbols":[],"failed":[],"timestamp":1e999,"duration_ms":1}',
        ],
    )
    def test_a_bad_publish_is_logged_and_passed_over(
        self,
        cache: MarketCache,
        redis_server: RedisServer,
        payload: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        updates = cache.updates("1h")
        next(updates)
        redis_server.client.publish("market:update:1h", payload)
        redis_server.client.publish("market:update:1h", update(["AA"]))
        assert next(updates) == Update("1h", ["AA"], [], 1, 5)
        assert "event=bad_update channel=market:update:1h" in caplog.text

    def test_silence_longer_than_the_sockets_timeout_is_no_failure(
        self,
        hear: Callable[..., Heard],
        redis_server: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(market_cache, "SILENCE_S", 1.0)
        heard = hear(lambda cache: cache.updates("1h"))
        assert heard.get(timeout=5) is None
        pings: Any = redis_server.client.info("commandstats").get("cmdstat_ping", {"calls": 0})

        def pinged() -> int:
            after: Any = redis_server.client.info("commandstats").get("cmdstat_ping", {"calls": 0})
            return int(after["calls"] - pings["calls"])

        until(lambda: pinged() >= 3, 10)  # each was answered, else there would be no third
        redis_server.client.publish("market:update:1h", update(["AA"]))
        assert heard.get(timeout=5).symbols == ["AA"]

    def test_a_restart_of_redis_yields_none_and_goes_on(
        self,
        hear: Callable[..., Heard],
        redis_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        heard = hear(lambda cache: cache.updates("1h"))
        assert heard.get(timeout=5) is None
        redis_server.kill()
        before = psutil.Process().cpu_times()
        time.sleep(3)
        after = psutil.Process().cpu_times()
        assert after.user - before.user < 0.5  # it does not spin
        redis_server.start()
        assert heard.get(timeout=10) is None
        redis_server.client.publish("market:update:1h", update(["AA"]))
        assert heard.get(timeout=5).symbols == ["AA"]
        assert caplog.text.count("event=redis_lost consumer=test") == 1
        assert caplog.text.count("event=redis_back consumer=test") == 1

    def test_a_redis_that_hangs_is_noticed(
        self,
        hear: Callable[..., Heard],
        redis_server: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(market_cache, "SILENCE_S", 1.0)
        heard = hear(lambda cache: cache.updates("1h"))
        assert heard.get(timeout=5) is None
        redis_server.pause()
        until(lambda: "event=redis_lost" in caplog.text, 10)
        redis_server.resume()
        assert heard.get(timeout=10) is None
        redis_server.client.publish("market:update:1h", update(["AA"]))
        assert heard.get(timeout=5).symbols == ["AA"]

    def test_a_dropped_connection_yields_none(
        self, hear: Callable[..., Heard], redis_server: RedisServer
    ) -> None:
        heard = hear(lambda cache: cache.updates("1h"))
        assert heard.get(timeout=5) is None
        redis_server.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert heard.get(timeout=5) is None

    def test_messages_come_one_by_one(
        self, hear: Callable[..., Heard], redis_server: RedisServer
    ) -> None:
        heard = hear(lambda cache: cache.messages("ta:signals", "x:*"))
        assert heard.get(timeout=5) is None
        for channel, text in (("ta:signals", "1"), ("x:y", "2"), ("ta:signals", "3")):
            redis_server.client.publish(channel, text)
        expected = [("ta:signals", "1"), ("x:y", "2"), ("ta:signals", "3")]
        assert [heard.get(timeout=5) for _ in range(3)] == expected


class TestChannels:
    def test_what_is_of_another_database_is_not_heard(
        self, cache: MarketCache, redis_server: RedisServer
    ) -> None:
        heard = cache.messages("ta:signals", "market:update:*")
        assert next(heard) is None
        publish = redis_server.client.publish
        for db in (1, "0", None):
            publish("ta:signals", json.dumps({"db": db}))
        for payload in ('{"db":0}', "{}", "[]", "no JSON"):
            publish("ta:signals", payload)
        assert [next(heard) for _ in range(4)] == [
            ("ta:signals", payload) for payload in ('{"db":0}', "{}", "[]", "no JSON")
        ]

    def test_a_name_without_a_wildcard_needs_no_more_than_its_own_permission(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.client.execute_command(
            *[
                "ACL",
                "SETUSER",
                "scanner",
                "on",
                ">p",
                "~*",
                "+@all",
                "resetchannels",
                "&market:update:*",
            ]
        )
        url = redis_server.url.replace("//", "//scanner:p@")
        updates = MarketCache(connect(url), "scanner").updates("1h")
        assert next(updates) is None
        redis_server.client.publish("market:update:1h", update(["AUSDT"]))
        heard = next(updates)
        assert heard and heard.symbols == ["AUSDT"]


class TestFuture:
    def test_what_is_of_the_future_is_bad_data_and_said_once(
        self, cache: MarketCache, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        client, now_ms = redis_server.client, int(time.time() * 1000)
        rows = [candle._asdict() for candle in walk(3)]
        for at in (10**17, now_ms + 3_600_000):
            rows[1]["timestamp"] = at
            client.set("market:ohlcv:AUSDT:1h", json.dumps(rows), ex=60)
            with pytest.raises(NoData, match="bad data in market:ohlcv:AUSDT:1h"):
                cache.candles("AUSDT", "1h")
        price = {"price": 1.0, "change24h": 1.0, "volume": 1.0, "timestamp": now_ms + 3_600_000}
        client.set("market:price:AUSDT", json.dumps(price), ex=60)
        with pytest.raises(NoData, match="of the future"):
            cache.price("AUSDT")
        assert caplog.text.count("event=bad_data") == 2


class TestAttempt:
    def test_a_failure_is_tried_again_ever_more_slowly(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []

        class Stopping(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                pauses.append(timeout or 0)
                return False

        cache = MarketCache(redis_server.client, "ta-service", stopping=Stopping())
        monkeypatch.setattr(market_cache.random, "uniform", lambda low, high: high)
        redis_server.client.config_set("maxmemory", "1")
        turns = 0
        for heard in cache.updates("1h"):
            assert heard is None
            turns += 1
            if turns == 4:
                redis_server.client.config_set("maxmemory", "0")
            with cache.attempt():
                cache.logged.cache_write("k", "v", 5)
                break
        assert turns == 4 and pauses == pytest.approx([0.2, 0.4, 0.8])

    def test_other_errors_are_not_swallowed(self, cache: MarketCache) -> None:
        with pytest.raises(ZeroDivisionError), cache.attempt():
            raise ZeroDivisionError


def test_what_can_be_heard_is_heard_even_if_no_sign_of_life_can_be_given(
    cache: MarketCache, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.client.set(ALIVE_KEY, "another type of key")
    updates = cache.updates("1h")
    assert next(updates) is None
    for _ in range(3):
        redis_server.client.publish("market:update:1h", update(["AA"]))
        assert next(updates) == Update("1h", ["AA"], [], 1, 5)
    assert caplog.text.count("event=no_sign_of_life") == 1 and "redis_lost" not in caplog.text


def test_signs_of_life_while_it_waits(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_cache, "ALIVE_EVERY_S", 1.0)
    stopping = threading.Event()
    cache = MarketCache(redis_server.client, "dashboard", "scanner", stopping=stopping)
    updates = cache.updates("1h")
    next(updates)
    waiting = threading.Thread(target=lambda: next(updates, None))
    waiting.start()

    def life() -> dict[str, int]:
        text: Any = redis_server.client.hget(ALIVE_KEY, "scanner")
        return json.loads(text or "{}")  # type: ignore[no-any-return]

    first = until(life, 5)
    assert abs(first["timestamp"] - time.time() * 1000) < 3000
    until(lambda: life()["timestamp"] >= first["timestamp"] + 900, 5)
    assert not read_log(redis_server.client)  # signs of life are not logged
    stopping.set()
    waiting.join(2)
    assert not waiting.is_alive()
