"""Answers of the exchange, good and bad."""

from __future__ import annotations

import json
from typing import Any

import pytest

from binance_answers import (
    BadResponse,
    Candles,
    Ticker,
    parse_klines,
    parse_tickers,
)
from tests.candles import NOW_MS as NOW
from tests.candles import STEP_MS as STEP
from tests.candles import row, rows_of, ticker


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
