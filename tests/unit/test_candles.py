"""Joining fetched candles to the held series, and the updates that are published."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from candles import Update, join
from tests.candles import as_held, rows_of, written

STEP = 300_000


def candle(time_: int, close: float = 1.0) -> list[Any]:
    return [time_ * STEP, "1.0", "1.0", "1.0", str(close), "1.0", 0, "0.0", 0, "0.0", "0.0", "0"]


class TestJoin:
    def joined(self, held: Sequence[int], *times: int, limit: int = 500) -> list[int] | None:
        result = join(written([*map(candle, held)]), written([*map(candle, times)]), STEP, limit)
        return [row[0] // STEP for row in rows_of(result)] if result else None

    def test_what_overlaps_is_replaced_and_the_oldest_go(self) -> None:
        assert self.joined([1, 2, 3, 4], 3, 4, 5) == [1, 2, 3, 4, 5]
        assert self.joined([1, 2, 3, 4], 3, 4, 5, limit=4) == [2, 3, 4, 5]
        assert self.joined([1], 1) == [1]
        read = [candle(1), candle(2, close=9.0)]
        result = join(written([candle(1), candle(2)]), written(read), STEP, 500)
        assert result and rows_of(result) == read

    def test_what_may_hide_a_missing_candle_does_not_join(self) -> None:
        assert self.joined([1, 2, 3], 5, 6) is None  # no overlap
        assert self.joined([1, 2, 3], 4, 5) is None  # adjacent: was 3 final?
        assert self.joined([1, 2, 3], 3, 4, 5) is None  # was 2 final?
        assert self.joined([1, 2, 3], 1, 2) is None  # ends before the held series
        assert self.joined([1, 2, 3], 2, 3, 5) is None  # a new gap
        assert self.joined([2, 3, 4], 1, 2, 3, 4, 5) is None  # begins before the held series

    def test_a_gap_that_is_known_is_accepted(self) -> None:
        assert self.joined([1, 3, 4], 1, 3, 4, 5) == [1, 3, 4, 5]
        assert self.joined([1, 2, 3, 4], 1, 3, 4) is None  # 2 is held

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
        held = written([c for c in market if c[0] <= now * STEP][-limit:])
        while now < 390:
            for index, (open_ms, *_) in enumerate(market):
                if now - 1 <= open_ms // STEP <= now and rng.random() < 0.5:
                    market[index] = candle(open_ms // STEP, rng.random())
            now += rng.choice([0, 0, 1, 1, 2, 5, 70])
            whole = [c for c in market if c[0] <= now * STEP][-limit:]
            begun = now - held.times[-1] // STEP
            count = max(3, 2 + begun)
            read = written(whole[-count:])
            held = (join(held, read, STEP, limit) if count < limit else None) or written(whole)
            assert rows_of(held) == whole


class TestUpdate:
    def test_what_is_too_old_by_now_was_not_updated(self) -> None:
        update = Update({"A", "B"}, {"C"}, 2, 5).without({"B", "C", "D"})
        assert update == Update({"A"}, {"B", "C"}, 2, 5)

    def test_including_an_unheard_one(self) -> None:
        merged = Update({"A"}, {"B", "C"}, 2, 5).including(Update({"B"}, {"A"}, 1, 9))
        assert merged == Update({"A", "B"}, {"C"}, 2, 5)

    def test_of_all(self) -> None:
        both = Update.of_all([Update({"A", "B"}, set(), 1, 9), Update({"A"}, {"B"}, 2, 5)])
        assert json.loads(both.json(3, timeframes=["5m", "1h"])) == {
            "timeframes": ["5m", "1h"],
            "symbols": ["A"],
            "failed": ["B"],
            "timestamp": 2,
            "duration_ms": 9,
            "db": 3,
        }
