"""Extrapolates the counts of a window of minutes to an hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.programs import LIMIT, SYMBOLS, Run


def refreshes_an_hour(runs: Iterable[Run]) -> Counter[str]:
    """How often each timeframe is refreshed, by all `runs` together."""
    found: Counter[str] = Counter()
    for run in runs:
        for name, (every_s, _) in run.schedule.items():
            found[name] += 3600 // every_s
    return found


@dataclass(frozen=True)
class Kind:
    """Requests of a kind in a window, and the bytes of their answers."""

    requests: int
    sent: int


def kinds_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Kind]:
    """What the exchange answered between two readings of its totals, by "path timeframe limit"."""
    found: dict[str, Kind] = {}
    for name, (requests, sent) in after["kinds"].items():
        had = before.get("kinds", {}).get(name, (0, 0))
        if requests > had[0]:
            found[name] = Kind(requests - had[0], sent - had[1])
    return found


def refreshes_seen(kinds: Mapping[str, Kind], symbols: int = SYMBOLS) -> Counter[str]:
    """The number of refreshes of each timeframe, derived from the requests for candles."""
    candles: Counter[str] = Counter()
    for name, kind in kinds.items():
        if name.startswith("klines "):
            candles[name.split()[1]] += kind.requests
    return Counter({name: max(1, round(count / symbols)) for name, count in candles.items()})


def an_hour(
    kinds: Mapping[str, Kind], hourly: Mapping[str, int], symbols: int = SYMBOLS
) -> tuple[float, float]:
    """Requests and bytes in an hour, from those of a window and the `refreshes_an_hour`.

    A refresh of a timeframe costs what it cost in the window; tickers belong to the timeframe that
    refreshes most often. So the window need not be a multiple of all intervals.
    """
    seen = refreshes_seen(kinds, symbols)
    often = max(hourly, key=lambda name: hourly[name])
    requests = sent = 0.0
    for name, kind in kinds.items():
        timeframe = name.split()[1] if name.startswith("klines ") else often
        times = hourly[timeframe] / max(1, seen[timeframe])
        requests, sent = requests + kind.requests * times, sent + kind.sent * times
    return requests, sent


def hourly_extras(first: Mapping[str, Kind], kinds: Mapping[str, Kind]) -> tuple[float, float]:
    """Requests and bytes that the service needs once an hour, which no window of minutes shows.

    It reads each series whole instead of its newest candles, and lists the symbols. `first` has the
    requests before the window: the first fill, which read the same.
    """
    requests = sent = 0.0
    for name, kind in first.items():
        if name.startswith("exchangeInfo"):
            requests, sent = requests + 1, sent + kind.sent / kind.requests
        elif name.startswith("klines ") and name.endswith(f" {LIMIT}"):
            timeframe = name.split()[1]
            usual = [k for other, k in kinds.items() if other.startswith(f"klines {timeframe} ")]
            newest = sum(k.sent for k in usual) / max(1, sum(k.requests for k in usual))
            sent += SYMBOLS * (kind.sent / kind.requests - newest)
    return requests, sent


def refresh_lines(log: str) -> Iterator[tuple[float, dict[str, str]]]:
    """The lines of refreshes and skipped ticks in a log of the service, with epoch seconds."""
    for line in log.splitlines():
        said = dict(part.partition("=")[::2] for part in line.split())
        if said.get("event") in ("refresh", "ticks_skipped"):
            yield datetime.fromisoformat(said["time"]).timestamp(), said
