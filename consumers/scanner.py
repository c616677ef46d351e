"""Scores each coin by RSI, VWAP and Bollinger Bands of its 1h candles, whenever they refresh.

`python -m consumers.scanner` prints the scores; the dashboard runs the same scanner for its page.
Both write them to Redis as `scanner:score:{symbol}`. To try a formula of your own, write it as a
function like those of indicators.py and use it in `scan`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from consumers import indicators, program
from consumers.market_cache import Candle, MarketCache, Update, now_ms
from environment import Environment

TIMEFRAME = "1h"
UPDATE_CHANNEL = "scanner:update"
SPARKLINE = 48  # closes written with a score: two days, for the page's small chart

Row = dict[str, Any]


def score_key(symbol: str) -> str:
    return f"scanner:score:{symbol}"


def scan(candles: Sequence[Candle]) -> Row:
    """The figures of a coin, the forming candle included. What cannot be computed is None, and
    `reasons` says why."""
    values, reasons = indicators.compute(
        candles, rsi=indicators.rsi, vwap=indicators.vwap, bands=indicators.bollinger
    )
    rsi, vwap, bands = values["rsi"], values["vwap"], values["bands"]
    close = candles[-1].close
    distance_pct = vwap and (close / vwap - 1) * 100
    if reasons:
        reasons["score"] = f"needs {' and '.join(reasons)}"
    return {
        "close": close,
        "rsi": rsi,
        "vwap": vwap,
        "vwap_distance_pct": distance_pct,
        "bands": bands and bands._asdict(),
        "score": None if reasons else score(rsi, distance_pct, bands.place),
        "closes": [candle.close for candle in candles[-SPARKLINE:]],
        "reasons": reasons,
    }


def score(rsi: float, vwap_distance_pct: float, bands_place: float) -> int:
    """From 100 (fallen far: oversold) to -100 (risen far: overbought): the mean of three parts.

    Each part is clamped to 1 at its low mark and -1 at its high one: RSI 30 and 70, 3 % below and
    above VWAP, the lower and the upper Bollinger Band.
    """
    parts = ((50 - rsi) / 20, -vwap_distance_pct / 3, 1 - 2 * bands_place)
    return round(100 * sum(min(max(part, -1.0), 1.0) for part in parts) / len(parts))


class Scanner:
    """Keeps `scanner:score:{symbol}` up to date: a row of `scan` with "timestamp", the time it was
    computed (ms UTC). It expires with the candles it was computed from."""

    def __init__(self, cache: MarketCache) -> None:
        self._cache = cache
        self._symbols: set[str] = set()  # all ever seen, so that a missing one is reported

    def turn(self, update: Update | None) -> tuple[dict[str, Row], dict[str, str]]:
        """Read, score, write and publish. Returns the row of each symbol, or else the reason.

        Scores are only written of symbols that were updated, or nothing that is old would look new.
        """
        seen = update.symbols + update.failed if update else self._cache.series().get(TIMEFRAME)
        self._symbols.update(seen or [])
        found, missing = self._cache.all_candles(sorted(self._symbols), TIMEFRAME)
        made_ms = now_ms()
        rows = {symbol: scan(candles) for symbol, candles in found.items()}
        batch = self._cache.logged.batch()
        updated = rows.keys() if update is None else rows.keys() & update.symbols
        for symbol in sorted(updated):
            row = rows[symbol]
            payload = json.dumps({"timestamp": made_ms, **row}, allow_nan=False)
            left_s = found[symbol].expires_at - time.time()
            if left_s > 0:
                batch.cache_write(score_key(symbol), payload, left_s, f"score {row['score']}")
        summary = f"{len(updated)} scored, {len(missing)} missing"
        batch.publish(
            UPDATE_CHANNEL, json.dumps({"timestamp": made_ms, "db": self._cache.logged.db}), summary
        )
        self._cache.logged.send(batch)
        return rows, missing

    def run(self, show: Callable[..., None] = lambda rows, missing: None) -> None:
        """Take a turn at each refresh; `show` receives its result."""
        for update in self._cache.updates(TIMEFRAME):
            with self._cache.attempt():
                show(*self.turn(update))


def table(rows: dict[str, Row], missing: dict[str, str]) -> str:
    """The scores as a table for people, the highest first."""

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    def rank(symbol: str) -> tuple[bool, int]:
        value = rows[symbol]["score"]
        return value is None, -(value or 0)

    lines = [f"{'':<12}{'close':>14}{'RSI':>7}{'VWAP %':>8}{'bands':>7}{'score':>7}"]
    for symbol in sorted(rows, key=rank):
        row = rows[symbol]
        place = row["bands"] and row["bands"]["place"]
        reasons = "; ".join(f"{name}: {why}" for name, why in row["reasons"].items())
        line = (
            f"{symbol:<12}{row['close']:>14.8g}{cell(row['rsi'], '.1f'):>7}"
            f"{cell(row['vwap_distance_pct'], '+.2f'):>8}{cell(place, '.2f'):>7}"
            f"{cell(row['score'], '+d'):>7}  {reasons}"
        )
        lines.append(line.rstrip())
    lines += [f"{symbol:<12}{reason}" for symbol, reason in missing.items()]
    return "\n".join(lines) if rows or missing else "no candles in Redis: is the service running?"


def main(env: Environment, arguments: argparse.Namespace) -> int:
    connection = program.Connection.read(env)
    env.check()
    scanner = Scanner(connection.cache("dashboard", "scanner"))
    if arguments.once:
        try:
            rows, missing = scanner.turn(None)
        except redis.RedisError as error:
            raise program.Failure(f"Redis: {error}") from error
        print(table(rows, missing))
        return 0 if rows and not missing else 1
    scanner.run(lambda rows, missing: print(table(rows, missing), end="\n\n", flush=True))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "scanner", description="Scores each coin by its 1h candles, whenever they refresh."
    )
    parser.add_argument("--once", action="store_true", help="print the scores once and end")
    program.run(main, parser)
