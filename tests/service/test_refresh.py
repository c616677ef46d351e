"""Single refreshes on the simulated exchange, without any loop."""

from __future__ import annotations

import json
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import redis

import fetcher
from binance_answers import Candles
from binance_client import TOO_LATE
from candles import Series, boot_s
from demo import market
from demo.exchange import Exchange
from market_data import MarketData
from redis_log import Batch, read_log
from settings import DEFAULT_LEADER_KEY, Settings
from tests.support import PATIENCE


def data_keys(client: Any) -> list[str]:
    """All of the service's keys but the lease."""
    return [key for key in client.keys("market:*") if not key.startswith(DEFAULT_LEADER_KEY)]


def held_of(service: MarketData) -> dict[str, Any]:
    """The entries that the service holds, by key."""
    return {feed.key: entry for feed, entry in service.store.view().held.items()}


def turn(service: MarketData, name: str = "5m") -> None:
    service.refresh(next(t for t in service.settings.timeframes if t.name == name))


def candles(client: redis.Redis, symbol: str, timeframe: str = "5m") -> list[dict[str, Any]]:
    text = client.get(f"market:ohlcv:{symbol}:{timeframe}")
    return json.loads(text) if isinstance(text, str) else []


class Clocks:
    """The service's clocks, which stand still until a test moves them; Redis uses the same."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.passed_s = self.stepped_s = 0.0
        booted_s, wall_s = boot_s(), time.time()
        patch.setattr(time, "clock_gettime", lambda _: booted_s + self.passed_s)
        patch.setattr(time, "time", lambda: wall_s + self.passed_s + self.stepped_s)

    def of_redis(self, at_s: float) -> Any:
        """The instant `at_s` of the boot clock in Redis' time, in ms, allowing for rounding."""
        wall_ms = (time.time() + at_s - boot_s()) * 1000
        return pytest.approx(wall_ms, abs=2)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_what_waits_for_a_worker_does_not_go_out_during_a_hold(
    make: Callable[..., MarketData], exchange: Exchange
) -> None:
    service = make(SYMBOLS=",".join(market.symbols(12)), MAX_WORKERS="2")
    exchange.fault("hold", seconds=60)
    turn(service)
    assert 1 <= len(exchange.requests) <= 2
    assert len(service.health()[1]["timeframes"]["5m"]["failing"]) == 12


def test_what_comes_too_late_to_be_sent_is_not_charged(
    make: Callable[..., MarketData], exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "GIVE_UP_SHARE", 0.0)
    service = make()
    results = service.fetcher.read(service.settings.timeframes[0])
    assert {getattr(result, "reason", "") for result in results.values()} == {TOO_LATE}
    assert len(results) == 6 and service.limiter.state()[0] == 0 and not exchange.requests


def test_a_refresh_that_begins_as_the_program_ends_is_no_bug(
    make: Callable[..., MarketData], exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    service.stopping.set()
    service.fetcher.stop()
    refresh = threading.Thread(target=service.loops[0].run)
    refresh.start()
    service.stop(until=0.0)
    refresh.join(20)
    assert not refresh.is_alive() and not exchange.requests
    assert "event=bug" not in caplog.text


def test_a_thread_that_cannot_be_started_is_a_failure_that_mends(
    make: Callable[..., MarketData], exchange: Exchange, fake: Any
) -> None:
    service = make(MAX_WORKERS="2")
    with pytest.MonkeyPatch.context() as patch:

        def fail(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", fail)
        turn(service)
    failing = service.health()[1]["timeframes"]["5m"]["failing"]
    assert set(failing.values()) == {"can't start new thread"} and len(failing) == 3
    turn(service)
    assert service.health()[1]["timeframes"]["5m"]["failing"] == {} and len(data_keys(fake)) == 6


class TestRefresh:
    def test_writes_logs_and_publishes(
        self, make: Callable[..., MarketData], fake: Any, exchange: Exchange
    ) -> None:
        heard = fake.pubsub(ignore_subscribe_messages=True)
        heard.psubscribe("market:update:*")
        heard.get_message(timeout=1)
        service = make()
        turn(service)
        for symbol in service.settings.symbols:
            got = candles(fake, symbol)
            truth = exchange.klines(symbol, "5m", 50)
            assert [c["timestamp"] for c in got] == [row[0] for row in truth]
            # The last one may have changed since; all others equal the exchange's.
            assert [list(c.values())[1:] for c in got[:-1]] == [
                [float(text) for text in row[1:6]] for row in truth[:-1]
            ]
            assert 15_000 < fake.pttl(f"market:ohlcv:{symbol}:5m") <= 20_000
            price = json.loads(fake.get(f"market:price:{symbol}"))
            assert list(price) == ["price", "change24h", "volume", "timestamp"]
            assert 55_000 < fake.pttl(f"market:price:{symbol}") <= 60_000
        update = heard.get_message(timeout=1)
        assert update["channel"] == "market:update:5m"
        body = json.loads(update["data"])
        assert list(body) == ["timeframe", "symbols", "failed", "timestamp", "duration_ms", "db"]
        assert body["symbols"] == sorted(service.settings.symbols) and body["failed"] == []
        kinds = [entry["type"] for entry in read_log(fake)]
        assert kinds == ["publish"] + ["cache_write"] * 6
        assert heard.get_message(timeout=0.1) is None  # "all" waits for the other timeframe
        turn(service, "1h")
        channels = [heard.get_message(timeout=1)["channel"] for _ in range(2)]
        assert channels == ["market:update:1h", "market:update:all"]

    def test_later_refreshes_ask_for_three_candles(
        self, make: Callable[..., MarketData], exchange: Exchange
    ) -> None:
        service = make()
        turn(service)
        before = len(exchange.requests)
        turn(service)
        later = exchange.requests[before:]
        asked = [r.limit for r in later if r.path.endswith("klines")]
        assert len(asked) == 3 and set(asked) <= {3, 4}  # 4 if a candle has just opened
        assert [r.weight for r in later if r.path.endswith("24hr")] == [1]

    def test_a_series_is_read_whole_once_an_hour(
        self, make: Callable[..., MarketData], exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetcher, "WHOLE_EVERY_S", 0.0)
        service = make()
        turn(service)
        turn(service)
        assert [r.limit for r in exchange.requests if r.path.endswith("klines")] == [50] * 6

    def test_a_gap_of_the_exchange_is_accepted_after_one_whole_read(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        service = make(SYMBOLS="BTCUSDT")
        turn(service)
        *_, two_before, _, _ = candles(fake, "BTCUSDT")
        start = two_before["timestamp"] / 1000
        service.store.forget()  # or the held candle would contradict
        exchange.fault("gap", start=start + 300, end=start + 600)
        asked = []
        for _ in range(3):
            before = len(exchange.requests)
            turn(service)
            asked.append([r.limit for r in exchange.requests[before:] if "klines" in r.path])
        assert asked == [[50], [3], [3]]
        assert len(candles(fake, "BTCUSDT")) == 50

    def test_revisions_of_final_candles_are_taken_over_when_two_answers_agree(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        service = make(SYMBOLS="BTCUSDT")
        turn(service)
        before = candles(fake, "BTCUSDT")
        exchange.fault("revised")
        turn(service)
        turn(service)
        revised = candles(fake, "BTCUSDT")
        assert revised[-3] != before[-3]
        exchange.clear()
        turn(service)
        turn(service)
        assert candles(fake, "BTCUSDT")[:-1] == before[:-1]

    def test_a_young_market_is_served_with_what_it_has(self, fake: Any) -> None:
        with Exchange(listed_at={"SUIUSDT": time.time() - 3000}) as exchange:
            settings = Settings.from_env({"BINANCE_BASE_URL": exchange.url, "SYMBOLS": "SUIUSDT"})
            service = MarketData(settings, fake)
            turn(service)
            turn(service)
            service.stop(until=time.monotonic() + 5)
        assert 10 <= len(candles(fake, "SUIUSDT")) <= 11

    def test_an_unknown_symbol_harms_no_other_and_mends_when_it_is_listed(
        self,
        make: Callable[..., MarketData],
        exchange: Exchange,
        fake: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO, "coinex")
        service = make(SYMBOLS="BTCUSDT,FOOUSDT,ETHUSDT")
        for _ in range(3):
            turn(service)
        assert fake.exists("market:price:BTCUSDT", "market:price:ETHUSDT") == 2
        assert not fake.exists("market:price:FOOUSDT", "market:ohlcv:FOOUSDT:5m")
        said = [m for m in caplog.messages if "FOOUSDT" in m]
        assert len(said) == 2 and all("Invalid symbol" in line for line in said)
        assert service.health()[1]["unknown_symbols"] == ["FOOUSDT"]
        exchange.list("FOOUSDT")
        turn(service)
        assert fake.exists("market:price:FOOUSDT", "market:ohlcv:FOOUSDT:5m") == 2
        assert service.health()[1]["unknown_symbols"] == []

    def test_a_bug_with_one_symbol_harms_no_other(
        self,
        make: Callable[..., MarketData],
        fake: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        service = make()
        klines = service.exchange.klines

        def broken(symbol: str, *rest: Any) -> Candles:
            return [][1] if symbol == "ETHUSDT" else klines(symbol, *rest)

        monkeypatch.setattr(service.exchange, "klines", broken)
        turn(service)
        assert candles(fake, "BTCUSDT") and not candles(fake, "ETHUSDT")
        assert "IndexError" in service.health()[1]["timeframes"]["5m"]["failing"]["ETHUSDT"]
        assert any("event=bug" in m and "where=test_refresh" in m for m in caplog.messages)

    def test_a_halted_symbol_is_named(
        self, make: Callable[..., MarketData], exchange: Exchange, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange.halt("ETHUSDT")
        service = make()
        turn(service)
        turn(service)
        line = 'event=problem what=ETHUSDT reason="is not traded but BREAK"'
        assert caplog.messages.count(line) == 1
        assert service.health()[1]["problems"] == {"ETHUSDT": "is not traded but BREAK"}
        assert list(service.health()[1]["problems_since"]) == ["ETHUSDT"]
        exchange.halt("SOLUSDT")
        exchange.resume("ETHUSDT")
        service._listing_due_at = 0.0
        turn(service)
        assert list(service.health()[1]["problems"]) == ["SOLUSDT"]


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"status": 500}, "HTTP 500"),
    ("status", {"status": 404}, "HTTP 404"),
    ("html", {}, "not JSON"),
    ("truncated", {}, "not JSON"),
    ("short_body", {}, "connection failed"),
    ("empty", {}, "no candles"),
    ("short_rows", {}, "12 fields"),
    ("nan", {}, "its close is 'NaN'"),
    ("inf", {}, "its close is 'Infinity'"),
    ("negative_volume", {}, "its volume is '-"),
    ("high_below_low", {}, "contradicts itself"),
    ("close_above_high", {}, "contradicts itself"),
    ("duplicated", {}, "not in order"),
    ("unordered", {}, "not in order"),
    ("future", {}, "future"),
    ("not_json_number", {}, "open time"),
    ("wrong_shape", {}, "list of candles"),
    ("huge", {}, "larger than"),
    ("drip", {}, "in time"),
    ("drip", {"where": "body"}, "in time"),
    ("silent", {}, "in time"),
    ("reset", {}, "connection failed"),
    ("redirect", {"location": "http://127.0.0.1:1/"}, "redirects are not followed"),
]


class TestFaults:
    @pytest.mark.parametrize(
        ("kind", "detail", "reason"), FAULTS, ids=[f"{k}-{r.split()[-1]}" for k, _, r in FAULTS]
    )
    def test_a_fault_of_one_symbol_leaves_its_candles_and_harms_no_other(
        self,
        make: Callable[..., MarketData],
        exchange: Exchange,
        fake: Any,
        caplog: pytest.LogCaptureFixture,
        kind: str,
        detail: dict[str, Any],
        reason: str,
    ) -> None:
        caplog.set_level(logging.INFO, "coinex")
        service = make()
        turn(service)
        before = fake.get("market:ohlcv:ETHUSDT:5m")
        expires = fake.pexpiretime("market:ohlcv:ETHUSDT:5m")
        others_expire = fake.pexpiretime("market:ohlcv:BTCUSDT:5m")
        exchange.fault(kind, symbol="ETHUSDT", path="klines", **detail)
        caplog.clear()
        turn(service)
        since = service.health()[1]["timeframes"]["5m"]["failing_since"]
        assert list(since) == ["ETHUSDT"]
        turn(service)
        assert service.health()[1]["timeframes"]["5m"]["failing_since"] == since
        assert fake.get("market:ohlcv:ETHUSDT:5m") == before
        assert fake.pexpiretime("market:ohlcv:ETHUSDT:5m") == expires  # not extended
        assert fake.pexpiretime("market:ohlcv:BTCUSDT:5m") > others_expire
        [line] = [message for message in caplog.messages if "ETHUSDT" in message]
        assert "event=fetch_failing what=5m symbols=ETHUSDT" in line and reason in line
        failing = service.health()[1]["timeframes"]["5m"]["failing"]
        assert list(failing) == ["ETHUSDT"] and reason in failing["ETHUSDT"]
        errors = read_log(fake, 10, "error")
        assert [e["channel"] for e in errors] == ["market:ohlcv:ETHUSDT:5m"]
        exchange.clear()
        caplog.clear()
        turn(service)
        assert "event=fetch_mended what=5m symbols=ETHUSDT" in caplog.messages
        assert service.health()[1]["timeframes"]["5m"]["failing_since"] == {}
        assert fake.pexpiretime("market:ohlcv:ETHUSDT:5m") > expires

    def test_a_bad_price_is_no_price_and_harms_no_other(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        exchange.fault("price_zero", symbol="ETHUSDT")
        service = make()
        turn(service)
        assert fake.exists("market:price:BTCUSDT", "market:price:SOLUSDT") == 2
        assert not fake.exists("market:price:ETHUSDT")
        assert list(service.health()[1]["prices"]["failing"]) == ["ETHUSDT"]

    def test_a_price_that_is_older_is_refused(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        service = make()
        turn(service)
        before = fake.get("market:price:ETHUSDT")
        exchange.fault("lagging", path="ticker/24hr", symbol="ETHUSDT", seconds=100)
        turn(service)
        assert fake.get("market:price:ETHUSDT") == before
        assert "older" in service.health()[1]["prices"]["failing"]["ETHUSDT"]

    def test_a_failure_that_is_remembered_holds_nothing_of_the_answer(
        self, make: Callable[..., MarketData], exchange: Exchange
    ) -> None:
        """An answer may have 5 MB, and there is one for each series and price."""
        service = make()
        turn(service)
        exchange.fault("huge", megabytes=6)
        tracemalloc.start()
        try:
            turn(service)
            held_bytes, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(service.store.view().failing) == 6
        assert peak_bytes > 5e6 and held_bytes < 1e6

    def test_words_of_the_exchange_reach_no_log_unescaped(
        self,
        make: Callable[..., MarketData],
        exchange: Exchange,
        fake: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        exchange.fault("status", status=400, msg="\ud800 \x1b[31m\nevil", symbol="ETHUSDT")
        service = make()
        turn(service)
        reason = service.health()[1]["timeframes"]["5m"]["failing"]["ETHUSDT"]
        assert reason.isprintable() and r"\ud800 \x1b[31m\nevil" in reason
        assert any("ETHUSDT" in message for message in caplog.messages)
        assert fake.exists("market:ohlcv:BTCUSDT:5m") and len(read_log(fake, 10, "error")) == 4

    def test_a_dead_exchange_is_said_once_and_ends_within_the_interval(
        self,
        make: Callable[..., MarketData],
        exchange: Exchange,
        fake: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        service = make()
        turn(service)
        turn(service, "1h")
        exchange.stop()
        for _ in range(3):
            started = time.monotonic()
            turn(service)
            assert time.monotonic() - started < 5 * PATIENCE
        said = [message for message in caplog.messages if "fetch_failing" in message]
        assert len(said) == 2  # candles, prices: all symbols in one line each
        assert "symbols=BTCUSDT,ETHUSDT,SOLUSDT" in said[0] and "refused" in said[0]
        logged = [entry["channel"] for entry in read_log(fake, 1000, "error")]
        assert len(logged) == len(set(logged)) == 6  # candles and price of each symbol, once

    def test_the_forming_candle_of_a_lagging_answer_does_not_replace_a_newer_one(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        """Such an answer does not join; a whole read that also lags is rejected."""
        service = make(SYMBOLS="BTCUSDT")
        turn(service)
        before = fake.get("market:ohlcv:BTCUSDT:5m")
        expires = fake.pexpiretime("market:ohlcv:BTCUSDT:5m")
        exchange.fault("lagging", path="klines", seconds=400)
        turn(service)
        limits = [r.limit for r in exchange.requests if "klines" in r.path]
        assert limits == [50, 3, 50]
        assert fake.get("market:ohlcv:BTCUSDT:5m") == before
        assert fake.pexpiretime("market:ohlcv:BTCUSDT:5m") == expires
        failing = service.health()[1]["timeframes"]["5m"]["failing"]
        assert failing == {"BTCUSDT": "the answer is older than one before it"}
        exchange.clear()
        turn(service)
        assert service.health()[1]["timeframes"]["5m"]["failing"] == {}


class BrokenRedis:
    """Wraps a client; its scripts and pipelines raise `error` if there is one."""

    def __init__(self, client: redis.Redis) -> None:
        self.client, self.connection_pool = client, client.connection_pool
        self.error: Exception | None = None

    def pipeline(self, **options: Any) -> Any:
        pipeline = self.client.pipeline(**options)
        if self.error:
            pipeline.execute = self.fail  # type: ignore[method-assign]
        return pipeline

    def eval(self, *arguments: Any) -> Any:
        return self.fail() if self.error else self.client.eval(*arguments)

    def fail(self, **_: Any) -> None:
        assert self.error
        raise self.error


class TestRedisAway:
    def test_what_was_not_taken_is_sent_later_and_published_once(
        self, make: Callable[..., MarketData], fake: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "coinex")
        broken = BrokenRedis(fake)
        service = make(broken)
        heard = fake.pubsub(ignore_subscribe_messages=True)
        heard.psubscribe("market:update:*")
        heard.get_message(timeout=1)
        broken.error = redis.ConnectionError("gone")
        for _ in range(2):
            turn(service)
            turn(service, "1h")
            service.maintain()
        assert service.health()[0] == 503 and not data_keys(fake)
        broken.error = None
        service.maintain()
        assert service.health()[0] == 200
        channels = [heard.get_message(timeout=1)["channel"] for _ in range(3)]
        assert sorted(channels) == ["market:update:1h", "market:update:5m", "market:update:all"]
        assert heard.get_message(timeout=0.1) is None
        assert len(data_keys(fake)) == 9
        lines = [message for message in caplog.messages if "what=redis" in message]
        assert lines == ["event=problem what=redis reason=gone", "event=problem_over what=redis"]

    def test_all_that_is_pending_goes_together_and_again_until_it_is_taken(
        self, make: Callable[..., MarketData], caplog: pytest.LogCaptureFixture
    ) -> None:
        service = make()
        turn(service)
        turn(service, "1h")
        with patch.object(service.writer, "commit"):
            turn(service, "1h")
            turn(service)
        send, refuses = service.logged.send, True
        told: list[list[str]] = []

        def sending(batch: Batch, **more: Any) -> None:
            told.append([channel for name, channel, *_ in batch.commands if name == "PUBLISH"])
            if refuses:
                raise redis.TimeoutError("hangs")
            send(batch, **more)

        with patch.object(service.logged, "send", sending):
            for _ in range(3):
                assert not service.writer.commit()
            refuses = False
            assert service.writer.commit()
        every = ["market:update:1h", "market:update:5m", "market:update:all"]
        assert told == [every] * 4
        lines = [message for message in caplog.messages if "what=redis" in message]
        assert lines == ["event=problem what=redis reason=hangs"]
        assert service.health()[1]["problems"] == {}

    def test_memory_that_is_cleared_while_redis_answers_keeps_nothing_back(
        self, make: Callable[..., MarketData], fake: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The machine slept after EXEC, and another instance led; the thread that checks the lease
        wakes up first."""
        service = make()
        turn(service)
        send = service.logged.send

        def sleeping(*arguments: Any, **more: Any) -> None:
            send(*arguments, **more)
            fake.set(DEFAULT_LEADER_KEY, "another")
            fake.incr(f"{DEFAULT_LEADER_KEY}:term")
            service.claim()

        with patch.object(service.logged, "send", sleeping):
            turn(service, "1h")
        assert not held_of(service) and service.health()[1]["status"] == "standby"
        fake.delete(DEFAULT_LEADER_KEY)
        service.claim()
        for name in ("1h", "5m"):
            turn(service, name)
            service.maintain()
        assert len(data_keys(fake)) == 9 and service.health()[1]["status"] == "ok"
        assert not any("event=bug" in message for message in caplog.messages)

    def test_what_is_refused_is_sent_ever_more_rarely_but_with_each_refresh(
        self, make: Callable[..., MarketData], fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once Redis accepts it, commits are immediate again. The lease is renewed every second
        throughout."""
        service = make()
        turn(service)
        turn(service, "1h")
        began = now = boot_s()
        ahead_s = time.time() - now
        monkeypatch.setattr(time, "clock_gettime", lambda _: now)
        monkeypatch.setattr(time, "time", lambda: now + ahead_s)
        sent: list[float] = []
        send, refuses = service.logged.send, True

        def sending(*arguments: Any, **more: Any) -> None:
            sent.append(now - began)
            if refuses:
                raise redis.ResponseError("no")
            send(*arguments, **more)

        def seconds(count: int) -> list[float]:
            nonlocal now
            sent.clear()
            for _ in range(count):
                now += 1
                fake.delete(DEFAULT_LEADER_KEY)
                service.maintain()
                assert fake.exists(DEFAULT_LEADER_KEY)
            return list(sent)

        monkeypatch.setattr(service.logged, "send", sending)
        turn(service)
        assert seconds(12) == [1, 3, 7, 11]
        turn(service)
        assert sent == [1, 3, 7, 11, 12]
        refuses = False
        assert seconds(4) == [15] and service.health()[1]["problems"] == {}
        assert seconds(1) == []
        refuses = True
        turn(service)
        assert seconds(3) == [18, 20]

    def test_keys_that_vanish_come_back_with_the_ttl_they_have_left(
        self, make: Callable[..., MarketData], fake: Any, clocks: Clocks
    ) -> None:
        service = make()
        turn(service)
        expires = {key: fake.pexpiretime(key) for key in data_keys(fake)}
        fake.flushall()
        clocks.passed_s += 1.2  # which must not extend the keys' life
        service.maintain()
        found = {key: fake.pexpiretime(key) for key in data_keys(fake)}
        assert len(expires) == 6 and found == pytest.approx(expires, abs=2)

    def test_data_ages_while_the_machine_is_suspended(
        self, make: Callable[..., MarketData], fake: Any, clocks: Clocks
    ) -> None:
        """By the boot clock, which counts the suspension; meanwhile the keys in Redis expire."""
        service = make()
        turn(service)
        turn(service, "1h")
        fake.flushall()
        clocks.passed_s += 3600
        service.maintain()
        assert not data_keys(fake)
        assert service.health()[1]["status"] == "down"

    @pytest.mark.parametrize("step_s", [-3600.0, -0.3, 0.3, 3600.0])
    def test_a_wall_clock_that_steps_lengthens_no_life_and_shortens_none(
        self, make: Callable[..., MarketData], fake: Any, step_s: float, clocks: Clocks
    ) -> None:
        """Redis expires keys by the wall clock too, so earlier expiries are wrong by the step."""
        service = make()
        turn(service)
        turn(service, "1h")
        service.maintain()
        wrote = len(read_log(fake))
        service.maintain()
        assert len(read_log(fake)) == wrote  # without a step there is nothing to do
        clocks.stepped_s = step_s
        service.maintain()
        assert len(held_of(service)) == 9
        for key, held in held_of(service).items():
            assert fake.pexpiretime(key) == clocks.of_redis(held.expires_at)

    def test_a_stop_in_the_middle_of_a_commit_lengthens_no_life(
        self,
        make: Callable[..., MarketData],
        fake: Any,
        monkeypatch: pytest.MonkeyPatch,
        clocks: Clocks,
    ) -> None:
        """As by SIGSTOP, for less than LEADER_TTL."""
        service = make()
        summary_of = Series.summary

        def stopped_here(held: Series) -> str:
            clocks.passed_s += 0.3
            return summary_of(held)

        monkeypatch.setattr(Series, "summary", stopped_here)
        turn(service)
        for symbol in service.settings.symbols:
            key = f"market:ohlcv:{symbol}:5m"
            assert fake.pexpiretime(key) == clocks.of_redis(held_of(service)[key].expires_at)

    def test_a_publish_names_only_what_can_be_read(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any, clocks: Clocks
    ) -> None:
        broken = BrokenRedis(fake)
        service = make(broken, LEADER_TTL="60")
        heard = fake.pubsub(ignore_subscribe_messages=True)
        heard.subscribe("market:update:5m")
        heard.get_message(timeout=1)
        broken.error = redis.ConnectionError("gone")
        turn(service)
        exchange.fault("html", symbol="ETHUSDT", path="klines")
        clocks.passed_s += 21
        turn(service)
        broken.error = None
        service.maintain()
        update = json.loads(heard.get_message(timeout=1)["data"])
        assert (update["symbols"], update["failed"]) == (["BTCUSDT", "SOLUSDT"], ["ETHUSDT"])

    def test_what_is_too_old_is_not_written(
        self, make: Callable[..., MarketData], fake: Any, clocks: Clocks
    ) -> None:
        broken = BrokenRedis(fake)
        service = make(broken, LEADER_TTL="60")
        broken.error = redis.ConnectionError("gone")
        turn(service)
        clocks.passed_s += 21
        broken.error = None
        service.maintain()
        assert not fake.keys("market:ohlcv:*") and len(fake.keys("market:price:*")) == 3


class TestKeep:
    def test_a_loop_that_does_not_turn_is_a_problem(
        self, make: Callable[..., MarketData], caplog: pytest.LogCaptureFixture
    ) -> None:
        service = make()
        service.maintain()
        assert service.health()[1]["problems"] == {}
        service.loops[1].hangs_at = time.monotonic() - 1
        service.maintain()
        assert service.health()[1]["problems"] == {"loops": "hanging: refresh-1h"}
        assert 'event=problem what=loops reason="hanging: refresh-1h"' in caplog.messages

    def test_a_message_log_that_cannot_be_written_is_a_problem(
        self, make: Callable[..., MarketData], fake: Any
    ) -> None:
        fake.set("redis:message_log", "no stream")
        service = make()
        turn(service)
        turn(service, "1h")
        service.maintain()
        code, body = service.health()
        assert (code, body["status"]) == (200, "degraded") and "WRONGTYPE" in str(body["problems"])
        assert len(data_keys(fake)) == 9
        fake.delete("redis:message_log")
        turn(service)
        service.maintain()
        assert service.health()[1]["status"] == "ok"


class TestHealth:
    def test_starting_ok_degraded_down(
        self, make: Callable[..., MarketData], exchange: Exchange, clocks: Clocks
    ) -> None:
        service = make()
        assert service.health()[0] == 503 and service.health()[1]["status"] == "starting"
        turn(service)
        assert service.health()[1]["status"] == "starting"
        turn(service, "1h")
        assert service.health()[0] == 200 and service.health()[1]["status"] == "ok"
        exchange.fault("status", status=500, symbol="ETHUSDT", path="klines")
        turn(service)
        code, body = service.health()
        assert (code, body["status"]) == (200, "degraded")
        clocks.passed_s += 21
        code, body = service.health()
        assert (code, body["status"]) == (503, "down")
        assert body["timeframes"]["5m"]["fresh"] == 0 and body["timeframes"]["1h"]["fresh"] == 3
        assert body["timeframes"]["5m"]["age_s"] == 21
