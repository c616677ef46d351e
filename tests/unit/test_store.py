"""The store: what it holds, what is pending for Redis, and what is published."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from binance_answers import (
    BinanceError,
    Idle,
    Listing,
    Outdated,
    Retryable,
    Stopped,
    Ticker,
)
from candles import PRICE, Feed, Price, Series, boot_s
from settings import Settings, Timeframe
from store import LISTING_TTL_S, Results, Store
from tests.candles import written

SETTINGS = Settings.from_env({"SYMBOLS": "AUSDT,BUSDT", "TIMEFRAMES": "5m:5:20,1h:7:30"})
FIVE, HOUR = SETTINGS.timeframes
A, B = Feed("AUSDT", "5m"), Feed("BUSDT", "5m")
STEP = 300_000
# The 10th candle of `series` opened at least one length ago, so it and the 11th are fresh.
WALL_S = 1_800_000_150.0  # the wall clock stands still
FIRST = int(WALL_S * 1000) // STEP - 11


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The boot clock, as a list of one instant that a test may change."""
    clock = [1000.0]
    monkeypatch.setattr(time, "clock_gettime", lambda _: clock[0])
    monkeypatch.setattr(time, "time", lambda: WALL_S)
    return clock


@pytest.fixture
def store(now: list[float]) -> Store:
    return Store(SETTINGS)


def series(newest: int = 10, ttl_s: float = 20) -> Series:
    rows = [
        [(FIRST + n) * STEP, *["1.0"] * 5, 0, "0", 0, "0", "0", "0"] for n in range(1, newest + 1)
    ]
    return Series(written(rows), boot_s(), boot_s() + ttl_s, boot_s() + 3600)


def price() -> Price:
    return Price(Ticker(1.0, 0.0, 1.0, int(time.time() * 1000)), boot_s(), boot_s() + 60)


def take(store: Store, results: Results, timeframe: Timeframe = FIVE) -> Any:
    return store.take(timeframe, results, time.monotonic())


def deliver(store: Store) -> None:
    store.sent(store.pending())


class TestTake:
    def test_what_was_read_is_held_and_what_failed_stays_as_it_was(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "coinex")
        first = {A: series(), B: series()}
        assert take(store, first).updated == {"AUSDT", "BUSDT"}
        newer = series(11)
        update = take(store, {A: newer, B: Retryable("HTTP 500")})
        assert (update.updated, update.failed) == ({"AUSDT"}, {"BUSDT"})
        assert store.held(A) is newer and store.held(B) is first[B]
        failure = store.failure(B)
        assert failure and failure.reason == "HTTP 500" and store.failure(A) is None
        take(store, {B: Retryable("HTTP 500")})
        take(store, {B: series()})
        assert caplog.messages == [
            'event=fetch_failing what=5m symbols=BUSDT reason="HTTP 500"',
            "event=fetch_mended what=5m symbols=BUSDT",
        ]

    def test_an_older_answer_is_refused_even_if_the_newer_one_has_expired(
        self, store: Store, now: list[float]
    ) -> None:
        held = series(10)
        take(store, {A: held})
        assert take(store, {A: series(9)}).failed == {"AUSDT"}
        assert store.held(A) is held and isinstance(store.failure(A), Outdated)
        now[0] += 21
        assert take(store, {A: series(9)}).failed == {"AUSDT"}
        store.forget()
        now[0] += 1
        assert store.take(FIVE, {A: series(9)}, time.monotonic() + 1).failed == {"AUSDT"}

    def test_prices_are_no_part_of_the_update(self, store: Store) -> None:
        update = take(store, {A: series(), Feed("AUSDT", PRICE): Retryable("HTTP 500")})
        assert (update.updated, update.failed) == ({"AUSDT"}, set())

    def test_what_stops_with_the_program_has_not_failed(self, store: Store) -> None:
        update = take(store, {A: Stopped("stopping"), B: Stopped("stopping")})
        assert not update.updated and not update.failed
        assert not store.is_behind() and store.failure(A) is None


class TestPending:
    def test_all_that_redis_lacks_until_it_has_it(self, store: Store) -> None:
        first = series()
        prices = {Feed("AUSDT", PRICE): price()}
        take(store, {A: first, B: Retryable("HTTP 500"), **prices})
        pending = store.pending()
        assert pending.entries == {A: first, **prices}
        assert pending.errors == {B: "HTTP 500"} and list(pending.updates) == ["5m"]
        assert pending.of_all is None and store.is_behind()
        store.sent(pending)
        assert not store.pending() and not store.is_behind()
        assert set(store.expected_in_redis(1)) == {A, *prices}

    def test_what_came_meanwhile_stays_pending(self, store: Store) -> None:
        take(store, {A: series(), B: series()})
        pending = store.pending()
        newer = series(11)
        take(store, {A: newer})
        store.sent(pending)
        assert store.pending().entries == {A: newer} and list(store.pending().updates) == ["5m"]

    def test_an_update_that_was_sent_is_no_part_of_the_next(self, store: Store) -> None:
        """Even if the next refresh was taken while it was being sent."""
        take(store, {A: series(), B: series()})
        pending = store.pending()
        take(store, {A: Retryable("x"), B: series(11)})
        store.sent(pending)
        update = store.pending().updates["5m"]
        assert (update.updated, update.failed) == ({"BUSDT"}, {"AUSDT"})

    def test_an_update_that_could_not_be_sent_is_part_of_the_next(self, store: Store) -> None:
        take(store, {A: series(), B: series()})
        for _ in range(2):
            assert store.pending().updates["5m"].updated == {"AUSDT", "BUSDT"}
        take(store, {A: Retryable("x"), B: Retryable("x")})
        assert store.is_behind()
        assert store.pending().updates["5m"].updated == {"AUSDT", "BUSDT"}

    def test_an_update_that_nobody_heard_is_part_of_the_next(self, store: Store) -> None:
        take(store, {A: series(), B: Retryable("x")})
        take(store, {A: Retryable("x"), B: series()})
        told = store.pending().updates["5m"]
        assert (told.updated, told.failed) == ({"AUSDT", "BUSDT"}, set())

    def test_a_publish_names_nothing_that_has_expired(self, store: Store, now: list[float]) -> None:
        take(store, {A: series(ttl_s=5), B: series(ttl_s=20)})
        now[0] += 10
        told = store.pending().updates["5m"]
        assert (told.updated, told.failed) == ({"BUSDT"}, {"AUSDT"})

    def test_of_all_comes_once_each_timeframe_was_published(self, store: Store) -> None:
        hour = {Feed("AUSDT", "1h"): series(), Feed("BUSDT", "1h"): Retryable("x")}
        take(store, {A: series(), B: series()})
        deliver(store)
        assert not store.view().filled
        take(store, hour, HOUR)
        of_all = store.pending().of_all
        assert of_all and (of_all.updated, of_all.failed) == ({"AUSDT"}, {"BUSDT"})
        deliver(store)
        assert store.view().filled
        take(store, {A: series(), B: series()})
        assert store.pending().of_all is None  # not again before 1h is published again too

    def test_a_resend_in_the_middle_of_a_delivery_is_not_lost(self, store: Store) -> None:
        take(store, {A: series(), B: series()})
        pending = store.pending()
        store.resend()  # as after a clock step
        store.sent(pending)
        assert set(store.pending().entries) == {A, B}

    def test_all_says_of_a_symbol_what_its_timeframe_says(self, store: Store) -> None:
        """Even if a symbol failed in the last of several refreshes that were not published yet."""
        hour = {Feed("AUSDT", "1h"): series(), Feed("BUSDT", "1h"): series()}
        take(store, {A: series(), B: series()})
        take(store, {A: Retryable("x"), B: series()})
        take(store, hour, HOUR)
        pending = store.pending()
        assert pending.of_all and pending.of_all.updated == {"AUSDT", "BUSDT"}
        assert pending.updates["5m"].updated == {"AUSDT", "BUSDT"}

    def test_resend_makes_all_pending_again(self, store: Store) -> None:
        take(store, {A: series(), B: series()})
        deliver(store)
        store.resend()
        assert set(store.pending().entries) == {A, B} and not store.pending().updates


class TestForget:
    def test_nothing_is_held_pending_or_filled(self, store: Store) -> None:
        take(store, {A: series(), B: Retryable("x")})
        store.forget()
        assert not store.pending() and store.held(A) is None and store.failure(B) is None
        assert store.view().held == {} and not store.view().filled

    def test_a_refresh_from_before_brings_nothing(self, store: Store) -> None:
        """Another instance has led since the refresh began, and its data may be newer."""
        started = time.monotonic()
        store.forget()
        update = store.take(FIVE, {A: series(), B: Retryable("x")}, started)
        assert not update.updated and not update.failed
        assert store.held(A) is None and store.failure(B) is None and not store.pending()

    def test_a_delivery_from_before_changes_nothing(self, store: Store) -> None:
        take(store, {A: series(), B: series()})
        take(store, {Feed("AUSDT", "1h"): series(), Feed("BUSDT", "1h"): series()}, HOUR)
        pending = store.pending()
        store.forget()
        store.sent(pending)
        assert not store.view().filled


class TestLooks:
    def test_fresh_is_what_is_younger_than_its_ttl(self, store: Store, now: list[float]) -> None:
        held = series(ttl_s=20)
        take(store, {A: held})
        assert store.fresh(A) is held
        now[0] += 20
        assert store.fresh(A) is None and store.held(A) is held
        assert store.expected_in_redis(1) == []

    def test_unknown_symbols_are_those_whose_price_the_exchange_does_not_know(
        self, store: Store
    ) -> None:
        unknown = BinanceError("Invalid symbol.", code=-1121)
        take(store, {Feed("AUSDT", PRICE): unknown, Feed("BUSDT", PRICE): Retryable("x")})
        assert store.unknown_symbols() == ["AUSDT"]
        take(store, {Feed("AUSDT", PRICE): Retryable("HTTP 500")})
        assert store.unknown_symbols() == ["AUSDT"]  # a temporary error says nothing new
        take(store, {Feed("AUSDT", PRICE): price()})
        assert store.unknown_symbols() == []

    def test_a_listing_is_fresh_for_two_hours(self, store: Store, now: list[float]) -> None:
        assert store.listing() is None
        listing = Listing({"AUSDT": "TRADING"}, {}, {})
        store.take_listing(listing)
        now[0] += LISTING_TTL_S - 1
        assert store.listing() is listing
        now[0] += 1
        assert store.listing() is None


class TestMarkets:
    def listing(self, **statuses: str) -> Listing:
        return Listing(statuses, {}, {})

    def test_an_idle_market_has_no_price_and_no_failure(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        feed = Feed("AUSDT", PRICE)
        take(store, {feed: price()})
        take(store, {feed: Retryable("HTTP 500")})
        caplog.clear()
        take(store, {feed: Idle("no trade in 24 h")})
        reason = store.failure(feed)
        assert reason and reason.reason == "no trade in 24 h" and not caplog.messages
        assert store.held(feed) is None and not store.pending().entries
        assert store.view().idle == ["AUSDT"] and not store.view().failing
        take(store, {feed: price()})
        assert store.view().idle == [] and store.held(feed) and store.failure(feed) is None

    def test_what_redis_has_newer_is_not_overwritten(self, store: Store) -> None:
        take(store, {A: series(10), B: series(10)})
        store.saw({A: (FIRST + 11) * STEP, B: (FIRST + 10) * STEP})
        assert store.held(A) is None and store.held(B)
        pending = store.pending()
        assert list(pending.entries) == [B] and pending.updates["5m"].updated == {"BUSDT"}

    def test_most_markets_that_stand_still_are_the_exchange_that_does(self, store: Store) -> None:
        old = series(1)
        take(store, {A: old, B: series()})
        assert store.standstill() == "" and store.has_unexplained()
        take(store, {B: Retryable("HTTP 500")})
        assert store.standstill() == ""
        store.take_listing(self.listing(AUSDT="TRADING", BUSDT="BREAK"))
        assert store.standstill().startswith("5m of 1 of 1 symbols: the newest candle is of ")
        store.take_listing(self.listing(AUSDT="BREAK", BUSDT="TRADING"))
        assert store.standstill() == "" and not store.has_unexplained()
        assert store.view().halted == {"AUSDT": "BREAK"}
