"""The figures of closed trades, against values computed by hand."""

from __future__ import annotations

import random

import pytest

from consumers.results import (
    CURVE_POINTS,
    drawdown,
    equity_curve,
    grouped,
    mean,
    profit_factor,
    summary,
    win_rate,
)
from tests.trades import trade


class TestFigures:
    PROFITS = (10.0, -4.0, 0.0, -8.0, 6.0)  # sums: 10, 6, 6, -2, 4

    def test_by_hand(self) -> None:
        assert win_rate(self.PROFITS) == 40
        assert profit_factor(self.PROFITS) == pytest.approx(16 / 12)
        assert mean(self.PROFITS) == pytest.approx(0.8)
        assert drawdown(self.PROFITS) == 12  # from 10 to -2

    def test_drawdown_counts_from_zero_at_the_start(self) -> None:
        assert drawdown([-3.0, 1.0, -4.0]) == 6
        assert drawdown([1.0, 2.0]) == drawdown([]) == 0

    def test_without_a_loss_there_is_no_profit_factor_and_a_reason(self) -> None:
        figures = summary([trade(5.0), trade(0.0)])
        assert figures["profit_factor"] is None
        assert figures["reasons"] == {"profit_factor": "no trade was closed at a loss"}
        assert (figures["trades"], figures["profit"], figures["fees"]) == (2, 5.0, 2.0)
        assert summary([trade(-5.0)])["profit_factor"] == 0

    def test_without_trades_nothing_is_made_up(self) -> None:
        figures = summary([])
        assert [figures[name] for name in ("win_rate", "profit_factor", "mean")] == [None] * 3
        assert set(figures["reasons"].values()) == {"no closed trades"}

    def test_grouped(self) -> None:
        trades = [trade(1.0), trade(-2.0, symbol="BUSDT"), trade(2.0)]
        a, b = grouped(trades, "symbol")
        assert (a["symbol"], a["trades"], a["profit"]) == ("AUSDT", 2, 3.0)
        assert (b["symbol"], b["trades"], b["profit"], b["drawdown"]) == ("BUSDT", 1, -2.0, 2.0)


class TestCurve:
    def test_is_the_running_sum_from_zero(self) -> None:
        trades = [trade(10.0, closed=2000), trade(-4.0, closed=3000)]
        assert equity_curve(trades) == [(1000, 0.0), (2000, 10.0), (3000, 6.0)]
        assert equity_curve([]) == []

    def test_a_long_one_is_thinned_and_keeps_its_extremes(self) -> None:
        chance = random.Random(1)
        trades = [trade(chance.gauss(0, 5), closed=2000 + n) for n in range(10_000)]
        equity, sums = 0.0, [0.0]
        for each in trades:
            equity += each.profit
            sums.append(equity)
        curve = equity_curve(trades)
        assert len(curve) <= CURVE_POINTS
        assert min(curve, key=lambda point: point[1])[1] == min(sums)
        assert max(curve, key=lambda point: point[1])[1] == max(sums)
        assert (curve[0], curve[-1]) == ((1000, 0.0), (11_999, sums[-1]))
        assert curve == sorted(curve)
