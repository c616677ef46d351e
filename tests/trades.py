"""Closed trades for tests."""

from __future__ import annotations

from typing import Any

from consumers.book import ClosedTrade


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
