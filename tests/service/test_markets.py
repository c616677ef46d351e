"""What the exchange tells of its markets, on single refreshes: halted, idle, frozen, lying ones."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from binance_answers import TIMEFRAME_MS
from demo.exchange import Exchange
from local_api import LocalApi
from market_data import MarketData
from tests.service.test_refresh import candles, turn
from tests.support import Service, free_port

Make = Callable[..., MarketData]
STEP_MS = TIMEFRAME_MS["5m"]


def truth(exchange: Exchange, symbol: str, count: int) -> list[list[float]]:
    """The closed candles as Redis should have them."""
    rows = exchange.klines(symbol, "5m", count)[:-1]
    return [[row[0], *map(float, row[1:6])] for row in rows]


def written(fake: Any, symbol: str = "BTCUSDT") -> list[list[float]]:
    return [list(candle.values()) for candle in candles(fake, symbol)[:-1]]


def five(service: MarketData) -> dict[str, Any]:
    part: dict[str, Any] = service.health()[1]["timeframes"]["5m"]
    return part


def service_api(service: MarketData, path: str, query: str) -> tuple[int, bytes]:
    api = LocalApi(service.settings, service.store, service.other_leader)
    return api.answer(f"/api/v3/{path}", query)


class TestAge:
    def test_a_frozen_exchange_is_not_shown_as_fresh(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        service = make()
        exchange.fault("frozen", at=time.time() - 3 * 3600)
        turn(service)
        service.maintain()
        assert not fake.keys("market:ohlcv:*") and not fake.keys("market:price:*")
        health = service.health()[1]
        part = five(service)
        assert set(part["standing_still"]) == set(service.settings.symbols)
        assert all(reason.endswith("3 h ago") for reason in part["failing"].values())
        assert part["lag_candles"] == 36 and part["fresh"] == 0
        assert health["prices"]["newest_ticker_age_s"] >= 10_800
        assert "5m of 3 of 3 symbols: the newest candle" in health["problems"]["standstill"]
        body = json.loads(service_api(service, "klines", "symbol=BTCUSDT&interval=5m")[1])
        assert "the newest candle is of" in body["msg"]
        exchange.clear()
        turn(service)
        service.maintain()
        assert five(service)["fresh"] == 3 and not service.health()[1]["problems"]

    def test_one_market_that_stands_still_alarms_nobody_else(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        service = make()
        exchange.fault("frozen", symbol="ETHUSDT", at=time.time() - 900)
        turn(service)
        service.maintain()
        health = service.health()[1]
        assert list(five(service)["failing"]) == list(health["prices"]["failing"]) == ["ETHUSDT"]
        assert "standstill" not in health["problems"]
        assert five(service)["lag_candles"] == 0 and health["prices"]["newest_ticker_age_s"] < 60
        assert sorted(fake.keys("market:*USDT")) == ["market:price:BTCUSDT", "market:price:SOLUSDT"]

    def test_a_key_expires_when_its_newest_candle_is_two_lengths_old(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        service = make(TIMEFRAMES="1m:30:600,5m:30:600")
        turn(service, "1m")
        [*_, newest] = candles(fake, "BTCUSDT", "1m")
        expires_ms = fake.pexpiretime("market:ohlcv:BTCUSDT:1m")
        assert expires_ms == pytest.approx(newest["timestamp"] + 2 * 60_000, abs=50)


class TestSeen:
    def test_after_a_start_what_redis_holds_counts_as_seen(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        first = make()
        turn(first)
        before = {key: fake.get(key) for key in fake.keys("market:*USDT*")}
        first.stop(until=time.monotonic() + 5)
        exchange.fault("lagging", seconds=400)
        second = make()
        turn(second)
        assert before and {key: fake.get(key) for key in before} == before
        reasons = {*five(second)["failing"].values()}
        assert reasons == {"the answer is older than one before it"}

    def test_what_redis_turns_out_to_hold_only_later_counts_too(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        """As after a start while Redis does not answer."""
        first = make()
        turn(first)
        before = fake.get("market:ohlcv:BTCUSDT:5m")
        first.stop(until=time.monotonic() + 5)
        exchange.fault("lagging", seconds=400)
        second = make()
        results = second.fetcher.read(second.settings.timeframes[0])
        second.store.take(second.settings.timeframes[0], results, time.monotonic())
        second.claim()
        second.writer.commit()
        assert fake.get("market:ohlcv:BTCUSDT:5m") == before and five(second)["fresh"] == 0

    def test_a_key_that_somebody_spoilt_is_no_obstacle(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        fake.set("market:price:BTCUSDT", '{"price":1,"timestamp":99999999999999}')
        fake.set("market:price:ETHUSDT", "no JSON")
        fake.lpush("market:price:SOLUSDT", "a list")
        service = make()
        turn(service)
        assert service.health()[1]["prices"]["fresh"] == 3


class TestMarkets:
    def test_a_halted_one_is_expected_of_nobody(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        service = make()
        exchange.fault("frozen", symbol="ETHUSDT", at=time.time() - 3600)
        exchange.halt("ETHUSDT")
        turn(service)
        service.maintain()
        health = service.health()[1]
        assert health["halted"] == {"ETHUSDT": "BREAK"}
        assert health["problems"] == {"ETHUSDT": "is not traded but BREAK"}
        part = five(service)
        assert (part["fresh"], part["expected"], part["standing_still"]) == (2, 2, [])
        assert not fake.exists("market:ohlcv:ETHUSDT:5m")

    def test_one_that_stops_lets_the_listing_be_read_again(
        self, make: Make, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("market_data.LISTING_RETRY_S", 0.0)
        service = make()
        exchange.fault("frozen", symbol="ETHUSDT", at=time.time() - 3600)
        turn(service)
        assert not service.health()[1]["halted"]
        exchange.halt("ETHUSDT")
        turn(service)
        assert service.health()[1]["halted"] == {"ETHUSDT": "BREAK"}

    def test_once_names_each_problem_with_its_symbol(
        self, start_service: Callable[..., Service], exchange: Exchange
    ) -> None:
        exchange.halt("ETHUSDT")
        exchange.halt("ADAUSDT")
        exchange.idle("XRPUSDT")
        once = start_service("--once")
        assert once.process.wait(60) == 0
        said = "ETHUSDT: is not traded but BREAK; ADAUSDT: is not traded but BREAK"
        assert once.lines("in Redis after")[0].endswith(said)
        assert once.lines("price ")[0].split() == ["price", "26", "of", "26"]

    def test_once_says_once_what_all_fail_by(self, start_service: Callable[..., Service]) -> None:
        once = start_service("--once", BINANCE_BASE_URL=f"http://127.0.0.1:{free_port()}")
        assert once.process.wait(60) == 1
        for line in once.lines("0 of 29"):
            assert line.endswith("  29 symbols: connection failed: Connection refused")
        assert len(once.lines("0 of 29")) == 4

    def test_an_idle_one_has_candles_and_no_price_and_nothing_is_wrong(
        self, make: Make, exchange: Exchange, fake: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "coinex")
        exchange.idle("ETHUSDT")
        service = make()
        turn(service)
        turn(service, "1h")
        service.maintain()
        status, health = service.health()
        assert (status, health["status"], health["idle"]) == (200, "ok", ["ETHUSDT"])
        assert (health["prices"]["fresh"], health["prices"]["expected"]) == (2, 2)
        assert not fake.exists("market:price:ETHUSDT") and written(fake, "ETHUSDT")[-1][5] == 0
        assert "fetch_failing" not in caplog.text
        body = json.loads(service_api(service, "ticker/price", "symbol=ETHUSDT")[1])
        assert body["msg"].endswith("no trade in 24 h")


class TestLies:
    @pytest.fixture(params=["hole", "mixed_up"])
    def lie(
        self, request: pytest.FixtureRequest, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], object]:
        """Begin to lie, deep enough that three candles do not show it; all reads are whole."""
        monkeypatch.setattr("fetcher.WHOLE_EVERY_S", 0.0)
        detail = {"back": 5} if request.param == "hole" else {}
        return lambda: exchange.fault(request.param, symbol="BTCUSDT", **detail)

    def test_one_refresh_of_lies_changes_nothing(
        self, make: Make, exchange: Exchange, fake: Any, lie: Callable[[], object]
    ) -> None:
        service = make()
        turn(service)
        right = written(fake)
        lie()
        turn(service)
        assert written(fake) == right and "the answer " in five(service)["failing"]["BTCUSDT"]
        exchange.clear()
        turn(service)
        assert written(fake) == truth(exchange, "BTCUSDT", 50) and not five(service)["failing"]

    def test_the_truth_is_back_two_refreshes_after_the_exchange_tells_it(
        self,
        make: Make,
        exchange: Exchange,
        fake: Any,
        lie: Callable[[], object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        service = make()
        turn(service)
        lie()
        turn(service)
        turn(service)
        assert written(fake) != truth(exchange, "BTCUSDT", 50)  # two agree
        assert len([m for m in caplog.messages if "event=candles_replaced" in m]) == 1
        exchange.clear()
        turn(service)
        turn(service)
        assert written(fake) == truth(exchange, "BTCUSDT", 50) and not five(service)["failing"]

    def test_three_candles_that_contradict_are_followed_by_a_whole_read_at_once(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        service = make()
        turn(service)
        right = written(fake)
        before = len(exchange.requests)
        exchange.fault("mixed_up", symbol="BTCUSDT", times=1)
        turn(service)
        asked = [r.limit for r in exchange.requests[before:] if r.symbols == ("BTCUSDT",)]
        assert asked[1:] == [50] and written(fake)[-40:] == right[-40:]
        assert not five(service)["failing"]

    def test_a_candle_that_is_bad_for_good_is_left_out_and_said_once(
        self, make: Make, exchange: Exchange, fake: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad_ms = (int(time.time() * 1000) // STEP_MS - 300) * STEP_MS
        exchange.fault("bad_row", symbol="BTCUSDT", interval="5m", open_ms=bad_ms)
        service = make(CANDLE_LIMIT="500")
        turn(service)
        service.store.resend()
        turn(service)
        expected = [row for row in truth(exchange, "BTCUSDT", 500) if row[0] != bad_ms]
        assert written(fake)[-200:] == expected[-200:] and len(written(fake)) == len(expected)
        said = [m for m in caplog.messages if "event=candle_left_out" in m]
        assert len(said) == 1 and "what=5m symbols=BTCUSDT" in said[0]
        query = "symbol=BTCUSDT&interval=5m&limit=501"  # older ones than are held
        assert "Held here are 499" in json.loads(service_api(service, "klines", query)[1])["msg"]
        [[reason]] = five(service)["left_out"].values()
        assert "not the open time of a 5m candle" in reason and five(service)["fresh"] == 3


class TestHolds:
    def test_a_hold_outlives_a_restart(self, make: Make, exchange: Exchange, fake: Any) -> None:
        exchange.fault("ban", seconds=100)
        first = make()
        first.claim()
        turn(first)
        first.maintain()
        hold = json.loads(fake.get("market:hold"))
        assert hold["status"] == 418 and 90_000 < fake.pttl("market:hold") <= 100_000
        first.stop(until=time.monotonic() + 5)
        asked = len(exchange.requests)
        second = make()
        second.claim()
        turn(second)
        second.maintain()
        assert len(exchange.requests) == asked
        assert second.health()[1]["problems"]["exchange"].endswith("s after HTTP 418")

    def test_a_hold_that_is_told_just_before_the_end_outlives_it(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        exchange.fault("ban", seconds=100)
        service = make()
        turn(service)
        service.stop(until=time.monotonic() + 5)
        assert 90_000 < fake.pttl("market:hold") <= 100_000

    @pytest.mark.parametrize("value", ["", "no JSON", "[]", '{"until": 1, "status": 418}', "{}"])
    def test_a_hold_that_is_none_is_ignored(
        self, make: Make, exchange: Exchange, fake: Any, value: str
    ) -> None:
        fake.set("market:hold", value)
        service = make()
        service.claim()
        turn(service)
        assert five(service)["fresh"] == 3

    def test_what_refuses_says_so_in_its_own_words(
        self, make: Make, exchange: Exchange, fake: Any
    ) -> None:
        exchange.fault("blocked")
        service = make()
        turn(service)
        service.maintain()
        reason = service.health()[1]["problems"]["exchange"]
        assert "after HTTP 403: " in reason and "country" in reason and "<" not in reason

    def test_limits_are_those_of_the_exchange(self, make: Make, exchange: Exchange) -> None:
        """2,500 of the 6,000 are used by another program: nothing to wait for."""
        exchange.fault("used_weight", weight=2500)
        service = make()
        turn(service)
        assert five(service)["fresh"] == 3
        limits = service.health()[1]["exchange"]
        assert limits["address_weight_limit"] == 6000 and limits["used_weight"] > 2500
