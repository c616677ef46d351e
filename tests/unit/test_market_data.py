"""Settings, joining, the loop under a moved clock, and single refreshes with no loop at all."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from market_data import (
    WAKE_S,
    RefreshLoop,
    Settings,
    SettingsError,
    Timeframe,
    Update,
    join,
)
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
        loop.cancel()
        loop.join(60)
        assert not loop.is_alive()
