"""The figures of closed trades, against values computed by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from consumers.book import ClosedTrade, Costs, Position, profit
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


def trade(brought: float = 10.0, closed: int = 2000, **changes: Any) -> ClosedTrade:
    """A trade of 2 coins bought at 50, with fees of 1."""
    made = ClosedTrade(
        symbol="AUSDT",
        timeframe="1h",
        signal="ribbon_up",
        exit_signal="ribbon_down",
        quantity=2.0,
        entry_price=50.0,
        exit_price=50 + (brought + 1) / 2,
        opened=1000,
        closed=closed,
        fees=1.0,
        profit=brought,
    )
    return made._replace(**changes)


class TestAmounts:
    def test_costs(self) -> None:
        costs = Costs(fee_pct=0.1, slippage_pct=0.05)
        assert costs.buy_price(200.0) == pytest.approx(200.1)
        assert costs.sell_price(200.0) == pytest.approx(199.9)
        assert costs.fee(150.0) == pytest.approx(0.15)

    def test_profit(self) -> None:
        assert profit(quantity=2, entry_price=50, exit_price=56, fees=0.5) == 11.5
        assert trade(11.5).profit_pct == 11.5

    def test_unrealised_profit(self) -> None:
        position = Position("1h", "ribbon_up", 2.0, 50.0, 1, fee=0.1)
        assert position.unrealised_profit(53.0) == pytest.approx(5.9)

    def test_a_sale_after_the_clock_was_set_back_is_no_earlier_than_the_purchase(self) -> None:
        sold = Position("1h", "ribbon_up", 2.0, 50.0, 5000).sold("AUSDT", 50.0, 0.0, now_ms=4000)
        assert sold.closed == sold.opened == 5000


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


class TestEntry:
    def test_there_and_back(self) -> None:
        made = trade(1 / 3, quantity=1e-05, entry_price=2.5e7, exit_price=2.5e7, fees=0.0, profit=0)
        assert ClosedTrade.from_fields(made.fields()) == made
        assert ClosedTrade.from_fields(made.fields() | {"more": "x"}) == made

    @pytest.mark.parametrize(
        "changes",
        [
            {"symbol": "<b>"},
            {"timeframe": "5"},
            {"signal": "sideways"},
            {"exit_signal": ""},
            {"quantity": "0"},
            {"quantity": "nan"},
            {"quantity": "1_0"},
            {"entry_price": "inf"},
            {"exit_price": "-55.5"},
            {"exit_price": "1e30"},
            {"fees": "-1"},
            {"fees": ""},
            {"profit": "11"},
            {"opened": "2001"},
            {"opened": "1.5"},
            {"closed": "99999999999999999999"},
            {"closed": "999999999999999"},
        ],
        ids=str,
    )
    def test_what_no_trader_writes_is_refused(self, changes: dict[str, str]) -> None:
        fields = trade().fields()
        assert ClosedTrade.from_fields(fields)
        with pytest.raises(ValueError):
            ClosedTrade.from_fields(fields | changes)

    def test_a_missing_field_is_refused(self) -> None:
        for name in ClosedTrade._fields:
            fields = trade().fields()
            del fields[name]
            with pytest.raises(LookupError):
                ClosedTrade.from_fields(fields)
