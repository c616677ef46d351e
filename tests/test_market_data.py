"""Settings, joining, the loop under a moved clock, and single refreshes with no loop at all."""

from __future__ import annotations

import json
import logging
import random
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import fakeredis
import pytest
import redis

import market_data
from binance_client import Candles
from demo import market
from demo.exchange import Exchange
from market_data import (
    RECENT,
    WAKE_S,
    MarketData,
    RefreshLoop,
    Series,
    Settings,
    SettingsError,
    Timeframe,
    Update,
    event,
    join,
)
from redis_log import Batch, read_log
from tests.candles import as_held, rows_of, written

STEP = 300_000


class TestSettings:
    def test_defaults_are_those_of_the_design(self) -> None:
        settings = Settings.from_env({})
        assert settings.binance_base_url == "https://api.binance.us"
        assert len(settings.symbols) == 29 and settings.symbols[0] == "BTCUSDT"
        assert settings.timeframes == (("5m", 30, 120), ("1h", 120, 300), ("4h", 300, 600))
        assert (settings.candle_limit, settings.health_port) == (500, 8895)
        assert settings.price_timeframe.name == "5m"
        assert settings.weight_a_minute == pytest.approx(82.3)

    @pytest.mark.parametrize(
        ("name", "value", "hint"),
        [
            ("BINANCE_BASE_URL", "https://api.binance.com", "https://api.binance.us"),
            ("BINANCE_BASE_URL", "http://api.binance.us", "https://api.binance.us"),
            ("BINANCE_BASE_URL", "https://api.binance.us.evil.com", "api.binance.us.evil.com"),
            ("BINANCE_BASE_URL", "https://api.binance.us@evil.com", "evil.com"),
            ("BINANCE_BASE_URL", "http://127.0.0.1@evil.com", "evil.com"),
            ("BINANCE_BASE_URL", "http://127.0.0.1:80/api", "loopback"),
            ("BINANCE_BASE_URL", "http://127.0.0.1:port", "loopback"),
            ("BINANCE_BASE_URL", "http://10.0.0.1", "10.0.0.1"),
            ("BINANCE_BASE_URL", "http://[::1", "loopback"),
            ("BINANCE_BASE_URL", "file:///etc/passwd", "loopback"),
            ("BINANCE_BASE_URL", "", "loopback"),
            ("SYMBOLS", "", "BTCUSDT"),
            ("SYMBOLS", "BTC/USDT", "BTCUSDT"),
            ("SYMBOLS", "BTCUSDT,BTCUSDT", "each once"),
            ("SYMBOLS", "BTCUSDT,", "BTCUSDT"),
            ("SYMBOLS", "\xdfUSDT", "BTCUSDT"),
            ("HEALTH_PORT", "http", "65535"),
            ("HEALTH_PORT", "65536", "65535"),
            ("HEALTH_HOST", "a b", "host"),
            ("CANDLE_LIMIT", "5000", "1000"),
            ("CANDLE_LIMIT", "9", "10"),
            ("CANDLE_LIMIT", "1e2", "whole"),
            ("TIMEFRAMES", "7m:30:120", "15m"),
            ("TIMEFRAMES", "5m", "5m:30:120"),
            ("TIMEFRAMES", "5m:120:120", "longer"),
            ("TIMEFRAMES", "5m:0:9", "longer"),
            ("TIMEFRAMES", "5m:30:120,5m:40:120", "once"),
            ("TIMEFRAMES", "4h:300:600", "prices"),
            ("REDIS_URL", "localhost", "redis://127.0.0.1:6379/0"),
            ("REDIS_URL", "redis://host:port/0", "redis://127.0.0.1:6379/0"),
            ("REDIS_URL", "redis://host/0?what=1", "redis://127.0.0.1:6379/0"),
            ("MAX_WORKERS", "0", "64"),
            ("WEIGHT_LIMIT", "6000", "1200"),
            ("WEIGHT_LIMIT", "109", "110 or more"),
            ("MESSAGE_LOG_KEY", "market:price:X", "market:"),
            ("MESSAGE_LOG_MAXLEN", "1", "100"),
            ("LOG_LEVEL", "LOUD", "WARNING"),
            ("REQUEST_TIMEOUT", "0", "0.1"),
            ("REQUEST_TIMEOUT", "nan", "0.1"),
            ("REFRESH_OFFSET_MS", "-1", "10000"),
        ],
    )
    def test_a_bad_value_is_named_with_what_is_accepted(
        self, name: str, value: str, hint: str
    ) -> None:
        with pytest.raises(SettingsError) as bad:
            Settings.from_env({name: value})
        assert len(bad.value.args) == 1
        problem = bad.value.args[0]
        assert problem.startswith(f"{name}=") and hint in problem and "\n" not in problem
        assert "@" in value or value.partition("?")[0] in problem

    def test_all_bad_values_are_named_and_no_password(self) -> None:
        environ = {"SYMBOLS": "", "MAX_WORKERS": "x", "REDIS_URL": "redis://:secret/?#secret@h/0"}
        with pytest.raises(SettingsError) as bad:
            Settings.from_env(environ)
        assert len(bad.value.args) == 3 and "secret" not in str(bad.value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BINANCE_BASE_URL", "https://api.binance.us/"),
            ("BINANCE_BASE_URL", "http://[::1]:80"),
            ("BINANCE_BASE_URL", "http://localhost:18080"),
            ("SYMBOLS", " btcusdt , ETHUSDT "),
            ("REDIS_URL", "rediss://u:p@host:6380/1"),
            ("REDIS_URL", "unix:///run/redis.sock"),
            ("TIMEFRAMES", "1m:10:60"),
            ("REQUEST_TIMEOUT", "2.5"),
        ],
    )
    def test_good_values(self, name: str, value: str) -> None:
        assert Settings.from_env({name: value})


class TestLogLines:
    def test_logfmt(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "market_data")
        event(logging.INFO, "refresh", timeframe="5m", updated=29, reason="")
        event(logging.INFO, "x", url="http://h/?a=1", text='say "no"\nnow', plain="a,b:c/d")
        assert caplog.messages == [
            'event=refresh timeframe=5m updated=29 reason=""',
            r'event=x url="http://h/?a=1" text="say \"no\"\nnow" plain=a,b:c/d',
        ]


def candle(time_: int, close: float = 1.0) -> list[Any]:
    return [time_ * STEP, "1.0", "1.0", "1.0", str(close), "1.0", 0, "0.0", 0, "0.0", "0.0", "0"]


class TestJoin:
    def joined(self, held: Sequence[int], *times: int, limit: int = 500) -> list[int] | None:
        result = join(as_held([*map(candle, held)]), written([*map(candle, times)]), STEP, limit)
        return [row[0] // STEP for row in rows_of(result.candles())] if result else None

    def test_what_overlaps_is_replaced_and_the_oldest_go(self) -> None:
        assert self.joined([1, 2, 3, 4], 3, 4, 5) == [1, 2, 3, 4, 5]
        assert self.joined([1, 2, 3, 4], 3, 4, 5, limit=4) == [2, 3, 4, 5]
        assert self.joined([1], 1) == [1]
        read = [candle(1), candle(2, close=9.0)]
        result = join(as_held([candle(1), candle(2)]), written(read), STEP, 500)
        assert result and rows_of(result.candles()) == read

    def test_what_may_hide_a_missing_candle_does_not_join(self) -> None:
        assert self.joined([1, 2, 3], 5, 6) is None  # no overlap
        assert self.joined([1, 2, 3], 4, 5) is None  # adjacent: was 3 final?
        assert self.joined([1, 2, 3], 3, 4, 5) is None  # nor is it known that 2 was
        assert self.joined([1, 2, 3], 1, 2) is None  # ends before what is held
        assert self.joined([1, 2, 3], 2, 3, 5) is None  # a new gap
        assert self.joined([2, 3, 4], 1, 2, 3, 4, 5) is None  # begins before

    def test_a_gap_that_is_known_is_accepted(self) -> None:
        assert self.joined([1, 3, 4], 1, 3, 4, 5) == [1, 3, 4, 5]
        assert self.joined([1, 2, 3, 4], 1, 3, 4) is None  # 2 was there

    def test_text_is_the_contract_s_json(self) -> None:
        numbers = ["0.00002400", "10000000000000000", "0.1", "3.0", "12345678.12500000"]
        text = as_held([[STEP, *numbers, *candle(1)[6:]], candle(2)]).json()
        assert [list(each) for each in json.loads(text)] == [
            ["timestamp", "open", "high", "low", "close", "volume"]
        ] * 2
        assert [list(each.values()) for each in json.loads(text)] == [
            [STEP, 2.4e-05, 1e16, 0.1, 3.0, 12345678.125],
            [2 * STEP, *[1.0] * 5],
        ]
        assert b"0.00002400" in text

    @pytest.mark.parametrize("seed", range(50))
    def test_incremental_reads_give_what_a_whole_read_gives(self, seed: int) -> None:
        """A market with gaps and late revisions, read after random pauses; fallbacks included."""
        rng = random.Random(seed)
        market = [candle(t, rng.random()) for t in range(400) if rng.random() > 0.03]
        now, limit = 60, 50
        held = as_held([c for c in market if c[0] <= now * STEP][-limit:])
        while now < 390:
            for index, (open_ms, *_) in enumerate(market):
                if now - 1 <= open_ms // STEP <= now and rng.random() < 0.5:
                    market[index] = candle(open_ms // STEP, rng.random())
            now += rng.choice([0, 0, 1, 1, 2, 5, 70])
            whole = [c for c in market if c[0] <= now * STEP][-limit:]
            begun = now - held.times[-1] // STEP
            count = max(3, 2 + begun)
            read = written(whole[-count:])
            held = (join(held, read, STEP, limit) if count < limit else None) or as_held(whole)
            if rng.random() < 0.7:
                held = held.packed()
            assert rows_of(held.candles()) == whole and list(held.times) == [c[0] for c in whole]
            assert json.loads(held.json()) == json.loads(as_held(whole).json())

    def test_what_is_older_is_compressed(self) -> None:
        rows = [candle(t) for t in range(500)]
        held = as_held(rows)
        for n in range(500, 600):
            rows = [*rows[1:-1], candle(n - 1, 2.0), candle(n)]
            joined = join(held, written(rows[-3:]), STEP, 500)
            assert joined
            held = joined.packed()
            assert rows_of(held.candles()) == rows and len(held.recent.times) <= 16
            assert len(held.older) < 0.5 * len(written(rows).rows)
        # The first that the next read begins with is compressed, so nothing is joined to it.
        assert join(held, written(rows[-20:]), STEP, 500) is None


class TestUpdate:
    def test_what_is_too_old_by_now_was_not_updated(self) -> None:
        update = Update({"A", "B"}, {"C"}, 2, 5).without({"B", "C", "D"})
        assert update == Update({"A"}, {"B", "C"}, 2, 5)

    def test_including_an_unheard_one(self) -> None:
        merged = Update({"A"}, {"B", "C"}, 2, 5).including(Update({"B"}, {"A"}, 1, 9))
        assert merged == Update({"A", "B"}, {"C"}, 2, 5)

    def test_of_all(self) -> None:
        both = Update.of_all([Update({"A", "B"}, set(), 1, 9), Update({"A"}, {"B"}, 2, 5)])
        assert json.loads(both.json(timeframes=["5m", "1h"])) == {
            "timeframes": ["5m", "1h"],
            "symbols": ["A"],
            "failed": ["B"],
            "timestamp": 2,
            "duration_ms": 9,
        }


class MovedLoop(RefreshLoop):
    """A loop whose waits move its wall clock; it ends after `turns` refreshes."""

    brings = True

    def __init__(self, interval_s: int, turns: int, takes_s: float = 0.0, now: float = 1000.2):
        self.now, self.turns, self.takes_s, self.fired = now, turns, takes_s, list[float]()
        super().__init__(Timeframe("5m", interval_s, 120), 0.5, self.turn, lambda: self.now)
        self.finished.wait = self.pass_time  # type: ignore[method-assign, assignment]

    def turn(self, _: Timeframe) -> bool:
        self.fired.append(self.now)
        self.now += self.takes_s
        if len(self.fired) == self.turns:
            self.cancel()
        return self.brings

    def pass_time(self, seconds: float) -> bool:
        self.now += seconds
        return self.finished.is_set()


class SteppedLoop(MovedLoop):
    """Its wall clock steps by `step_s` when `at_s` seconds have really passed."""

    def __init__(self, step_s: float, at_s: float, turns: int) -> None:
        self.passed_s, self._step_s, self._at_s = 0.0, step_s, at_s
        self.fired_s: list[float] = []  # really
        super().__init__(30, turns, takes_s=0.2, now=self.now)

    @property
    def now(self) -> float:
        return 1000.2 + self.passed_s + self._step_s * (self.passed_s >= self._at_s)

    @now.setter
    def now(self, now: float) -> None:
        self.passed_s += now - self.now

    def turn(self, timeframe: Timeframe) -> bool:
        self.fired_s.append(self.passed_s)
        return super().turn(timeframe)


class TestRefreshLoop:
    def test_fires_at_once_then_on_aligned_ticks_without_drift(self) -> None:
        loop = MovedLoop(30, turns=5, takes_s=3.7)
        loop.run()
        assert loop.fired == pytest.approx([1000.2, 1020.5, 1050.5, 1080.5, 1110.5])

    def test_a_tick_missed_is_skipped(self) -> None:
        loop = MovedLoop(30, turns=3, takes_s=70)
        loop.run()
        assert loop.fired == pytest.approx([1000.2, 1080.5, 1170.5])

    def test_after_one_that_brought_nothing_the_next_comes_within_30_s(self) -> None:
        loop = MovedLoop(300, turns=4)
        loop.brings = False
        loop.run()
        assert loop.fired == pytest.approx([1000.2, 1020.5, 1050.5, 1080.5])

    @pytest.mark.parametrize("step_s", [-3600.0, -29.9, -10.0, -0.3, 0.3, 10.0, 29.9, 3600.0])
    @pytest.mark.parametrize("at_s", [19.0, 20.2, 20.35, 20.6, 35.0, 50.1])
    def test_a_clock_that_steps_makes_no_storm_and_no_hole(
        self, monkeypatch: pytest.MonkeyPatch, step_s: float, at_s: float
    ) -> None:
        """Due after 20.3 s and 50.3 s, for 0.2 s: it steps before, in and after a refresh."""
        loop = SteppedLoop(step_s, at_s, turns=8)
        monkeypatch.setattr(time, "monotonic", lambda: loop.passed_s)
        loop.run()
        between = [b - a for a, b in pairwise(loop.fired_s)]
        assert max(between) < 30 + 2 * WAKE_S + 0.01
        assert sum(gap < 20 for gap in between[1:]) <= 2  # one early, and that which aligns again
        assert loop.fired[-3:] == pytest.approx(
            [loop.fired[-1] - 60, loop.fired[-1] - 30, loop.fired[-1]]
        )
        assert [fired % 30 for fired in loop.fired[-3:]] == pytest.approx([0.5] * 3)

    def test_an_error_is_logged_with_its_place_and_ends_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = MovedLoop(30, turns=2)
        turn = loop.function

        def broken(timeframe: Timeframe) -> bool:
            turn(timeframe)
            raise KeyError("oops")

        loop.function = broken
        loop.run()
        assert len(loop.fired) == 2
        assert re.search(r"event=bug .*oops.* where=test_market_data.py:\d+", caplog.messages[0])

    def test_cancel_wakes_a_real_loop_at_once(self) -> None:
        turned = threading.Event()
        loop = RefreshLoop(Timeframe("5m", 3600, 7200), 0.5, lambda _: turned.set() or True)
        loop.start()
        assert turned.wait(5)
        assert loop.silent_until > time.monotonic()
        started = time.monotonic()
        loop.cancel()
        loop.join(5)
        assert not loop.is_alive() and time.monotonic() - started < 1


def data_keys(client: Any) -> list[str]:
    """All of the service's keys but the lease."""
    return [key for key in client.keys("market:*") if key != market_data.LEADER_KEY]


@pytest.fixture
def fake() -> redis.Redis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def make(exchange: Exchange, fake: redis.Redis) -> Iterator[Callable[..., MarketData]]:
    """A service on the simulated exchange and a fake Redis; nothing runs by itself."""
    made: list[MarketData] = []

    def make(client: redis.Redis = fake, **environ: str) -> MarketData:
        defaults = {
            "BINANCE_BASE_URL": exchange.url,
            "SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT",
            "CANDLE_LIMIT": "50",
            "REQUEST_TIMEOUT": "1",
            "TIMEFRAMES": "5m:5:20,1h:7:30",
        }
        made.append(MarketData(Settings.from_env(defaults | environ), client))
        return made[-1]

    yield make
    for service in made:
        service.stop(until=time.monotonic() + 5)


def turn(service: MarketData, name: str = "5m") -> None:
    service.refresh(next(t for t in service.settings.timeframes if t.name == name))


def candles(client: redis.Redis, symbol: str, timeframe: str = "5m") -> list[dict[str, Any]]:
    text = client.get(f"market:ohlcv:{symbol}:{timeframe}")
    return json.loads(text) if isinstance(text, str) else []


class TestWhoGoesFirst:
    """5m is refreshed each 5 s here, 1h each 7 s."""

    def test_a_refresh_asks_for_nothing_while_one_with_less_time_does(
        self, make: Callable[..., MarketData], exchange: Exchange
    ) -> None:
        service = make()
        often, seldom = service.settings.timeframes
        service._asking.add(often)
        refresh = threading.Thread(target=service.refresh, args=(seldom,))
        refresh.start()
        refresh.join(0.5)
        assert refresh.is_alive() and not exchange.requests
        service._asking.remove(often)
        refresh.join(5)
        assert [request.interval for request in exchange.requests] == ["1h"] * 3
        turn(service, "5m")
        assert not service._asking

    def test_but_not_for_longer_than_it_has_itself(
        self, make: Callable[..., MarketData], exchange: Exchange
    ) -> None:
        service = make(TIMEFRAMES="5m:1:20,1h:2:30")
        service._asking.add(service.settings.timeframes[0])
        started = time.monotonic()
        turn(service, "1h")
        assert 1.5 < time.monotonic() - started < 4
        assert set(service.health()[1]["timeframes"]["1h"]["failing"]) == {
            "BTCUSDT",
            "ETHUSDT",
            "SOLUSDT",
        }

    def test_it_does_not_wait_when_the_program_ends(
        self, make: Callable[..., MarketData], exchange: Exchange
    ) -> None:
        service = make()
        service._asking.add(service.settings.timeframes[0])
        service.stopping.set()
        started = time.monotonic()
        turn(service, "1h")
        assert time.monotonic() - started < 1


def test_what_waits_for_a_worker_does_not_go_out_during_a_hold(
    make: Callable[..., MarketData], exchange: Exchange
) -> None:
    service = make(SYMBOLS=",".join(market.symbols(12)), MAX_WORKERS="2")
    exchange.fault("hold", seconds=60)
    turn(service)
    assert 1 <= len(exchange.requests) <= 2
    assert len(service.health()[1]["timeframes"]["5m"]["failing"]) == 12
    exchange.clear()
    assert service._idle_workers.acquire(timeout=1) and service._idle_workers.acquire(timeout=1)
    assert not service._idle_workers.acquire(timeout=0)  # each was given back once


def test_what_comes_too_late_to_be_sent_is_not_charged(
    make: Callable[..., MarketData], exchange: Exchange
) -> None:
    service = make()
    results, jobs = service._ask(service.settings.timeframes[0], time.monotonic() - 0.001)
    assert len(results) == 6 and not jobs and service._limiter.state()[0] == 0


def test_a_refresh_that_waits_for_a_worker_ends_with_the_program(
    make: Callable[..., MarketData], exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(MAX_WORKERS="1")
    service._idle_workers.acquire()
    refresh = threading.Thread(target=service._loops[0].run)
    refresh.start()
    service.stop(until=0.0)
    service._idle_workers.release()
    refresh.join(5)
    assert not refresh.is_alive() and not exchange.requests
    assert "event=bug" not in caplog.text


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
            # The last may have moved since; all others are the exchange's own.
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
        assert list(body) == ["timeframe", "symbols", "failed", "timestamp", "duration_ms"]
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
        assert len(asked) == 3 and set(asked) <= {3, 4}  # 4 if a candle began just now
        assert [r.weight for r in later if r.path.endswith("24hr")] == [1]

    def test_a_series_is_read_whole_once_an_hour(
        self, make: Callable[..., MarketData], exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(market_data, "HOURLY_S", 0.0)
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
        exchange.fault("gap", start=start + 300, end=start + 600)
        asked = []
        for _ in range(3):
            before = len(exchange.requests)
            turn(service)
            asked.append([r.limit for r in exchange.requests[before:] if "klines" in r.path])
        assert asked[0] == [3, 50] and asked[1:] == [[3], [3]]
        assert len(candles(fake, "BTCUSDT")) == 50

    def test_revisions_of_the_last_candles_are_taken_over(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        service = make(SYMBOLS="BTCUSDT")
        turn(service)
        before = candles(fake, "BTCUSDT")
        exchange.fault("revised")
        turn(service)
        revised = candles(fake, "BTCUSDT")
        assert revised[-2] != before[-2]
        exchange.clear()
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
        caplog.set_level(logging.INFO, "market_data")
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
        klines = service._binance.klines

        def broken(symbol: str, *rest: Any) -> Candles:
            return [][1] if symbol == "ETHUSDT" else klines(symbol, *rest)

        monkeypatch.setattr(service._binance, "klines", broken)
        turn(service)
        assert candles(fake, "BTCUSDT") and not candles(fake, "ETHUSDT")
        assert "IndexError" in service.health()[1]["timeframes"]["5m"]["failing"]["ETHUSDT"]
        assert any("event=bug" in m and "where=test_market_data" in m for m in caplog.messages)

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
        exchange.halt("SOLUSDT")
        exchange.resume("ETHUSDT")
        service._listing_due_at = 0.0
        turn(service)
        assert list(service.health()[1]["problems"]) == ["SOLUSDT"]


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"status": 500}, "HTTP 500"),
    ("status", {"status": 451}, "HTTP 451"),
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
        caplog.set_level(logging.INFO, "market_data")
        service = make()
        turn(service)
        before = fake.get("market:ohlcv:ETHUSDT:5m")
        expires = fake.pexpiretime("market:ohlcv:ETHUSDT:5m")
        others_expire = fake.pexpiretime("market:ohlcv:BTCUSDT:5m")
        exchange.fault(kind, symbol="ETHUSDT", path="klines", **detail)
        caplog.clear()
        turn(service)
        turn(service)
        assert fake.get("market:ohlcv:ETHUSDT:5m") == before
        assert fake.pexpiretime("market:ohlcv:ETHUSDT:5m") == expires  # not re-stamped
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
        """Which may be of 5 MB, for each series and price."""
        service = make()
        turn(service)
        exchange.fault("huge", megabytes=6)
        tracemalloc.start()
        try:
            turn(service)
            held_bytes, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(service._failing) == 6
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
        self, make: Callable[..., MarketData], exchange: Exchange, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = make()
        turn(service)
        turn(service, "1h")
        exchange.stop()
        for _ in range(3):
            started = time.monotonic()
            turn(service)
            assert time.monotonic() - started < 5
        said = [message for message in caplog.messages if "fetch_failing" in message]
        assert len(said) == 2  # candles, prices: all symbols in one line each
        assert "symbols=BTCUSDT,ETHUSDT,SOLUSDT" in said[0] and "refused" in said[0]

    def test_the_forming_candle_of_a_lagging_answer_does_not_replace_a_newer_one(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        """Such an answer does not join; a whole read that lags as well is refused."""
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
        assert failing == {"BTCUSDT": "the answer is older than what is held"}
        exchange.clear()
        turn(service)
        assert service.health()[1]["timeframes"]["5m"]["failing"] == {}


class BrokenRedis:
    """Stands before a client, whose scripts and pipelines fail with `error` if there is one."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
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
        caplog.set_level(logging.INFO, "market_data")
        broken = BrokenRedis(fake)
        service = make(broken)
        heard = fake.pubsub(ignore_subscribe_messages=True)
        heard.psubscribe("market:update:*")
        heard.get_message(timeout=1)
        broken.error = redis.ConnectionError("gone")
        for _ in range(2):
            turn(service)
            turn(service, "1h")
            service.keep()
        assert service.health()[0] == 503 and not data_keys(fake)
        broken.error = None
        service.keep()
        assert service.health()[0] == 200
        channels = [heard.get_message(timeout=1)["channel"] for _ in range(3)]
        assert sorted(channels) == ["market:update:1h", "market:update:5m", "market:update:all"]
        assert heard.get_message(timeout=0.1) is None
        assert len(data_keys(fake)) == 9
        lines = [message for message in caplog.messages if "what=redis" in message]
        assert lines == ["event=problem what=redis reason=gone", "event=problem_over what=redis"]

    def test_all_is_told_of_when_all_of_it_is_there(
        self, make: Callable[..., MarketData], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Two refreshes were stored before one commits, and the second transaction fails."""
        service = make()
        turn(service)
        turn(service, "1h")
        with patch.object(service, "commit"):
            turn(service, "1h")
            turn(service)
        send, refuses = service._logged.send, True
        told: list[list[str]] = []

        def sending(batch: Batch, **more: Any) -> None:
            told.append([channel for name, channel, *_ in batch.commands if name == "PUBLISH"])
            if refuses and "market:update:1h" in told[-1]:
                raise redis.TimeoutError("hangs")
            send(batch, **more)

        with patch.object(service._logged, "send", sending):
            for _ in range(3):
                assert not service.commit()
            refuses = False
            assert service.commit()
        every = ["market:update:1h", "market:update:all"]
        assert told == [["market:update:5m"], every, [], every, [], every, [], every]
        lines = [message for message in caplog.messages if "what=redis" in message]
        assert lines == ["event=problem what=redis reason=hangs"]
        assert service.health()[1]["problems"] == {}

    def test_memory_that_is_cleared_while_redis_answers_keeps_nothing_back(
        self, make: Callable[..., MarketData], fake: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The machine slept after EXEC; the thread that looks at the lease wakes up first."""
        service = make()
        turn(service)
        send = service._logged.send

        def sleeping(*arguments: Any, **more: Any) -> None:
            send(*arguments, **more)
            service._claim_tried_at -= 60
            service.claim()

        with patch.object(service._logged, "send", sleeping):
            turn(service, "1h")
        assert not service._held
        for name in ("1h", "5m"):
            turn(service, name)
            service.keep()
        assert len(data_keys(fake)) == 9 and service.health()[1]["status"] == "ok"
        assert not any("event=bug" in message for message in caplog.messages)

    def test_what_redis_lacks_is_not_compressed_in_vain(
        self, make: Callable[..., MarketData], fake: Any
    ) -> None:
        broken = BrokenRedis(fake)
        service = make(broken)
        broken.error = redis.ConnectionError("gone")
        turn(service)
        with patch.object(Series, "packed") as packed:
            service.keep()
            assert not packed.called
        broken.error = None
        service.keep()
        series = [held for held in service._held.values() if isinstance(held, Series)]
        assert len(series) == 3 and all(len(each.recent.times) == RECENT for each in series)

    def test_what_is_refused_is_sent_ever_more_rarely_but_with_each_refresh(
        self, make: Callable[..., MarketData], fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And once it is taken, again at once. The lease is renewed each second all the while."""
        service = make()
        turn(service)
        turn(service, "1h")
        began = now = market_data.boot_s()
        ahead_s = time.time() - now
        monkeypatch.setattr(market_data, "boot_s", lambda: now)
        monkeypatch.setattr(time, "time", lambda: now + ahead_s)
        sent: list[float] = []
        send, refuses = service._logged.send, True

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
                fake.delete(market_data.LEADER_KEY)
                service.keep()
                assert fake.exists(market_data.LEADER_KEY)
            return list(sent)

        monkeypatch.setattr(service._logged, "send", sending)
        turn(service)
        assert seconds(12) == [1, 3, 7, 11]
        turn(service)
        assert sent == [1, 3, 7, 11, 12]
        refuses = False
        assert seconds(4) == [15, 15] and service.health()[1]["problems"] == {}
        assert seconds(1) == []
        refuses = True
        turn(service)
        assert seconds(3) == [18, 20]

    def test_keys_that_vanish_come_back_with_the_ttl_they_have_left(
        self, make: Callable[..., MarketData], fake: Any
    ) -> None:
        service = make()
        turn(service)
        expires = {key: fake.pexpiretime(key) for key in data_keys(fake)}
        fake.flushall()
        time.sleep(1.2)  # real time passes: the keys may not gain it
        service.keep()
        assert (
            data_keys(fake)
            and {key: pytest.approx(fake.pexpiretime(key), abs=50) for key in expires} == expires
        )

    def test_data_ages_while_the_machine_is_suspended(
        self, make: Callable[..., MarketData], fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the clock that goes on then; Redis, whose keys expire by the wall clock, is empty."""
        service = make()
        turn(service)
        turn(service, "1h")
        fake.flushall()
        monkeypatch.setattr(
            market_data, "boot_s", lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + 3600
        )
        service.keep()
        assert not data_keys(fake)
        assert service.health()[1]["status"] == "down"

    @pytest.mark.parametrize("step_s", [-3600.0, -0.3, 0.3, 3600.0])
    def test_a_wall_clock_that_steps_lengthens_no_life_and_shortens_none(
        self,
        make: Callable[..., MarketData],
        fake: Any,
        step_s: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Redis expires by the wall clock, too, so what it was told before is wrong by the step."""
        service = make()
        turn(service)
        turn(service, "1h")
        service.keep()
        wrote = len(read_log(fake))
        service.keep()
        assert len(read_log(fake)) == wrote  # without a step there is nothing to do
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + step_s)
        service.keep()
        for key, held in service._held.items():
            left_s = held.expires_at - market_data.boot_s()
            assert fake.pexpiretime(key) / 1000 - time.time() == pytest.approx(left_s, abs=0.1)

    def test_a_stop_in_the_middle_of_a_commit_lengthens_no_life(
        self, make: Callable[..., MarketData], fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As by SIGSTOP, for less than the lease's time."""
        service = make()
        summary_of = Series.summary

        def stopped_here(held: Series) -> str:
            time.sleep(0.3)
            return summary_of(held)

        monkeypatch.setattr(Series, "summary", stopped_here)
        turn(service)
        for symbol in service.settings.symbols:
            key = f"market:ohlcv:{symbol}:5m"
            left_s = service._held[key].expires_at - market_data.boot_s()
            assert fake.pttl(key) / 1000 == pytest.approx(left_s, abs=0.05)

    def test_a_publish_names_only_what_can_be_read(
        self, make: Callable[..., MarketData], exchange: Exchange, fake: Any
    ) -> None:
        broken = BrokenRedis(fake)
        service = make(broken, TIMEFRAMES="5m:1:2,1h:7:30")
        heard = fake.pubsub(ignore_subscribe_messages=True)
        heard.subscribe("market:update:5m")
        heard.get_message(timeout=1)
        broken.error = redis.ConnectionError("gone")
        turn(service)
        exchange.fault("html", symbol="ETHUSDT", path="klines")
        time.sleep(2.1)
        turn(service)
        broken.error = None
        service.keep()
        update = json.loads(heard.get_message(timeout=1)["data"])
        assert (update["symbols"], update["failed"]) == (["BTCUSDT", "SOLUSDT"], ["ETHUSDT"])

    def test_what_is_too_old_is_not_written(
        self, make: Callable[..., MarketData], fake: Any
    ) -> None:
        broken = BrokenRedis(fake)
        service = make(broken, TIMEFRAMES="5m:1:2,1h:7:30")
        broken.error = redis.ConnectionError("gone")
        turn(service)
        time.sleep(2.1)
        broken.error = None
        service.keep()
        assert not fake.keys("market:ohlcv:*") and len(fake.keys("market:price:*")) == 3


class TestKeep:
    def test_a_loop_that_does_not_turn_is_a_problem(
        self, make: Callable[..., MarketData], caplog: pytest.LogCaptureFixture
    ) -> None:
        service = make()
        service.keep()
        assert service.health()[1]["problems"] == {}
        service._loops[1].silent_until = time.monotonic() - 1
        service.keep()
        assert service.health()[1]["problems"] == {"loops": "hanging: refresh-1h"}
        assert 'event=problem what=loops reason="hanging: refresh-1h"' in caplog.messages

    def test_a_message_log_that_cannot_be_written_is_a_problem(
        self, make: Callable[..., MarketData], fake: Any
    ) -> None:
        fake.set("redis:message_log", "no stream")
        service = make()
        turn(service)
        turn(service, "1h")
        service.keep()
        code, body = service.health()
        assert (code, body["status"]) == (200, "degraded") and "WRONGTYPE" in str(body["problems"])
        assert len(data_keys(fake)) == 9
        fake.delete("redis:message_log")
        turn(service)
        service.keep()
        assert service.health()[1]["status"] == "ok"


class TestHealth:
    def test_starting_ok_degraded_down(
        self, make: Callable[..., MarketData], exchange: Exchange
    ) -> None:
        service = make(TIMEFRAMES="5m:1:2,1h:7:30")
        assert service.health()[0] == 503 and service.health()[1]["status"] == "starting"
        turn(service)
        assert service.health()[1]["status"] == "starting"
        turn(service, "1h")
        assert service.health()[0] == 200 and service.health()[1]["status"] == "ok"
        exchange.fault("status", status=500, symbol="ETHUSDT", path="klines")
        turn(service)
        code, body = service.health()
        assert (code, body["status"]) == (200, "degraded")
        time.sleep(2.1)
        code, body = service.health()
        assert (code, body["status"]) == (503, "down")
        assert body["timeframes"]["5m"]["fresh"] == 0 and body["timeframes"]["1h"]["fresh"] == 3
        assert body["timeframes"]["5m"]["age_s"] > 2
