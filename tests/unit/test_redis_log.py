"""LoggedRedis on a fake Redis, reading the log, and the helpers."""

from __future__ import annotations

import math
import re
from typing import Any

import fakeredis
import pytest
import redis

import redis_log
from redis_log import (
    DEFAULT_KEY,
    RARE_TYPES,
    LoggedRedis,
    iso_ms,
    log_extent,
    read_log,
    redact,
)


@pytest.fixture
def fake() -> redis.Redis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def logged(fake: redis.Redis) -> LoggedRedis:
    return LoggedRedis(fake, "ta-service")


def entries(client: redis.Redis, **wanted: Any) -> list[tuple[str, str, str, str]]:
    """(type, channel, summary, payload_size), newest first."""
    fields = ("type", "channel", "summary", "payload_size")
    return [tuple(e[f] for f in fields) for e in read_log(client, **wanted)]  # type: ignore[misc]


class TestLoggedRedis:
    def test_each_operation_is_done_and_logged(self, logged: LoggedRedis, fake: Any) -> None:
        heard = fake.pubsub(ignore_subscribe_messages=True)
        heard.subscribe("a", "b", "c")
        heard.get_message(timeout=1)
        logged.cache_write("key", "wért", 60, "a value")
        logged.publish("a", "p1")
        logged.signal("b", "s1", "up")
        logged.trade("c", "t1")
        logged.error("key", "it broke")
        [read, none] = logged.cache_read("key", "none")
        assert read.value == "wért" and 59 < read.left_s <= 60 and none == (None, 0)
        assert 0 < fake.pttl("key") <= 60_000
        messages = [heard.get_message(timeout=1) for _ in range(5)]
        assert [m["data"] for m in messages if m] == ["p1", "s1", "t1"]
        assert entries(fake) == [
            ("cache_read", "*", "2 keys, 1 missing", "5"),
            ("error", "key", "it broke", "0"),
            ("trade", "c", "", "2"),
            ("signal", "b", "up", "2"),
            ("publish", "a", "", "2"),
            ("cache_write", "key", "a value", "5"),
        ]
        for type_ in RARE_TYPES:
            [own], [in_log] = (
                read_log(fake, type=type_),
                read_log(fake, type=[type_, "publish"])[:1],
            )
            assert own | {"id": ""} == in_log | {"id": ""}
        assert fake.keys(f"{DEFAULT_KEY}*") == [
            DEFAULT_KEY,
            *(f"{DEFAULT_KEY}:{type_}" for type_ in ("signal", "trade", "error")),
        ]
        entry = read_log(fake, 1)[0]
        assert set(entry) == {
            "id",
            "type",
            "channel",
            "source",
            "summary",
            "payload_size",
            "timestamp",
        }
        assert entry["source"] == "ta-service"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["timestamp"])

    @pytest.mark.parametrize(
        ("keys", "channel", "summary"),
        [
            (["m:A:5m"], "m:A:5m", "missing"),
            (["m:A:5m", "m:A:5m"], "m:A:5m", "2 keys, 2 missing"),
            (["m:AB:5m", "m:CB:5m", "m:CB:5m"], "m:*:5m", "3 keys, 3 missing"),
        ],
    )
    def test_a_read_of_many_keys_is_one_entry(
        self, logged: LoggedRedis, fake: Any, keys: list[str], channel: str, summary: str
    ) -> None:
        logged.cache_read(*keys)
        assert entries(fake) == [("cache_read", channel, summary, "0")]

    def test_values_that_a_full_redis_refused_are_not_sent_without_their_entries(
        self, logged: LoggedRedis, fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have room again a moment later, when the rest is sent."""
        transact = logged._transact

        def full_once(*arguments: Any) -> Any:
            monkeypatch.undo()
            raise redis.exceptions.OutOfMemoryError("maxmemory")

        monkeypatch.setattr(logged, "_transact", full_once)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            logged.cache_write("key", "value")
        assert not fake.exists("key") and logged._transact == transact
        monkeypatch.setattr(logged, "_transact", full_once)
        logged.publish("ch", "x")  # which takes no room
        assert entries(fake) == [] and logged.log_error == "maxmemory"

    def test_a_write_without_a_ttl_is_kept(self, logged: LoggedRedis, fake: Any) -> None:
        logged.cache_write("key", "value")
        assert fake.pttl("key") == -1 and logged.cache_read("key") == [("value", math.inf)]

    @pytest.mark.parametrize("source", ["me", "my-bot", "bot-2", "7", "a" * 40])
    def test_a_program_may_call_itself_what_it_likes(self, fake: redis.Redis, source: str) -> None:
        LoggedRedis(fake, source).error("key", "it broke")
        assert [entry["source"] for entry in read_log(fake, source=source)] == [source]

    @pytest.mark.parametrize(
        "source", ["", "a" * 41, "My-bot", "my bot", "my_bot", "bot\n", "b\u00f6t", "\u0663"]
    )
    def test_a_bad_source_is_refused_with_what_is_accepted(
        self, fake: redis.Redis, source: str
    ) -> None:
        with pytest.raises(ValueError, match=r"must be 1 to 40 .*trader-bot") as caught:
            LoggedRedis(fake, source)
        assert str(caught.value).startswith(f"source={source!r}: ")


@pytest.fixture(scope="module")
def filled() -> redis.Redis:
    """5000 entries; every 10th is a signal, every 50th is the dashboard's."""
    fake = fakeredis.FakeRedis(decode_responses=True)
    for number in range(5000):
        kind = "signal" if number % 10 == 0 else "publish"
        source = "dashboard" if number % 50 == 0 else "market-data"
        fields: Any = {"type": kind, "source": source, "summary": str(number)}
        fake.xadd(DEFAULT_KEY, fields)
        if kind == "signal":
            fake.xadd(f"{DEFAULT_KEY}:signal", fields)
    return fake


class TestReadLog:
    @pytest.mark.parametrize("limit", [1, 7, 1000])
    @pytest.mark.parametrize("type_", [None, "signal", "trade"])
    @pytest.mark.parametrize("source", [None, "dashboard", "trader-bot"])
    def test_filters_like_a_plain_filter(
        self, filled: Any, limit: int, type_: str | None, source: str | None
    ) -> None:
        plain = [
            fields["summary"]
            for _, fields in filled.xrevrange(DEFAULT_KEY)
            if type_ in (None, fields["type"]) and source in (None, fields["source"])
        ]
        found = read_log(filled, limit, type_, source)
        assert [entry["summary"] for entry in found] == plain[:limit]

    def test_an_empty_log(self, fake: redis.Redis) -> None:
        assert read_log(fake, 10, "signal") == [] == read_log(fake)
        assert log_extent(fake) == (0, None, None) == log_extent(fake, RARE_TYPES)

    def test_rare_types_with_a_common_one_are_read_from_the_log(self, filled: Any) -> None:
        both = read_log(filled, 3, ["signal", "publish"], source="dashboard")
        assert [entry["summary"] for entry in both] == ["4950", "4900", "4850"]
        [only] = read_log(filled, 1, ["signal", "publish"])
        assert only["summary"] == "4999"

    def test_a_page_back(self, filled: Any) -> None:
        for type_ in ("signal", None):
            first = read_log(filled, 4, type_)
            again = read_log(filled, 2, type_) + read_log(
                filled, 2, type_, before=first[1]["id"], since="2020-01-01", until="2999-01-01"
            )
            assert again == first

    def test_text_in_channel_or_summary(self, logged: LoggedRedis, fake: redis.Redis) -> None:
        logged.error("market:ohlcv:BTCUSDT:5m", "HTTP 503")
        logged.error("market:ohlcv:ETHUSDT:5m", "the same as BTCUSDT")
        logged.error("market:ohlcv:ETHUSDT:5m", "Ärger")
        for type_ in ("error", None):
            assert len(read_log(fake, type=type_, q="btc")) == 2
            assert [entry["summary"] for entry in read_log(fake, type=type_, q="ÄRGER")] == [
                "Ärger"
            ]
        assert read_log(fake, q="error") == []

    def test_since_and_until(self, fake: Any) -> None:
        for ms in (1_795_489_650_000, 1_795_489_650_500, 1_795_489_651_000):
            fake.xadd(DEFAULT_KEY, {"summary": str(ms)}, id=f"{ms}-7")
        start = "2026-11-24T03:07:30"

        def found(**range_: str) -> list[str]:
            return [entry["summary"][-4:] for entry in read_log(fake, **range_)]  # type: ignore[arg-type]

        assert found(since=f"{start}.500Z") == ["1000", "0500"]
        assert found(until=start) == ["0000"]
        assert found(since=f"{start}Z", until="2026-11-23T22:07:30.500-05:00") == ["0500", "0000"]
        assert found(until=f"{start}.500Z", before="1795489650500-7") == ["0000"]
        assert found(until="2026-11-24", since="0001-01-01T00:00+14:00") == []
        assert found(since="9999-12-31T23:59:59.999-14:00") == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [("before", value) for value in ("", "1", "x-0", "0-0", "1-", "1-2-3", f"{2**64}-0", "٣-0")]
        + [(name, value) for name in ("since", "until") for value in ("", "noon", "1795489650")],
    )
    def test_what_is_accepted_is_said(self, fake: redis.Redis, name: str, value: str) -> None:
        with pytest.raises(ValueError, match=rf"^{name}='{value}': must be (a time|the id)"):
            read_log(fake, **{name: value})  # type: ignore[arg-type]

    def test_the_extent_of_an_id_that_claims_to_be_of_the_far_future(self, fake: Any) -> None:
        fake.xadd(DEFAULT_KEY, {"summary": "evil"}, id=f"{2**63}-0")
        assert str(log_extent(fake).newest).startswith("9999-12-31")


class TestHelpers:
    def test_iso_ms(self) -> None:
        assert iso_ms(0) == "1970-01-01T00:00:00.000Z"
        assert iso_ms(1_700_000_000.123) == "2023-11-14T22:13:20.123Z"

    @pytest.mark.parametrize(
        "url",
        [
            "redis://user:secret@host:6379/0",
            "redis://:secret@host/0",
            "redis://secret@host",
            "redis://u:se@cret@host/0",
            "redis://host/0?password=secret",
            "rediss://u:secret@host",
            "redis://:sec?ret@host/0",
            "redis://:secret/x@host",
            "redis+sentinel://u:secret@host:26379,host:26380/mymaster",
            "u:secret@host",
            ":se@cret@host:6379/0",
            "redis:/u:secret@host",
            "redis//u:secret@host",
            "redis://u:sec\nret@host",
        ],
    )
    def test_redact_shows_no_password(self, url: str) -> None:
        assert "sec" not in redact(url) and "cret" not in redact(url) and "host" in redact(url)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://host/0?password=sec@cret",
            "redis+sentinel://host:1/m?sentinel_password=sec@cret",
            "redis://:sec?a=@host/0",
            "redis://:sec?a=cret@host/0?password=sec@cret",
        ],
    )
    def test_redact_shows_nothing_where_an_at_sign_may_be_of_a_password(self, url: str) -> None:
        assert redact(url) == f"{url.partition('://')[0]}://***"

    def test_redact_keeps_the_rest(self) -> None:
        assert redact("rediss://u:p@host:6379/0?ssl=1") == "rediss://***@host:6379/0"
        assert redact("unix:///run/redis.sock") == "unix:///run/redis.sock"


class TestUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://h/1?protocol=3&decode_responses=no&socket_timeout=99&encoding_errors=strict",
            "unix:///run/redis.sock?db=1&protocol=3&socket_connect_timeout=99&socket_timeout=99",
        ],
    )
    def test_options_change_nothing_that_is_relied_on(self, url: str) -> None:
        options = redis_log.connect(url).connection_pool.connection_kwargs
        plain = redis_log.connect("redis://h/1").connection_pool.connection_kwargs
        for name in ("db", "protocol", "decode_responses", "socket_timeout", "encoding_errors"):
            assert options[name] == plain[name]


class TestSentinelUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://127.0.0.1/mymaster",
            "redis+sentinel://127.0.0.1:26379",
            "redis+sentinel://:secret@127.0.0.1:x/mymaster",
            "redis+sentinel:///mymaster/0",
            "redis+sentinel://127.0.0.1:26379/mymaster?sentinel_pasword=secret",
            "redis+sentinel://127.0.0.1:26379/mymaster?secret",
            "redis://127.0.0.1/abc",
            "redis://:secret@127.0.0.1/0/1",
        ],
    )
    def test_a_bad_url_is_refused_without_showing_it(self, url: str) -> None:
        with pytest.raises(ValueError, match="must be like") as caught:
            redis_log.connect(url)
        assert "secret" not in str(caught.value)

    def test_sentinels_may_have_ipv6_addresses_and_a_password_of_their_own(self) -> None:
        url = "redis+sentinel://:p@[::1]:1,b:2/m?sentinel_username=u&sentinel_password=x%2Fy"
        client = redis_log.connect(url)
        manager: Any = client.connection_pool.sentinel_manager  # type: ignore[attr-defined]
        nodes = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
        assert [(node["host"], node["port"]) for node in nodes] == [("::1", 1), ("b", 2)]
        assert {(node["username"], node["password"]) for node in nodes} == {("u", "x/y")}
        assert client.connection_pool.connection_kwargs["password"] == "p"
        assert "x" not in redis_log.redact(url).partition("@")[2]

    def test_a_good_url_is_taken_apart(self) -> None:
        client = redis_log.connect("redis+sentinel://us%40er:p%2Fw@a:1,b-c.d:2/my-master/3")
        options = client.connection_pool.connection_kwargs
        assert (options["username"], options["password"], options["db"]) == ("us@er", "p/w", 3)
