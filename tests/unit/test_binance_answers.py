"""Answers of the exchange, good and bad."""

from __future__ import annotations

import json
from typing import Any

import pytest

from binance_answers import (
    BadResponse,
    BadRow,
    Candles,
    Idle,
    Limit,
    Limits,
    Rejected,
    Retryable,
    Ticker,
    error_of,
    parse_klines,
    parse_listing,
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

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda rows: rows[200].__setitem__(0, rows[200][0] + 7000), "not the open time"),
            (lambda rows: rows[200].__setitem__(2, "0.5"), "contradicts itself"),
            (lambda rows: rows[200].__setitem__(3, "0.00"), "contradicts itself"),
            (lambda rows: rows[200].__setitem__(4, "NaN"), "its close is 'NaN'"),
            (lambda rows: rows.__setitem__(200, [1, "2"]), "without its 12 fields"),
            (lambda rows: rows.__setitem__(200, rows[199]), "not in order"),
        ],
    )
    def test_a_bad_one_among_many_is_left_out(self, spoil: Any, reason: str) -> None:
        rows = [row(NOW - back * STEP) for back in range(499, -1, -1)]
        spoil(rows)
        candles = parse(rows)
        assert rows_of(candles) == [*rows[:200], *rows[201:]]
        [bad] = candles.bad
        assert bad.open_ms == NOW - 299 * STEP and reason in bad.reason
        assert candles.part(-299).bad == () and candles.part(100, 300).bad == (bad,)

    def test_too_many_bad_ones_or_one_of_the_newest_refuse_them_all(self) -> None:
        def parsed(*bad: int, of: int = 500) -> int:
            rows = [row(NOW - back * STEP) for back in range(of - 1, -1, -1)]
            for nth in bad:
                rows[nth][2] = "0.5"
            return len(parse(rows).bad)

        assert parsed(0, 100, 200, 300, 496) == 5
        for bad, of in (((1, 2, 3, 4, 5, 6), 500), ((497,), 500), ((499,), 500), ((0,), 99)):
            with pytest.raises(BadRow, match="contradicts itself"):
                parsed(*bad, of=of)

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


ZEROS = {"lastPrice": "0.00000000", "volume": "0.00000000", "count": 0}


class TestIdle:
    def test_a_market_without_a_trade_has_no_price_and_nothing_is_wrong(self) -> None:
        found = parse_tickers([ticker(**ZEROS)], ["BTCUSDT"], NOW)
        assert isinstance(found["BTCUSDT"], Idle)

    @pytest.mark.parametrize("other", [{"count": 3}, {"volume": "1.0"}, {"count": None}])
    def test_a_price_of_zero_with_trades_is_bad(self, other: dict[str, Any]) -> None:
        found = parse_tickers([ticker(**ZEROS | other)], ["BTCUSDT"], NOW)
        assert isinstance(found["BTCUSDT"], BadResponse)


class TestErrors:
    @pytest.mark.parametrize("code", [-1000, -1001, -1007, -1008])
    def test_passing_troubles_are_tried_again_whatever_the_status(self, code: int) -> None:
        error = error_of(400, json.dumps({"code": code, "msg": "Try later."}).encode())
        assert isinstance(error, Retryable) and error.code == code
        assert isinstance(error_of(400, b'{"code":-1121,"msg":"Invalid symbol."}'), Rejected)

    def test_a_page_says_its_title_and_text(self) -> None:
        page = b"""<!DOCTYPE html><html><head><TITLE>403 &amp; Forbidden</TITLE>
            <style>p { color: red }</style><script>var a = "<p>no</p>"</script></head>
            <body><h1>Blocked</h1>\n<p>Access from your <b>country</b> is blocked.</p>%b</body>"""
        reason = error_of(451, page % b"").reason
        assert reason == ("HTTP 451: 403 & Forbidden: Blocked Access from your country is blocked.")
        assert len(error_of(451, page % (b"more " * 1000)).reason) < 220


class TestLimits:
    def limits(self, *entries: Any) -> Limits | None:
        return parse_listing({"symbols": [], "rateLimits": list(entries)}, []).limits

    def test_limits_are_what_the_exchange_says(self) -> None:
        names = ("rateLimitType", "interval", "intervalNum", "limit")
        weight = dict(zip(names, ("REQUEST_WEIGHT", "SECOND", 30, 700), strict=True))
        orders = dict(zip(names, ("ORDERS", "DAY", 1, 200_000), strict=True))
        raw = dict(zip(names, ("RAW_REQUESTS", "MINUTE", 5, 300_000), strict=True))
        assert self.limits(weight, orders, raw) == Limits(Limit(700, 30), Limit(300_000, 300))
        bad: list[Any] = [raw | {"limit": 0}, raw | {"interval": "AGE"}, raw | {"limit": None}, 7]
        for each in bad:
            assert self.limits(weight, each) is None
        assert self.limits(weight) is None and parse_listing({"symbols": []}, []).limits is None
