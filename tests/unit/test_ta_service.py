"""States and signals as pure functions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import indicators, ta_service
from consumers.market_cache import BAD_DATA, Candle
from consumers.ta_service import (
    SIGNALS,
    Signal,
    State,
    Summary,
    analyse,
    changes,
    parse_signal,
    parse_summary,
    state_after,
)
from tests.candles import from_closes, walk


class TestSummary:
    @given(
        st.from_regex(r"[A-Z0-9]{2,20}", fullmatch=True),
        st.from_regex(r"[1-9][0-9]{0,3}[mhd]", fullmatch=True).filter(str.isascii),
        st.sampled_from(SIGNALS),
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    )
    def test_says_all_that_is_in_it(
        self, symbol: str, timeframe: str, name: str, price: float
    ) -> None:
        summary = Summary(symbol, timeframe, name, price)
        assert parse_summary(str(summary)) == summary

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "again",
            "AUSDT 1h ribbon_up at",
            "AUSDT 1h ribbon_up at x",
            "AUSDT 1h ribbon_up at nan",
            "AUSDT 1h ribbon_up at inf",
            "AUSDT 1h ribbon_up at 1_0.0",
            "AUSDT 1h ribbon_up at 2.5 and more",
            "AUSDT 1h ribbon_up on 2.5",
            "AUSDT 1h ribbon_flat at 2.5",
            "AUSDT 1x ribbon_up at 2.5",
            "ausdt 1h ribbon_up at 2.5",
        ],
    )
    def test_nothing_else_is_one(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_summary(text)


class TestStates:
    def test_analysis_of_a_series(self) -> None:
        candles = walk(300)
        result = analyse(candles)
        assert result["timestamp"] == candles[-1].timestamp
        assert result["ribbon"]["emas"] == indicators.ema_ribbon(candles).emas
        assert result["squeeze"] == indicators.squeeze(candles)._asdict()
        assert result["stoch_rsi"] == indicators.stoch_rsi(candles)._asdict()
        assert result["reasons"] == {}

    @pytest.mark.parametrize(
        ("candles", "missing"),
        [
            (walk(1), {"ribbon", "squeeze", "stoch_rsi"}),
            (walk(40), {"ribbon"}),
            (from_closes([5.0] * 100), {"squeeze", "stoch_rsi"}),
        ],
    )
    def test_what_cannot_be_computed_is_none(
        self, candles: list[Candle], missing: set[str]
    ) -> None:
        result = analyse(candles)
        assert set(result["reasons"]) == missing
        assert all(result[name] is None for name in missing)
        json.dumps(result, allow_nan=False)

    def test_what_is_mixed_or_unknown_changes_nothing(self) -> None:
        before = State(1, "up", "on", "low")
        mixed = {"timestamp": 2, "ribbon": {"state": "mixed"}, "squeeze": None, "stoch_rsi": None}
        assert state_after(before, mixed) == State(2, "up", "on", "low")
        assert state_after(None, mixed) == State(2, None, None, None)
        down = {
            "timestamp": 3,
            "ribbon": {"state": "down"},
            "squeeze": {"on": False},
            "stoch_rsi": {"zone": "middle"},
        }
        assert state_after(before, down) == State(3, "down", "off", "middle")

    @pytest.mark.parametrize(
        ("before", "after", "momentum", "names"),
        [
            (("up", "off", "middle"), ("up", "off", "middle"), 1, []),
            (("up", "off", "middle"), ("down", "off", "middle"), 1, ["ribbon_down"]),
            (("down", "off", "middle"), ("up", "off", "middle"), 1, ["ribbon_up"]),
            ((None, None, None), ("up", "on", "low"), 1, []),
            (("up", "on", "middle"), ("up", "off", "middle"), 0.1, ["squeeze_up"]),
            (("up", "on", "middle"), ("up", "off", "middle"), -0.1, ["squeeze_down"]),
            (("up", "on", "middle"), ("up", "off", "middle"), 0.0, []),
            (("up", "off", "middle"), ("up", "on", "middle"), 1, []),
            (("up", "on", "low"), ("up", "on", "middle"), 1, ["stoch_rsi_up"]),
            (("up", "on", "low"), ("up", "on", "high"), 1, ["stoch_rsi_up"]),
            (("up", "on", "high"), ("up", "on", "middle"), 1, ["stoch_rsi_down"]),
            (("up", "on", "middle"), ("up", "on", "low"), 1, []),
            (
                ("up", "on", "low"),
                ("down", "off", "high"),
                -1,
                ["ribbon_down", "squeeze_down", "stoch_rsi_up"],
            ),
        ],
    )
    def test_changes(
        self, before: tuple[Any, ...], after: tuple[Any, ...], momentum: float, names: list[str]
    ) -> None:
        assert changes(State(1, *before), State(2, *after), momentum) == names


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "A:*"},
        {"symbol": 7},
        {"timeframe": ["1h"]},
        {"timeframe": "0m"},
        {"signal": "_up"},
        {"signal": None},
        {"timestamp": "now"},
        {"timestamp": 1e12},
        {"candle": True},
        {"more": 1},
    ],
)
def test_what_is_no_signal_is_refused(change: dict[str, Any]) -> None:
    signal = Signal("AUSDT", "1h", "ribbon_up", 1.0, 2, 1, 3)
    assert parse_signal(json.dumps(signal._asdict())) == signal
    with pytest.raises(BAD_DATA):
        parse_signal(json.dumps(signal._asdict() | change))


@pytest.mark.parametrize("text", ["", "[", "[" * 5000, "1e999", '{"timestamp":1e999}', "null"])
def test_what_is_no_json_of_a_signal_is_refused(text: str) -> None:
    with pytest.raises(BAD_DATA):
        parse_signal(text)


def test_names() -> None:
    assert ta_service.update_channel("5m") == "ta:update:5m"
