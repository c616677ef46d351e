"""Which answers are believed: of today, not older than before, not against what was final."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from binance_answers import BinanceError, Outdated, Ticker
from candles import PRICE, Feed, Price, Series, boot_s, stale_at
from judge import WHOLE_EVERY_S, Judge
from settings import Timeframe
from tests.candles import written

FIVE = Timeframe("5m", 30, 120)
STEP = 300_000
A, A_PRICE, B_PRICE = Feed("AUSDT", "5m"), Feed("AUSDT", PRICE), Feed("BUSDT", PRICE)
MIDDLE_S = 150.0  # of the newest candle's length; the clocks stand still there


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which both clocks were moved, as a list of one that a test may change."""
    moved = [0.0]
    wall_s = time.time() // 300 * 300 + MIDDLE_S
    monkeypatch.setattr(time, "time", lambda: wall_s + moved[0])
    monkeypatch.setattr(time, "clock_gettime", lambda _: 5000.0 + moved[0])
    return moved


def series(closes: Sequence[float | None], ends_ago: int = 0) -> Series:
    """A candle for each close, none for None; the newest opened `ends_ago` lengths before the one
    that forms now."""
    newest_ms = (int(time.time() * 1000) // STEP - ends_ago) * STEP
    rows = [
        [newest_ms - back * STEP, *["1.0"] * 3, str(close), "1.0", 0, "0", 0, "0", "0", "0"]
        for back, close in zip(range(len(closes) - 1, -1, -1), closes, strict=True)
        if close is not None
    ]
    stale = stale_at(rows[-1][0], STEP)
    return Series(written(rows), boot_s(), min(boot_s() + 120, stale), boot_s() + 3600)


def price(age_s: float) -> Price:
    ticker = Ticker(1.0, 0.0, 1.0, int((time.time() - age_s) * 1000))
    return Price(ticker, boot_s(), boot_s() + 60)


class Reader:
    """Judges one answer after the other, and holds what is believed, as Store does."""

    def __init__(self) -> None:
        self.judge = Judge(candle_limit=6)
        self.held: dict[Feed, Series | Price] = {}
        self.replaced: list[str] = []

    def read(self, answer: Series | Price | BinanceError, feed: Feed = A) -> str:
        """Why the answer is not believed, "" if it is."""
        judged, replaced = self.judge.judge(FIVE, {feed: answer}, self.held)
        self.replaced += replaced.values()
        result = judged[feed]
        if isinstance(result, BinanceError):
            return result.reason
        self.held[feed] = result
        return ""


@pytest.fixture
def reader() -> Reader:
    return Reader()


RIGHT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
HOLE = [1.0, 2.0, 3.0, None, 5.0, 6.0]
OTHERS = [7.0, 7.1, 7.2, 7.3, 7.4, 7.5]


class TestAge:
    def test_a_series_is_fresh_for_two_lengths_of_its_newest_candle(self, reader: Reader) -> None:
        assert reader.read(series(RIGHT)) == ""
        assert reader.read(series(RIGHT, ends_ago=1), Feed("BUSDT", "5m")) == ""
        reason = reader.read(series(RIGHT, ends_ago=36), Feed("CUSDT", "5m"))
        assert reason.startswith("the newest candle is of 20") and reason.endswith("Z, 3 h ago")
        assert "min ago" in reader.read(series(RIGHT, ends_ago=2), Feed("DUSDT", "5m"))

    def test_an_answer_is_refused_that_is_older_than_any_before_it(
        self, reader: Reader, now: list[float]
    ) -> None:
        reader.read(series(RIGHT))
        reader.held.clear()
        now[0] += 200
        assert reader.read(series(RIGHT, ends_ago=2)) == "the answer is older than one before it"

    def test_what_redis_holds_counts_as_seen_but_not_what_is_of_the_future(
        self, reader: Reader
    ) -> None:
        now_ms = int(time.time() * 1000)
        later = {A_PRICE: now_ms - 5000, B_PRICE: now_ms + 10**9, A: 0}
        assert reader.judge.saw(later) == {A_PRICE: now_ms - 5000}
        assert "older" in reader.read(price(6.0), A_PRICE)
        assert reader.read(price(4.0), A_PRICE) == reader.read(price(6.0), B_PRICE) == ""


class TestPrices:
    def judged(self, own_age_s: float, other_age_s: float, candles: Series | None) -> object:
        results = {A_PRICE: price(own_age_s), B_PRICE: price(other_age_s)}
        if candles:
            results[A] = candles  # type: ignore[assignment]
        return Judge(6).judge(FIVE, results, {})[0][A_PRICE]  # type: ignore[arg-type]

    def test_an_old_ticker_is_refused_unless_its_market_and_the_exchange_go_on(self) -> None:
        assert isinstance(self.judged(100, 100, None), Price)
        assert isinstance(self.judged(1000, 1, series(RIGHT)), Price)  # a market without trades
        for refused in (
            self.judged(1000, 1, series(RIGHT, ends_ago=3)),  # its candles stand still, too
            self.judged(1000, 1, None),
            self.judged(1000, 1000, series(RIGHT)),  # all tickers are old
        ):
            assert isinstance(refused, Outdated)
            assert refused.reason.startswith("the ticker is of ")
            assert refused.reason.endswith(", 17 min ago")


class TestContradictions:
    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (HOLE, "lacks the candle of 20"),
            (OTHERS, "has another candle of 20"),
            ([3.0, 4.0, 5.0, 6.0], "lacks the candle"),  # it claims that there are no earlier ones
        ],
    )
    def test_one_answer_against_what_is_final_is_not_believed(
        self, reader: Reader, answer: list[float | None], why: str
    ) -> None:
        right = series(RIGHT)
        reader.read(right)
        assert why in reader.read(series(answer)) and reader.held[A] is right
        assert reader.judge.is_disputed(A)
        assert reader.read(series(RIGHT)) == "" and not reader.replaced

    def test_two_that_agree_are(self, reader: Reader) -> None:
        reader.read(series(RIGHT))
        wrong = [series(OTHERS), series(HOLE), series(HOLE)]
        assert [bool(reader.read(each)) for each in wrong] == [True, True, False]
        assert reader.held[A] is wrong[-1] and len(reader.replaced) == 1

    def test_the_truth_is_back_at_the_second_refresh_that_tells_it(self, reader: Reader) -> None:
        reader.read(series(OTHERS))  # nothing is known yet
        assert [bool(reader.read(series(RIGHT))) for _ in range(2)] == [True, False]

    def test_a_hole_is_filled_at_once(self, reader: Reader) -> None:
        reader.read(series(HOLE))
        assert reader.read(series(RIGHT)) == ""

    def test_what_is_not_final_may_change(self, reader: Reader, now: list[float]) -> None:
        now[0] -= MIDDLE_S - 20  # the newest closed candle closed 20 s ago: less than two refreshes
        reader.read(series(RIGHT))
        assert reader.read(series([*RIGHT[:-2], 5.5, 6.5])) == ""
        now[0] += 60
        assert reader.read(series([*RIGHT[:-2], 5.6, 6.6])) == ""  # as it was asked for 60 s ago
        assert "another candle" in reader.read(series([*RIGHT[:-2], 5.7, 6.7]))

    def test_a_candle_that_is_not_final_yet_must_not_vanish(
        self, reader: Reader, now: list[float]
    ) -> None:
        now[0] -= MIDDLE_S - 20
        reader.read(series(RIGHT))
        assert "lacks the candle" in reader.read(series([*RIGHT[:-2], None, 6.0]))

    def test_candles_that_the_window_has_left_are_not_missed(
        self, reader: Reader, now: list[float]
    ) -> None:
        reader.read(series(RIGHT))
        now[0] += 300
        assert reader.read(series([*RIGHT[1:], 7.0])) == ""

    def test_it_is_over_after_an_hour(self, reader: Reader, now: list[float]) -> None:
        reader.read(series(RIGHT))
        reader.read(series(HOLE))
        now[0] += WHOLE_EVERY_S - 1
        assert reader.judge.is_disputed(A)
        now[0] += 2
        assert not reader.judge.is_disputed(A)
