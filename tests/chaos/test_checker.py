"""The checker can fail: its input breaks each promise once. No storm here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from candles import Feed
from demo.exchange import Exchange
from settings import Timeframe
from tests.chaos.checker import RESTORED_S, Checker, Deleted
from tests.chaos.judges import (
    Sample,
    Seen,
    Verdict,
    Verdicts,
    judge_age,
    judge_expiry,
    judge_flatness,
    judge_heirs,
    judge_holds,
    judge_keys,
    judge_price_age,
    judge_series,
    judge_weight,
)
from tests.chaos.record import Asked, Door, Record
from tests.chaos.transactions import TransactionJudge

MINUTE_MS = 60_000
NOW = 1_795_500_030.0  # half a minute after an open time
OPEN_MS = [int(NOW - 30) * 1000 - n * MINUTE_MS for n in (3, 2, 1, 0)]
PLAN = Timeframe("1m", 2, 10)
TRUTH = {time_ms: (1.0, 4.0, 0.5, 2.0, float(n)) for n, time_ms in enumerate(OPEN_MS)}
FIELDS = ("open", "high", "low", "close", "volume")


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts()


def candles() -> list[dict[str, Any]]:
    """Candles that keep every promise."""
    return [{"timestamp": at, **dict(zip(FIELDS, row, strict=True))} for at, row in TRUTH.items()]


def look(
    verdicts: Verdicts, held: list[dict[str, Any]], record: Record | None = None, limit: int = 4
) -> None:
    seen = Seen("market:ohlcv:BTCUSDT:1m", json.dumps(held), NOW, NOW + 9)
    judge_series(verdicts, seen, PLAN, TRUTH, record or Record(), limit)


class TestSeries:
    def test_right_candles_are_counted_and_fine(self, verdicts: Verdicts) -> None:
        held = candles()
        held[-1]["close"] = 3.0  # it is still forming
        look(verdicts, held)
        assert verdicts.truth.fine and verdicts.order.fine

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda held: held[1].update(close=2.1),
            lambda held: held.pop(1),
            lambda held: held.pop(0),
            lambda held: held.pop(),
        ],
        ids=["wrong", "missing", "too short", "old"],
    )
    def test_a_wrong_candle(self, verdicts: Verdicts, spoil: Callable[..., Any]) -> None:
        held = candles()
        spoil(held)
        look(verdicts, held)
        assert verdicts.truth.broken == 1 and "BTCUSDT" in verdicts.truth.shown[0]

    @pytest.mark.parametrize(
        ("kind", "detail", "nth", "forgiven"),
        [
            ("revised", {}, 2, True),
            ("revised", {}, 1, False),
            ("frozen", {}, 2, True),
            ("frozen", {}, 1, False),
            ("frozen", {"at": NOW - 90}, 1, True),
            ("lagging", {"seconds": 80}, 1, True),
            ("lagging", {"seconds": 80}, 0, False),
            ("halted", {}, 2, True),
            ("mixed_up", {}, 0, True),
            ("rewritten", {}, 0, True),
            ("nan", {}, 2, False),
        ],
    )
    @pytest.mark.parametrize("spoil", ["wrong", "missing"])
    def test_only_what_nobody_can_tell_is_forgiven(
        self,
        verdicts: Verdicts,
        kind: str,
        detail: dict[str, Any],
        nth: int,
        forgiven: bool,
        spoil: str,
    ) -> None:
        record = Record()
        record.begin(kind, "BTCUSDT", NOW - 5, **detail)
        held = candles()
        held[nth]["close"] = 2.1
        if spoil == "missing" and nth:  # without its first candle, a series is too short
            del held[nth]
        look(verdicts, held, record, limit=len(held))
        assert (verdicts.truth.broken == 0) == forgiven

    @pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
    @pytest.mark.parametrize("kind", ["revised", "mixed_up", "hole"])
    def test_a_lie_is_forgiven_to_its_end_and_its_symbol(
        self, verdicts: Verdicts, kind: str, symbol: str
    ) -> None:
        record = Record()
        span = record.begin(kind, symbol, NOW - 9)
        span.ended_at = NOW - 1.5 if symbol == "BTCUSDT" else NOW  # asked for at NOW - 1.25
        held = candles()
        held[2]["close"] = 2.1
        look(verdicts, held, record)
        assert verdicts.truth.broken == 1

    def test_what_was_rewritten_while_it_was_looked_at(self, verdicts: Verdicts) -> None:
        record = Record()
        record.end(record.begin("rewritten", "BTCUSDT", NOW + 0.1))
        held = candles()
        held[0]["close"] = 2.1
        look(verdicts, held, record)
        assert verdicts.truth.fine

    def test_a_hole_costs_one_candle(self, verdicts: Verdicts) -> None:
        record = Record()
        record.begin("hole", None, NOW - 5)
        held = candles()
        del held[2]
        look(verdicts, held, record)
        assert verdicts.truth.fine
        look(verdicts, held, record, limit=5)
        assert verdicts.truth.broken == 1

    @pytest.mark.parametrize(
        ("open_ms", "interval", "forgiven"),
        [(OPEN_MS[1], "1m", True), (OPEN_MS[2], "1m", False), (OPEN_MS[1], "5m", False)],
    )
    def test_a_bad_row_is_left_out_for_long_and_nothing_else(
        self, verdicts: Verdicts, open_ms: int, interval: str, forgiven: bool
    ) -> None:
        record = Record()
        detail = {"open_ms": open_ms, "interval": interval}
        record.end(record.begin("bad_row", None, NOW - 900, **detail))
        held = candles()
        del held[1]
        look(verdicts, held, record)
        assert (verdicts.truth.broken == 0) == forgiven

    @pytest.mark.parametrize(("missing", "forgiven"), [(1, True), (2, False)])
    def test_of_a_gap_only_its_own_candles_are_forgiven(
        self, verdicts: Verdicts, missing: int, forgiven: bool
    ) -> None:
        record = Record()
        start_s = OPEN_MS[1] / 1000
        record.begin("gap", None, NOW - 9, start=start_s, end=start_s + 60)
        held = candles()
        del held[missing]
        look(verdicts, held, record, limit=3)
        assert (verdicts.truth.broken == 0) == forgiven

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda held: held[-1].update(timestamp=OPEN_MS[-1] + MINUTE_MS),
            lambda held: held.reverse(),
            lambda held: held.append(held[-1]),
            lambda held: held[0].update(timestamp=OPEN_MS[0] - 1),
        ],
        ids=["future", "descending", "twice", "off the grid"],
    )
    def test_a_wrong_order(self, verdicts: Verdicts, spoil: Callable[..., Any]) -> None:
        held = candles()
        spoil(held)
        look(verdicts, held)
        assert verdicts.order.broken == 1


class TestExpiry:
    @pytest.mark.parametrize(("left_s", "fine"), [(4.0, True), (6.0, False), (float("inf"), False)])
    def test_a_key_that_outlives_its_ttl(
        self, verdicts: Verdicts, left_s: float, fine: bool
    ) -> None:
        seen = Seen("market:ohlcv:BTCUSDT:1m", "[]", NOW, NOW + left_s)
        judge_expiry(verdicts.expiry, seen, ttl_s=10, usable_at=NOW - 5.8)
        assert verdicts.expiry.fine == fine


class TestAge:
    @pytest.mark.parametrize(("left_s", "fine"), [(90.0, True), (91.0, False)])
    def test_a_series_that_outlives_its_newest_candle(
        self, verdicts: Verdicts, left_s: float, fine: bool
    ) -> None:
        seen = Seen("market:ohlcv:BTCUSDT:1m", json.dumps(candles()), NOW, NOW + left_s)
        judge_age(verdicts.age, seen, step_s=60)
        assert verdicts.age.fine == fine

    @pytest.mark.parametrize(
        ("age_s", "others_age_s", "quiet", "fine"),
        [
            (119, 119, None, True),
            (121, 1, None, False),
            (121, 1, "BTCUSDT", True),
            (121, 1, "ETHUSDT", False),
            (121, 121, "BTCUSDT", False),
        ],
        ids=["recent", "old", "not traded", "another", "all stand still"],
    )
    def test_the_price_of_an_old_ticker(
        self,
        verdicts: Verdicts,
        age_s: float,
        others_age_s: float,
        quiet: str | None,
        fine: bool,
    ) -> None:
        record = Record()
        if quiet:
            record.begin("quiet", quiet, NOW - 200, path="ticker/24hr")

        def price(symbol: str, of_s: float) -> Seen:  # asked for at NOW
            value = json.dumps({"price": 1.0, "timestamp": int((NOW - of_s) * 1000)})
            return Seen(f"market:price:{symbol}", value, NOW + 1, NOW + 60)

        others = [price("ETHUSDT", others_age_s)]
        judge_price_age(verdicts.age, price("BTCUSDT", age_s), others, record)
        assert verdicts.age.fine == fine


def monitored(*commands: str) -> list[str]:
    """The lines of MONITOR for a transaction."""
    sent = ['"MULTI"', *commands, '"EXEC"']
    return [f"1795500030.5 [0 127.0.0.1:40000] {command}" for command in sent]


def written(symbol: str) -> str:
    return f'"SET" "market:ohlcv:{symbol}:1m" "[{{\\"open\\":1}}]" "PXAT" "1795500040000"'


def logged(type_: str, channel: str) -> str:
    return (
        f'"XADD" "redis:message_log" "MAXLEN" "~" "10000" "*" "type" "{type_}" '
        f'"channel" "{channel}" "summary" "a \\"b\\" c"'
    )


def published(name: str, *symbols: str, db: int | None = 0) -> str:
    update = json.dumps({"timeframe": name, "symbols": symbols, "db": db}).replace('"', '\\"')
    return f'"PUBLISH" "market:update:{name}" "{update}"'


class TestTransactions:
    @pytest.fixture
    def judge(self, verdicts: Verdicts) -> TransactionJudge:
        return TransactionJudge(verdicts, ["1m"], "redis:message_log")

    def test_writes_entries_and_publishes_that_agree(
        self, verdicts: Verdicts, judge: TransactionJudge
    ) -> None:
        for line in monitored(
            written("BTCUSDT"),
            logged("cache_write", "market:ohlcv:BTCUSDT:1m"),
            logged("publish", "market:update:1m"),
            logged("error", "market:price:BTCUSDT"),
            published("1m", "BTCUSDT"),
        ):
            judge.feed(line)
        assert verdicts.publishes.fine and verdicts.log.fine

    @pytest.mark.parametrize("full", [True, False])
    def test_only_a_publish_may_lack_its_entry_and_only_while_redis_is_full(
        self, verdicts: Verdicts, full: bool
    ) -> None:
        judge = TransactionJudge(verdicts, ["1m"], "redis:message_log", lambda _: full)
        for line in monitored(published("1m")):
            judge.feed(line)
        assert verdicts.log.broken == (not full)
        for line in monitored(written("BTCUSDT"), published("1m", "BTCUSDT")):
            judge.feed(line)
        assert verdicts.log.broken == 1 + (not full)

    def test_a_publish_without_its_write(self, verdicts: Verdicts, judge: TransactionJudge) -> None:
        first = monitored(written("BTCUSDT"), published("1m", "BTCUSDT"))
        for line in [*first, *monitored(published("1m", "BTCUSDT"))]:
            judge.feed(line)
        assert verdicts.publishes.broken == 1
        assert verdicts.publishes.shown == ["1m: ['BTCUSDT'] not written"]

    def test_a_publish_before_its_write(self, verdicts: Verdicts, judge: TransactionJudge) -> None:
        for line in monitored(published("1m", "ETHUSDT"), written("BTCUSDT")):
            judge.feed(line)
        assert verdicts.publishes.shown[1:] == ["market:ohlcv:BTCUSDT:1m comes after it"]

    def test_an_all_without_each(self, verdicts: Verdicts, judge: TransactionJudge) -> None:
        for line in monitored(published("all")) * 2:  # nothing is known before the first one
            judge.feed(line)
        assert (verdicts.publishes.checks, verdicts.publishes.broken) == (1, 1)

    @pytest.mark.parametrize(("db", "fine"), [(0, True), (1, False), (None, False)])
    def test_a_payload_of_another_database(
        self, verdicts: Verdicts, judge: TransactionJudge, db: int | None, fine: bool
    ) -> None:
        for line in monitored(published("1m", db=db)):
            judge.feed(line)
        assert (verdicts.payloads.checks, verdicts.payloads.fine) == (1, fine)

    @pytest.mark.parametrize(
        "command", [written("BTCUSDT"), logged("cache_write", "market:ohlcv:BTCUSDT:1m")]
    )
    def test_a_write_without_its_entry_and_the_other_way_round(
        self, verdicts: Verdicts, judge: TransactionJudge, command: str
    ) -> None:
        for line in monitored(command):
            judge.feed(line)
        assert verdicts.log.broken == 1

    def test_half_a_transaction_is_none(self, verdicts: Verdicts, judge: TransactionJudge) -> None:
        for line in monitored(written("BTCUSDT"))[:-1]:
            judge.feed(line)
        judge.missed()
        judge.feed(monitored()[-1])
        assert verdicts.log.checks == 0


def asked(at: float, *, service: str = "a", weight: int = 1, hold_s: float = 0.0) -> Asked:
    usable = not hold_s
    return Asked(at, service, ("BTCUSDT",), "1m", weight, hold_s, usable, answered_at=at + 0.1)


class TestAsked:
    @pytest.mark.parametrize(
        ("again", "service", "woken", "fine"),
        [
            (100.5, "a", [], True),
            (103.0, "a", [], False),
            (103.0, "b", [], True),
            (106.0, "a", [], True),
            (103.0, "a", [102.8], True),
            (103.0, "a", [101.0], False),
        ],
        ids=["on its way", "held", "another", "over", "just woken", "woken long ago"],
    )
    def test_a_request_while_held(
        self, verdicts: Verdicts, again: float, service: str, woken: list[float], fine: bool
    ) -> None:
        requests = [asked(100.0, hold_s=5.0), asked(again, service=service)]
        judge_holds(verdicts.holds, requests, lambda _: woken)
        assert verdicts.holds.fine == fine

    @pytest.mark.parametrize(("second", "fine"), [(105.3, False), (105.4, True)])
    def test_after_a_hold_one_request_goes_first(
        self, verdicts: Verdicts, second: float, fine: bool
    ) -> None:
        requests = [asked(at, hold_s=hold_s) for at, hold_s in ((100, 5), (100.2, 5))]
        requests += [asked(105.25), asked(second)]
        judge_holds(verdicts.holds, requests, lambda _: [])
        assert (verdicts.holds.checks, verdicts.holds.fine) == (3, fine)

    @pytest.mark.parametrize(
        ("heir_at", "happens", "checks", "fine"),
        [
            ([104.0], None, 1, False),
            ([105.5], None, 1, True),
            ([97.0, 104.0], None, 0, False),
            ([104.0], ("redis empty", 103.0), 0, False),
            ([104.0], ("redis empty", 98.0), 1, False),
            ([104.0], ("redis slow line", 103.0), 0, False),
            ([104.0], ("redis deleted", 103.0), 1, False),
            ([104.0], ("stop", 100.9), 0, False),
            ([104.0], ("stop", 102.0), 1, False),
            ([104.0], ("wake", 103.5), 0, False),
        ],
        ids=[
            "asks",
            "waits",
            "leads",
            "lost",
            "lost before",
            "slow",
            "kept",
            "unsaid",
            "said",
            "just woken",
        ],
    )
    def test_who_takes_over_during_a_hold(
        self,
        verdicts: Verdicts,
        monkeypatch: pytest.MonkeyPatch,
        heir_at: list[float],
        happens: tuple[str, float] | None,
        checks: int,
        fine: bool,
    ) -> None:
        record = Record()
        if happens:
            what, at = happens
            monkeypatch.setattr(time, "time", lambda: at)
            match what:
                case "stop":
                    record.stop("a")
                case "wake":
                    record.wake("b")
                case _:
                    record.end(record.begin(what, None, at))
        requests = [asked(100.0, hold_s=5.0), *(asked(at, service="b") for at in heir_at)]
        judge_heirs(verdicts.heirs, requests, record.woken_at, record.hides)
        assert (verdicts.heirs.checks, verdicts.heirs.fine) == (checks, fine)

    @pytest.mark.parametrize(("last", "fine"), [(159.9, False), (160.1, True)])
    def test_weight_of_any_60_s(self, verdicts: Verdicts, last: float, fine: bool) -> None:
        requests = [asked(100.0, weight=3500), asked(130.0, weight=2500, service="b"), asked(last)]
        judge_weight(verdicts.weight, requests)
        assert verdicts.weight.fine == fine


class TestFreshness:
    @pytest.mark.parametrize(
        ("expires_in_s", "stale_in_s", "checks", "fine"),
        [
            (10.5, math.inf, 1, True),
            (9.5, math.inf, 1, False),
            (None, math.inf, 1, False),
            (5.0, 5.0, 1, True),
            (4.0, 5.0, 1, False),
            (None, 0.1, 0, False),
        ],
        ids=["fresh", "from before", "gone", "soon stale", "gone too soon", "stale"],
    )
    def test_what_was_not_asked_for_since(
        self,
        verdicts: Verdicts,
        monkeypatch: pytest.MonkeyPatch,
        expires_in_s: float | None,
        stale_in_s: float,
        checks: int,
        fine: bool,
    ) -> None:
        feed, since = Feed("BTCUSDT", PLAN.name), time.time()
        checker = Checker(
            "redis://127.0.0.1:1/0", Exchange(), Record(), verdicts, ["BTCUSDT"], [PLAN], 4, dict
        )
        held = {feed.key: Seen(feed.key, "[]", since, since + (expires_in_s or 0))}
        monkeypatch.setattr(checker, "read", lambda: held if expires_in_s else {})
        checker.judge_freshness(since, {feed: 0.2}, {feed: since + stale_in_s})
        assert (verdicts.fresh.checks, verdicts.fresh.fine) == (checks, fine)


class TestRestored:
    @pytest.mark.parametrize(
        ("deleted_s_ago", "left_s", "there", "checks", "fine"),
        [
            (0.0, 60.0, True, 1, True),
            (RESTORED_S, 60.0, False, 1, False),
            (RESTORED_S - 1, 0.5, False, 0, False),
        ],
        ids=["there again", "not", "expired"],
    )
    def test_what_was_deleted_is_there_again(
        self,
        verdicts: Verdicts,
        monkeypatch: pytest.MonkeyPatch,
        deleted_s_ago: float,
        left_s: float,
        there: bool,
        checks: int,
        fine: bool,
    ) -> None:
        checker = Checker(
            "redis://127.0.0.1:1/0", Exchange(), Record(), verdicts, ["BTCUSDT"], [PLAN], 4, dict
        )
        key, now = "market:price:BTCUSDT", time.time()
        seen = {key: Seen(key, "{}", now, now + left_s)}
        monkeypatch.setattr(checker, "read", lambda: seen if there else {})
        checker.judge_restored([Deleted(key, now - deleted_s_ago, now + left_s)])
        assert (verdicts.restored.checks, verdicts.restored.fine) == (checks, fine)


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "fine"),
        [
            ("market:ohlcv:BTCUSDT:1m", True),
            ("market:leader:term", True),
            ("market:ohlcv:ETHUSDT:1m", False),
            ("market:price:ETHUSDT", False),
        ],
    )
    def test_a_key_of_another_database(self, verdicts: Verdicts, key: str, fine: bool) -> None:
        judge_keys(verdicts.apart, 0, ["market:price:BTCUSDT", key], ["BTCUSDT"])
        assert verdicts.apart.fine == fine


class TestFlatness:
    @pytest.mark.parametrize(
        ("memory", "threads", "fine"), [(0, 0, True), (2_000_000, 0, False), (0, 1, False)]
    )
    def test_growth(self, verdicts: Verdicts, memory: int, threads: int, fine: bool) -> None:
        samples = [Sample(50_000_000 + n * memory, 10 + n * threads) for n in range(40)]
        judge_flatness(verdicts.flat, "a", samples)
        assert verdicts.flat.fine == fine

    def test_a_short_life_tells_nothing(self, verdicts: Verdicts) -> None:
        judge_flatness(verdicts.flat, "a", [Sample(10**n, n) for n in range(9)])
        assert verdicts.flat.checks == 0


def test_a_verdict_without_checks_is_a_failure() -> None:
    verdict = Verdict("something")
    looked_at = Verdict("something else")
    looked_at.check(True, "")
    assert (verdict.fine, looked_at.fine) == (False, True)


class TestRecord:
    def test_what_may_be_used_makes_fresh_and_nothing_else(self) -> None:
        record = Record()
        record.ask(asked(100.0))
        record.ask(asked(110.0, hold_s=5.0))
        assert record.usable_at("BTCUSDT", "1m") == 100.0
        assert record.held_until() == 115.0

    def test_a_fault_spoils_while_it_is_on_and_only_its_symbol(self) -> None:
        record = Record()
        span = record.begin("nan", "BTCUSDT", NOW)
        record.begin("revised", None, NOW)
        assert record.spoils(("BTCUSDT",)) and not record.spoils(("ETHUSDT",))
        record.end(span)
        assert not record.spoils(("BTCUSDT",))

    @pytest.mark.parametrize(
        "kind", ["frozen", "lagging", "mixed_up", "hole", "blocked", "bad_row"]
    )
    def test_answers_that_may_be_used_spoil_nothing(self, kind: str) -> None:
        record = Record()
        record.begin(kind, None, NOW)
        assert not record.spoils(("BTCUSDT",))

    def test_a_door_shadows_nothing_of_the_exchange(self) -> None:
        exchange = Exchange()
        door = Door(exchange, Record(), "a")
        own = vars(door).keys() - vars(exchange).keys()
        assert len(own) == 3 and not own & {*dir(Exchange)}
