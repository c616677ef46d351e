"""The checker can fail: its input breaks each promise once. No storm here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from settings import Timeframe
from tests.chaos.checker import (
    Sample,
    Seen,
    TransactionJudge,
    Verdict,
    Verdicts,
    judge_expiry,
    judge_flatness,
    judge_holds,
    judge_series,
    judge_weight,
)
from tests.chaos.record import Asked, Record

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

    @pytest.mark.parametrize(("kind", "forgiven"), [("revised", True), ("nan", False)])
    def test_only_what_nobody_can_tell_is_forgiven(
        self, verdicts: Verdicts, kind: str, forgiven: bool
    ) -> None:
        record = Record()
        record.begin(kind, "BTCUSDT", NOW - 5)
        held = candles()
        held[1]["close"] = 2.1
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


def published(name: str, *symbols: str) -> str:
    update = json.dumps({"timeframe": name, "symbols": symbols}).replace('"', '\\"')
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
    return Asked(at, service, ("BTCUSDT",), "1m", weight, hold_s, usable=not hold_s)


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
        assert (verdicts.holds.checks, verdicts.holds.fine) == (1, fine)

    @pytest.mark.parametrize(("last", "fine"), [(159.9, False), (160.1, True)])
    def test_weight_of_any_60_s(self, verdicts: Verdicts, last: float, fine: bool) -> None:
        requests = [asked(100.0, weight=3500), asked(130.0, weight=2500, service="b"), asked(last)]
        judge_weight(verdicts.weight, requests)
        assert verdicts.weight.fine == fine


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
        assert record.held_until("a") == 115.0 and record.held_until("b") == 0.0

    def test_a_fault_spoils_while_it_is_on_and_only_its_symbol(self) -> None:
        record = Record()
        span = record.begin("nan", "BTCUSDT", NOW)
        record.begin("revised", None, NOW)
        assert record.spoils(("BTCUSDT",)) and not record.spoils(("ETHUSDT",))
        record.end(span)
        assert not record.spoils(("BTCUSDT",))
