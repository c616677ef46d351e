"""Scores as pure functions, and what the scanner writes to Redis."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from consumers import indicators
from consumers.scanner import scan, score
from tests.candles import from_closes, walk


class TestScore:
    @pytest.mark.parametrize(
        ("rsi", "distance_pct", "place", "expected"),
        [
            (50, 0, 0.5, 0),
            (30, -3, 0, 100),
            (70, 3, 1, -100),
            (0, -50, -1, 100),
            (100, 50, 2, -100),
            (40, 0, 0.5, 17),
            (50, -1.5, 0.5, 17),
            (50, 0, 0.25, 17),
        ],
    )
    def test_the_mean_of_three_bounded_parts(
        self, rsi: float, distance_pct: float, place: float, expected: int
    ) -> None:
        assert score(rsi, distance_pct, place) == expected

    def test_a_coin_that_fell_scores_higher_than_one_that_rose(self) -> None:
        fell, rose = ([100 * step**n for n in range(60)] for step in (0.99, 1.01))
        assert scan(from_closes(fell))["score"] > 50 > -50 > scan(from_closes(rose))["score"]


class TestScan:
    def test_the_figures_are_those_of_the_indicators(self) -> None:
        candles = walk(300)
        row = scan(candles)
        assert row["rsi"] == indicators.rsi(candles)
        assert row["bands"] == indicators.bollinger(candles)._asdict()
        assert row["vwap_distance_pct"] == pytest.approx(
            100 * (candles[-1].close - row["vwap"]) / row["vwap"]
        )
        assert row["closes"] == [candle.close for candle in candles[-48:]]
        assert row["reasons"] == {}

    @pytest.mark.parametrize(
        "candles",
        [
            walk(1),
            walk(10),
            from_closes([5.0] * 300),
            from_closes([5.0] * 300, volume=0.0),
            from_closes([5.0] * 299 + [5e6]),
            from_closes([5.0] * 299 + [5e-6]),
        ],
        ids=["1", "10", "flat", "dead", "spike", "crash"],
    )
    def test_what_cannot_be_computed_is_null_with_the_reason(self, candles: Any) -> None:
        row = scan(candles)
        json.dumps(row, allow_nan=False)
        for name in ("rsi", "vwap", "bands", "score"):
            assert (row[name] is None) == (name in row["reasons"])
        assert row["vwap_distance_pct"] is None or math.isfinite(row["vwap_distance_pct"])

    def test_there_is_no_score_of_a_part(self) -> None:
        row = scan(walk(17))
        assert row["rsi"] is not None and row["bands"] is None and row["score"] is None
        assert row["reasons"]["score"] == "needs bands"
