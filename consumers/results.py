"""What closed trades amounted to: pure functions of a list of them, in the order of their closes.

All amounts are in the quote currency of the symbols; sums over several currencies mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from consumers.book import ClosedTrade

CURVE_POINTS = 400  # at most, of a curve that is drawn


def summary(trades: Sequence[ClosedTrade]) -> dict[str, Any]:
    """Count, sum of profits and of fees, and the figures below; None where one cannot be computed,
    and `reasons` says why."""
    profits = [trade.profit for trade in trades]
    figures: dict[str, Any] = {
        "trades": len(profits),
        "profit": sum(profits),
        "fees": sum(trade.fees for trade in trades),
        "win_rate": win_rate(profits),
        "profit_factor": profit_factor(profits),
        "mean": mean(profits),
        "drawdown": drawdown(profits),
    }
    why = "no trade was closed at a loss" if profits else "no closed trades"
    missing = {name: why for name, value in figures.items() if value is None}
    return figures | {"reasons": missing}


def win_rate(profits: Sequence[float]) -> float | None:
    """The share of trades with a profit above zero, in percent; None without trades."""
    return sum(profit > 0 for profit in profits) / len(profits) * 100 if profits else None


def profit_factor(profits: Iterable[float]) -> float | None:
    """The sum of all profits above zero, divided by the sum of all losses, as a number above zero.
    Above 1 the trades made money. None without a loss: it would be infinite."""
    profits = list(profits)
    losses = -sum(profit for profit in profits if profit < 0)
    return sum(profit for profit in profits if profit > 0) / losses if losses > 0 else None


def mean(profits: Sequence[float]) -> float | None:
    """The profit of a trade on average; None without trades."""
    return sum(profits) / len(profits) if profits else None


def drawdown(profits: Iterable[float]) -> float:
    """The worst drawdown: how far the running sum of profits fell at most below its highest point
    before, where 0 at the start counts as one. An amount, never below 0."""
    worst = highest = 0.0
    for equity in accumulate(profits):
        highest = max(highest, equity)
        worst = max(worst, highest - equity)
    return worst


def grouped(trades: Iterable[ClosedTrade], name: str) -> list[dict[str, Any]]:
    """The summary of the trades of each value of the field `name`, the most profitable first."""
    groups: dict[str, list[ClosedTrade]] = {}
    for trade in trades:
        groups.setdefault(getattr(trade, name), []).append(trade)
    made = [{name: value} | summary(group) for value, group in groups.items()]
    return sorted(made, key=lambda group: (-group["profit"], group[name]))


def equity_curve(trades: Sequence[ClosedTrade]) -> list[tuple[int, float]]:
    """The running sum of profits after each close, [ms UTC, sum], from 0 at the first purchase.

    Of more than CURVE_POINTS it keeps the lowest and the highest of each of equal parts, and the
    last, so that a drawing has the same extremes.
    """
    if not trades:
        return []
    sums = accumulate(trade.profit for trade in trades)
    points = [(trade.closed, equity) for trade, equity in zip(trades, sums, strict=True)]
    points.insert(0, (min(trades[0].opened, points[0][0]), 0.0))
    if len(points) <= CURVE_POINTS:
        return points
    length = -(-len(points) // (CURVE_POINTS // 2 - 1))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), length):
        part = range(start, min(start + length, len(points)))
        kept.add(min(part, key=lambda at: points[at][1]))
        kept.add(max(part, key=lambda at: points[at][1]))
    return [points[at] for at in sorted(kept)]
