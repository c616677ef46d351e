"""The limiter under a fake clock, the client against canned answers, the parsers on bad rows."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import responses

from binance_answers import (
    LIMITS,
    UNKNOWN_SYMBOL,
    BadResponse,
    Limit,
    Limits,
    RateLimited,
    Rejected,
    Retryable,
    Stopped,
    Ticker,
    parse_listing,
)
from binance_client import BinanceClient
from rate_limiter import RateLimiter
from tests.candles import NOW_MS as NOW
from tests.candles import STEP_MS as STEP
from tests.candles import row, rows_of, ticker
from tests.support import Clock, until

BASE = "https://api.binance.us"
KLINES, TICKERS = f"{BASE}/api/v3/klines", f"{BASE}/api/v3/ticker/24hr"


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(100, clock=clock, wait=clock.wait)


@pytest.fixture
def client(limiter: RateLimiter) -> BinanceClient:
    return BinanceClient(BASE, limiter, wait=lambda _: False, wall_clock=lambda: NOW / 1000)


class TestRateLimiter:
    def test_spends_the_budget_at_once_then_waits_for_what_is_oldest(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.acquire(60)
        clock.now += 10
        limiter.acquire(40)
        assert clock.waits == []
        limiter.acquire(50)  # needs the 60 back, which are released 60 s after they were spent
        assert clock.waits == [50.0]
        limiter.acquire(50)
        assert clock.waits == [50.0, 10.0]

    def test_never_more_than_the_limit_in_any_rolling_window(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        spent: list[tuple[float, int]] = []
        for turn in range(300):
            weight = turn * 7 % 20 + 1
            limiter.acquire(weight)
            spent.append((clock.now, weight))
            clock.now += turn % 3
        for start, _ in spent:
            assert sum(w for at, w in spent if start <= at < start + 60) <= 100

    def test_counts_requests_too(self, clock: Clock) -> None:
        limiter = RateLimiter(clock=clock, wait=clock.wait)
        limiter.set_limits(Limits(Limit(1200, 60), Limit(5000, 300)))
        for _ in range(5001):
            limiter.acquire(0)
        assert clock.waits == [300.0]

    def test_windows_are_longer_by_the_travel_time(self, clock: Clock) -> None:
        limiter = RateLimiter(1, travel_s=5, clock=clock, wait=clock.wait)
        limiter.acquire(1)
        limiter.acquire(1)
        assert clock.waits == [65.0]

    def test_holds_everyone_until_the_end_and_the_longest_hold_counts(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.hold(7, 429)
        limiter.hold(3, 418)
        assert limiter.state() == (0, 7.0, 429, LIMITS)
        limiter.acquire(1)
        assert clock.waits == [7.0]
        assert limiter.state() == (1, 0.0, 429, LIMITS)

    def test_gives_up_at_once_what_would_be_too_late(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.hold(7, 418)
        with pytest.raises(RateLimited, match="on hold after HTTP 418") as held:
            limiter.acquire(1, give_up_at=clock.now + 6)
        assert held.value.retry_in_s == 7
        clock.now += 7
        limiter.answered(limiter.acquire(100))
        with pytest.raises(RateLimited, match="budget"):
            limiter.acquire(1, give_up_at=clock.now + 59)
        assert clock.waits == []

    def test_follows_the_weight_that_another_program_uses(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.set_limits(Limits(Limit(1200, 60), Limit(5000, 300)))
        limiter.acquire(10)
        limiter.observe(1190)  # 1180 of it is from other programs
        limiter.observe(50)  # less than already known: ignored
        assert limiter.state()[0] == 1190
        limiter.acquire(10)
        limiter.acquire(1)
        assert clock.waits == [60.0]

    def test_the_limits_of_the_address_are_what_the_exchange_says(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.observe(LIMITS.weight.units - 1)
        limiter.acquire(1)
        limiter.set_limits(Limits(Limit(7000, 90), Limit(5000, 300)))
        limiter.acquire(1)
        assert clock.waits == [] and limiter.state().limits.weight == (7000, 90)

    def test_after_a_hold_one_goes_first_and_the_others_once_it_is_answered(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.refused(limiter.acquire(1), 403, None)
        clock.now += 60
        first = limiter.acquire(1)
        for _ in range(3):
            with pytest.raises(RateLimited, match="on hold after HTTP 403"):
                limiter.acquire(1, give_up_at=clock.now)
        limiter.unanswered(first)  # so the next one may try
        second = limiter.acquire(1)
        with pytest.raises(RateLimited):
            limiter.acquire(1, give_up_at=clock.now)
        limiter.answered(second)
        limiter.acquire(1)
        assert clock.waits == []

    def test_a_hold_without_retry_after_doubles_until_something_is_answered(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        def refuse(retry_after_s: float | None = None) -> float:
            held_s = limiter.refused(limiter.acquire(1), 403, retry_after_s)
            clock.now += held_s
            return held_s

        holds = [refuse() for _ in range(8)]
        assert holds == [60, 120, 240, 480, 960, 1800, 1800, 1800]
        assert refuse(7) == 7
        limiter.answered(limiter.acquire(1))
        assert refuse() == 60

    def test_many_refused_at_once_are_one_refusal_and_what_went_before_it_is_no_answer(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        early, late, *eras = [limiter.acquire(1) for _ in range(10)]
        assert {limiter.refused(era, 429, None) for era in eras} == {60}
        limiter.answered(early)
        clock.now += 60
        first = limiter.acquire(1)
        with pytest.raises(RateLimited):
            limiter.acquire(1, give_up_at=clock.now)
        limiter.answered(first)
        assert limiter.refused(late, 429, None) == 60

    def test_what_others_use_is_not_taken_from_the_own_share(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.observe(500)  # much more than the 100 of this program
        limiter.acquire(100)
        assert clock.waits == []
        limiter.acquire(1)
        assert clock.waits == [60.0]

    def test_an_interrupted_wait_is_stopped_and_costs_nothing(self, clock: Clock) -> None:
        limiter = RateLimiter(10, clock=clock, wait=lambda _: True)
        limiter.acquire(10)
        with pytest.raises(Stopped):
            limiter.acquire(1)
        assert limiter.state()[0] == 10

    def test_a_weight_that_never_fits_is_a_mistake(self, limiter: RateLimiter) -> None:
        with pytest.raises(ValueError, match="never fits"):
            limiter.acquire(101)

    def test_threads_never_overspend_and_one_who_looks_does_not_wait(self) -> None:
        stop = threading.Event()
        limiter = RateLimiter(50, wait=stop.wait)
        passed = []

        def worker() -> None:
            try:
                while True:
                    limiter.acquire(1)
                    passed.append(1)
            except Stopped:
                pass

        threads = [threading.Thread(target=worker) for _ in range(16)]
        for thread in threads:
            thread.start()
        until(lambda: len(passed) == 50, 5)
        looker = threading.Thread(target=limiter.state)  # while all others wait for a minute
        looker.start()
        looker.join(20)
        assert not looker.is_alive()
        stop.set()
        for thread in threads:
            thread.join(20)
        assert len(passed) == 50 and not any(thread.is_alive() for thread in threads)


class TestClient:
    @responses.activate
    def test_klines(self, client: BinanceClient, limiter: RateLimiter) -> None:
        answer = responses.get(
            KLINES, json=[row(NOW - STEP), row()], headers={"X-MBX-USED-WEIGHT-1M": "17"}
        )
        candles = client.klines("BTCUSDT", "5m", 2)
        assert rows_of(candles) == [row(NOW - STEP), row()]
        assert answer.calls[0].request.params == {
            "symbol": "BTCUSDT",
            "interval": "5m",
            "limit": "2",
        }
        assert limiter.state()[0] == 17

    @responses.activate
    def test_tickers_of_twenty_in_one_call(self, client: BinanceClient) -> None:
        answer = responses.get(TICKERS, json=[ticker("ETHUSDT"), ticker()])
        found = client.tickers(["BTCUSDT", "ETHUSDT", "SOLUSDT"])
        assert found["BTCUSDT"] == Ticker(2.5, -1.25, 9.0, NOW, found["BTCUSDT"].row)
        assert json.loads(found["BTCUSDT"].row) == ticker()
        assert isinstance(found["SOLUSDT"], BadResponse)
        assert answer.calls[0].request.params == {"symbols": '["BTCUSDT","ETHUSDT","SOLUSDT"]'}
        with pytest.raises(ValueError, match="21 symbols"):
            client.tickers(["X"] * 21)

    @responses.activate
    def test_exchange_info_asks_for_all_if_one_is_unknown(self, client: BinanceClient) -> None:
        listed = {
            "timezone": "UTC",
            "symbols": [
                {"symbol": "BTCUSDT", "status": "TRADING"},
                {"symbol": "OPUSDT", "status": "BREAK"},
            ],
        }
        url = f"{BASE}/api/v3/exchangeInfo"
        responses.get(url, status=400, json={"code": UNKNOWN_SYMBOL, "msg": "Invalid symbol."})
        responses.get(url, json=listed)
        found = client.exchange_info(["BTCUSDT", "OPUSDT", "NOUSDT"])
        assert found.statuses == {"BTCUSDT": "TRADING", "OPUSDT": "BREAK"}
        assert [json.loads(row) for row in found.rows.values()] == listed["symbols"]
        assert found.rules == {"timezone": "UTC"}

    @pytest.mark.parametrize(
        "info",
        [
            None,
            [],
            {},
            {"symbols": {}},
            {"symbols": ""},
            {"symbols": [7]},
            {"symbols": [{}]},
            {"symbols": [{"symbol": "BTCUSDT", "status": None}]},
            {"symbols": [{"symbol": ["BTCUSDT"], "status": "TRADING"}]},
        ],
    )
    def test_a_listing_of_another_shape_is_refused(self, info: Any) -> None:
        with pytest.raises(BadResponse, match="exchangeInfo"):
            parse_listing(info, ["BTCUSDT"])

    @responses.activate
    def test_server_time(self, client: BinanceClient) -> None:
        responses.get(f"{BASE}/api/v3/time", json={"serverTime": NOW})
        assert client.server_time() == NOW
        responses.replace(responses.GET, f"{BASE}/api/v3/time", json={"serverTime": "soon"})
        with pytest.raises(BadResponse):
            client.server_time()

    @responses.activate
    def test_a_rejection_names_code_and_message_and_is_not_tried_again(
        self, client: BinanceClient
    ) -> None:
        answer = responses.get(KLINES, status=400, json={"code": -1121, "msg": "Invalid symbol."})
        with pytest.raises(Rejected) as rejected:
            client.klines("NOUSDT", "5m", 3)
        assert str(rejected.value) == "HTTP 400: Invalid symbol. (code -1121)"
        assert (rejected.value.status, rejected.value.code) == (400, UNKNOWN_SYMBOL)
        assert answer.call_count == 1

    @responses.activate
    @pytest.mark.parametrize("status", [301, 302, 400, 404])
    def test_statuses_that_are_not_tried_again(self, client: BinanceClient, status: int) -> None:
        answer = responses.get(
            KLINES, status=status, body="<html>", headers={"Location": "http://x"}
        )
        with pytest.raises(Rejected, match=f"HTTP {status}"):
            client.klines("BTCUSDT", "5m", 3)
        assert answer.call_count == 1

    @responses.activate
    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_what_can_pass_is_tried_three_times(self, client: BinanceClient, status: int) -> None:
        answer = responses.get(KLINES, status=status)
        with pytest.raises(Retryable, match=f"HTTP {status}"):
            client.klines("BTCUSDT", "5m", 3)
        assert answer.call_count == 3

    @responses.activate
    def test_a_try_that_would_begin_too_late_is_not_made(self) -> None:
        answer = responses.get(KLINES, status=500)
        sooner_than_a_pause = time.monotonic() + 0.2
        with pytest.raises(Retryable):
            BinanceClient(BASE, RateLimiter()).klines("BTCUSDT", "5m", 3, sooner_than_a_pause)
        assert answer.call_count == 1

    @responses.activate
    def test_recovers_within_the_call(self, client: BinanceClient) -> None:
        responses.get(KLINES, status=503)
        responses.get(KLINES, json=[row()])
        assert rows_of(client.klines("BTCUSDT", "5m", 3)) == [row()]

    @responses.activate
    @pytest.mark.parametrize(
        ("status", "retry_after", "held_s"),
        [
            (429, "7", 7),
            (418, "300", 300),
            (429, None, 60),
            (418, None, 120),
            (403, None, 60),
            (451, None, 60),
            (429, "soon", 60),
            (429, "-5", 60),
            (429, "0", 1),
            (418, "604800", 604_800),
        ],
    )
    def test_a_limit_holds_all_for_as_long_as_it_says(
        self, client: BinanceClient, clock: Clock, status: int, retry_after: str | None, held_s: int
    ) -> None:
        headers = {"Retry-After": retry_after} if retry_after else {}
        responses.get(KLINES, status=status, headers=headers)
        responses.get(KLINES, json=[row()])
        assert rows_of(client.klines("BTCUSDT", "5m", 3)) == [row()]
        assert clock.waits == [held_s]

    @responses.activate
    def test_a_hold_that_outlasts_the_refresh_is_an_error_at_once(self) -> None:
        client, give_up_at = BinanceClient(BASE, RateLimiter()), time.monotonic() + 24
        answer = responses.get(KLINES, status=418, headers={"Retry-After": "600"})
        with pytest.raises(RateLimited) as held:
            client.klines("BTCUSDT", "5m", 3, give_up_at)
        assert held.value.status == 418
        with pytest.raises(RateLimited):
            client.tickers(["BTCUSDT"], give_up_at)
        assert answer.call_count == 1 and time.monotonic() < give_up_at - 23

    @responses.activate
    @pytest.mark.parametrize("body", ["<html>busy</html>", '[[1,"2', "", "\xff", "[" * 100_000])
    def test_what_is_not_json_is_a_bad_response(self, client: BinanceClient, body: str) -> None:
        answer = responses.get(KLINES, body=body.encode("latin-1"))
        with pytest.raises(BadResponse):
            client.klines("BTCUSDT", "5m", 3)
        assert answer.call_count == 1

    @responses.activate
    def test_nothing_is_asked_when_the_time_is_up(self, client: BinanceClient) -> None:
        answer = responses.get(KLINES, json=[row()])
        with pytest.raises(Retryable, match="no time left"):
            client.klines("BTCUSDT", "5m", 3, give_up_at=time.monotonic() - 1)
        assert answer.call_count == 0


class TestClock:
    @responses.activate
    @pytest.mark.parametrize(
        ("step_s", "borne"),
        [(-3600.0, False), (-300.3, False), (-0.3, True), (0.3, True), (3600.0, True)],
    )
    def test_a_clock_that_steps_costs_no_more_than_the_reads_while_it_is_slow(
        self, limiter: RateLimiter, step_s: float, borne: bool
    ) -> None:
        """The candle opens this very second; it is judged by the clock at its arrival."""
        responses.get(KLINES, json=[row(NOW - STEP), row()])
        wall = Clock(NOW / 1000)
        client = BinanceClient(BASE, limiter, wait=lambda _: False, wall_clock=wall)
        assert len(client.klines("BTCUSDT", "5m", 2).times) == 2
        wall.now += step_s
        if borne:
            assert len(client.klines("BTCUSDT", "5m", 2).times) == 2
        else:
            with pytest.raises(BadResponse, match="from the future, by this machine's clock"):
                client.klines("BTCUSDT", "5m", 2)
        wall.now -= step_s
        assert len(client.klines("BTCUSDT", "5m", 2).times) == 2
