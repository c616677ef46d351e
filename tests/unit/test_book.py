"""What trades cost and bring, by hand; and which entries of the stream are trades."""

from __future__ import annotations

import pytest

from consumers.book import ClosedTrade, Costs, Position, profit
from tests.trades import trade


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
