"""The limiter under a fake clock, the client against canned answers, the parsers on bad rows."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import responses

from binance_client import (
    UNKNOWN_SYMBOL,
    BadResponse,
    BinanceClient,
    Candles,
    RateLimited,
    RateLimiter,
    Rejected,
    Retryable,
    Stopped,
    Ticker,
    parse_klines,
    parse_listing,
    parse_tickers,
)
from tests.candles import rows_of
from tests.support import Clock, until

BASE = "https://api.binance.us"
STEP = 300_000
NOW = 1_800_000_000_000  # a multiple of 5 minutes
KLINES, TICKERS = f"{BASE}/api/v3/klines", f"{BASE}/api/v3/ticker/24hr"


def row(open_ms: Any = NOW, **changes: Any) -> list[Any]:
    prices = {"open": "2.0", "high": "4.0", "low": "1.0", "close": "3.0", "volume": "5.5"} | changes
    return [open_ms, *prices.values(), NOW + STEP - 1, "11.0", 7, "1.0", "2.0", "0"]


def ticker(symbol: str = "BTCUSDT", **changes: Any) -> dict[str, Any]:
    fields = {"lastPrice": "2.5", "priceChangePercent": "-1.25", "volume": "9.0", "closeTime": NOW}
    return {"symbol": symbol} | fields | changes


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
        limiter.acquire(50)  # needs the 60 back, which are free 60 s after they were spent
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

    def test_who_leaves_some_spare_lets_others_go_first(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.acquire(30, spare=70)
        clock.now += 10
        with pytest.raises(RateLimited) as refused:
            limiter.acquire(1, give_up_at=clock.now, spare=70)
        assert refused.value.retry_in_s == 50
        limiter.acquire(70)  # who is in a hurry
        clock.now += 50
        limiter.acquire(30, spare=500)  # as far as the limit has it
        assert clock.waits == [10.0] and clock.now == 1070

    def test_counts_requests_too(self, clock: Clock) -> None:
        limiter = RateLimiter(clock=clock, wait=clock.wait)
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
        assert limiter.state() == (0, 7.0, 429)
        limiter.acquire(1)
        assert clock.waits == [7.0]
        assert limiter.state() == (1, 0.0, 429)

    def test_gives_up_at_once_what_would_be_too_late(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.hold(7, 418)
        with pytest.raises(RateLimited, match="on hold after HTTP 418") as held:
            limiter.acquire(1, give_up_at=clock.now + 6)
        assert held.value.retry_in_s == 7
        clock.now += 7
        limiter.acquire(100)
        with pytest.raises(RateLimited, match="budget"):
            limiter.acquire(1, give_up_at=clock.now + 59)
        assert clock.waits == []

    def test_follows_the_weight_that_another_program_uses(
        self, limiter: RateLimiter, clock: Clock
    ) -> None:
        limiter.acquire(10)
        limiter.observe(1190)  # 1180 of it are not ours
        limiter.observe(50)  # less than is known: no news
        assert limiter.state()[0] == 1190
        limiter.acquire(10)
        limiter.acquire(1)
        assert clock.waits == [60.0]

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
    @pytest.mark.parametrize("status", [301, 302, 400, 404, 451])
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


def parse(rows: Any, now_ms: int = NOW) -> Candles:
    return parse_klines(json.dumps(rows, separators=(",", ":")).encode(), "5m", now_ms)


class TestParseKlines:
    def test_good_rows(self) -> None:
        assert list(parse([row(NOW - STEP), row()]).times) == [NOW - STEP, NOW]

    @pytest.mark.parametrize(
        "rows",
        [
            None,
            {},
            "rows",
            7,
            [],
            [7],
            ["rows"],
            [[]],
            [row()[:5]],
            [row()[:11]],
            [row("1800000000000")],
            [row(True)],
            [row(1.8e12)],
            [row(None)],
            [row(NOW + 1)],
            [row(-STEP)],
            [row(), row()],
            [row(), row(NOW - STEP)],
            [row(NOW + STEP)],
            [row(close="NaN")],
            [row(high="inf")],
            [row(high="9" * 400)],
            [row(volume="-1")],
            [row(volume="nan")],
            [row(open=2.0)],
            [row(open=None)],
            [row(open="")],
            [row(open="1_0")],
            [row(open="0x1")],
            [row(open=" 2.0")],
            [row(open="2,0")],
            [row(high="0.5")],
            [row(low="2.5")],
            [row(close="5.0")],
            [row(open="0.9")],
            [row(low="0.0")],
            [row(), "tail"],
        ],
    )
    def test_bad_rows_are_refused_with_a_reason(self, rows: Any) -> None:
        with pytest.raises(BadResponse) as refused:
            parse(rows)
        assert 10 < len(refused.value.reason) < 160

    @pytest.mark.parametrize("space", ["\n", "\r\n", " ", "\t"])
    def test_rows_are_kept_without_spaces_however_they_are_written(self, space: str) -> None:
        rows = [row(NOW - STEP), row()]
        plain = json.dumps(rows, separators=(",", ":"))
        written = [plain.replace(at, at + space) for at in (",", "[", "]", '"2.0"', "],[")]
        for body in [*written, plain.replace('"4.0"', '"\\u0034.0"')]:
            candles = parse_klines(body.encode(), "5m", NOW)
            assert candles == parse(rows) and candles.rows == plain[1:-1].encode()

    def test_more_fields_than_are_documented_are_left_out(self) -> None:
        rows = [[*row(NOW - STEP), {"new": [1]}, "],["], row()]
        assert rows_of(parse(rows)) == [row(NOW - STEP), row()]

    @pytest.mark.parametrize("odd", ["],[", "[", "]]", ["],["], [[]], {"a": 1}, 'say "no"', "1,0"])
    def test_a_row_is_refused_for_any_field_of_more_than_a_word(self, odd: Any) -> None:
        for field in range(12):
            bad = row()
            bad[field] = odd
            with pytest.raises(BadResponse, match=r"candle .*: its (\w+'? ?)+ is "):
                parse([row(NOW - STEP), bad])

    @pytest.mark.parametrize("odd", ["", None, True, 0.5, -7, "-0.5", "1e5", "none"])
    def test_what_is_only_passed_on_may_be_any_word(self, odd: Any) -> None:
        for field in range(6, 12):
            rows = [row(NOW - STEP), row()]
            rows[1][field] = odd
            assert rows_of(parse(rows)) == rows

    @pytest.mark.parametrize(("field", "text"), [(0, "01800000000000"), (8, "007")])
    def test_what_json_has_no_number_for_is_refused(self, field: int, text: str) -> None:
        bad = row()
        bad[field] = "?"
        body = json.dumps([row(NOW - STEP), bad], separators=(",", ":")).replace('"?"', text)
        with pytest.raises(BadResponse, match="not JSON"):
            parse_klines(body.encode(), "5m", NOW)

    def test_of_far_more_rows_than_can_be_asked_for_none_is_looked_at(self) -> None:
        rows = [*[row()] * 30_000, "no row at all"]
        with pytest.raises(BadResponse, match="30001 candles in one answer"):
            parse_klines(json.dumps(rows).encode(), "5m", NOW)  # with spaces

    def test_part(self) -> None:
        rows = [row(NOW + n * STEP) for n in range(-4, 1)]
        candles = parse(rows)
        for first in range(-6, 6):
            for last in [None, *range(-6, 6)]:
                assert rows_of(candles.part(first, last)) == rows[first:last]

    @pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
    def test_what_is_no_json_is_refused_wherever_it_stands(self, constant: str) -> None:
        body = json.dumps([[*row()[:-1], "?"]]).replace('"?"', constant).encode()
        with pytest.raises(BadResponse, match="not JSON"):
            parse_klines(body, "5m", NOW)

    def test_a_clock_that_is_a_little_slow_is_borne(self) -> None:
        assert parse([row()], NOW - 9_000)
        with pytest.raises(BadResponse, match="future"):
            parse([row()], NOW - 11_000)

    @responses.activate
    @pytest.mark.parametrize(
        ("step_s", "borne"),
        [(-3600.0, False), (-300.3, False), (-0.3, True), (0.3, True), (3600.0, True)],
    )
    def test_a_clock_that_steps_costs_no_more_than_the_reads_while_it_is_slow(
        self, limiter: RateLimiter, step_s: float, borne: bool
    ) -> None:
        """The candle is of this second; it is judged by the clock of when it came."""
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


class TestParseTickers:
    @pytest.mark.parametrize(
        "bad",
        [
            {"lastPrice": "0.00"},
            {"lastPrice": "NaN"},
            {"lastPrice": "inf"},
            {"lastPrice": None},
            {"volume": "-1"},
            {"volume": []},
            {"priceChangePercent": "nan"},
            {"closeTime": "now"},
            {"closeTime": NOW + 3_600_000},
            {"closeTime": True},
            {"closeTime": 0},
            {"lastPrice": True},
            {"lastPrice": 2.5},
            {"lastPrice": "1_0"},
            {"lastPrice": " 2.5"},
            {"lastPrice": "\u0661"},
            {"lastPrice": "+1"},
            {"volume": "1e5"},
            {"volume": "9" * 400},
        ],
    )
    def test_a_bad_ticker_harms_no_other(self, bad: dict[str, Any]) -> None:
        found = parse_tickers([ticker("ETHUSDT", **bad), ticker()], ["BTCUSDT", "ETHUSDT"], NOW)
        assert isinstance(found["BTCUSDT"], Ticker)
        assert isinstance(found["ETHUSDT"], BadResponse)

    @pytest.mark.parametrize("rows", [None, {}, "x", json.loads("1")])
    def test_what_is_no_list_is_refused(self, rows: Any) -> None:
        with pytest.raises(BadResponse):
            parse_tickers(rows, ["BTCUSDT"], NOW)

    def test_a_row_without_fields_or_of_another_shape(self) -> None:
        found = parse_tickers([7, {"symbol": "BTCUSDT"}, {}], ["BTCUSDT"], NOW)
        assert isinstance(found["BTCUSDT"], BadResponse)
