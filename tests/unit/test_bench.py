"""The arithmetic of the benchmark: percentiles, an hour from a window, turns, tables and bars."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.__main__ import COMBINED_S, EARLIEST_S, LATEST_S, PREPARE_S, steady_start
from bench.contenders import Job, candles_json
from bench.freshness import delays_s, newest_ms
from bench.hour import Kind, an_hour, hourly_extras, kinds_between, refresh_lines, refreshes_an_hour
from bench.measure import Counts, _Connection, percentile
from bench.phases import spans
from bench.programs import BEFORE, SERVICE


def test_percentile() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 2, 3, 3]
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7.0], 0.5) == 7


def test_refreshes_an_hour() -> None:
    assert refreshes_an_hour(SERVICE.runs()) == {"5m": 120, "1h": 30, "4h": 12}
    assert refreshes_an_hour(BEFORE.runs()) == {"5m": 60, "1h": 180, "4h": 60}


def test_an_hour_does_not_depend_on_what_part_of_the_schedule_was_seen() -> None:
    hourly = {"5m": 120, "1h": 30, "4h": 12}
    for refreshes_1h in (2, 3):  # a window of 300 s has either number
        kinds = {
            "klines 5m 3": Kind(290, 2900),
            "ticker/24hr": Kind(20, 4000),
            "klines 1h 3": Kind(29 * refreshes_1h, 580 * refreshes_1h),
            "klines 4h 3": Kind(29, 290),
        }
        requests = 29 * (120 + 30 + 12) + 2 * 120
        assert an_hour(kinds, hourly) == (requests, 12 * 2900 + 12 * 4000 + 30 * 580 + 12 * 290)


def test_the_hourly_reading_whole_is_in_place_of_a_usual_one() -> None:
    first = {
        "klines 5m 500": Kind(29, 29_000),
        "exchangeInfo": Kind(1, 700),
        "klines 5m 3": Kind(29, 290),
        "ticker/24hr": Kind(2, 100),
    }
    assert hourly_extras(first, {"klines 5m 3": Kind(58, 580)}) == (1, 700 + 29 * (1000 - 10))


def test_kinds_between() -> None:
    before = {"kinds": {"a": [1, 10], "b": [2, 20]}}
    after = {"kinds": {"a": [4, 50], "b": [2, 20], "c": [1, 5]}}
    assert kinds_between(before, after) == {"a": Kind(3, 40), "c": Kind(1, 5)}


def test_spans_are_from_the_first_request_to_the_publish() -> None:
    assert spans([0.9, 2.0, 2.1, 4.5, 4.6], [1.0, 2.5, 5.0]) == pytest.approx([0.5, 0.5])


def test_lines_of_the_services_log() -> None:
    log = (
        "time=2026-11-24T03:07:30.571Z level=info event=refresh timeframe=5m failed=2\n"
        'time=2026-11-24T03:07:30.571Z level=info event=problem what=exchange reason="on hold"\n'
    )
    [(at, said)] = refresh_lines(log)
    assert (at, said["failed"]) == (1795489650.571, "2")


def test_delays_of_each_close_since() -> None:
    series = b'[{"timestamp":1795489500000,"open":1},{"timestamp":1795489560000,"open":1}]'
    assert newest_ms(series) == 1795489560000
    assert (newest_ms(None), newest_ms(b"[]")) == (0, 0)
    assert delays_s(60_000, 60_000, 99.0) == []
    assert delays_s(60_000, 180_000, 180.5) == pytest.approx([60.5, 0.5])


def resp(*words: str) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def test_turns_of_a_connection() -> None:
    counts = Counts()
    connection = _Connection(counts)
    for sent, received in (
        (resp("EVAL", "return 1", "1", "market:leader"), b":1\r\n"),  # not part of a refresh
        (resp("WATCH", "k"), b"+OK\r\n"),
        (resp("GET", "k"), b"$1\r\nv\r\n"),
        (resp("MULTI") + resp("SET", "a", "1"), b"+OK\r\n+QUEUED\r\n"),  # answers come early
        (resp("PUBLISH", "c", "1") + resp("EXEC")[:5], b"+QUEUED\r\n"),
        (resp("EXEC")[5:], b"*2\r\n+OK\r\n:0\r\n"),
    ):
        connection.sent(sent)
        connection.received(received)
    assert counts.refreshes() == {"turns": 3, "commands": 6}


def test_candles_are_written_as_the_service_writes_them() -> None:
    row = [60_000, "1.50", "2.0", "1.0", "1.25", "7.0", 119_999, "1"]
    assert json.loads(candles_json([row])) == [
        {"timestamp": 60_000, "open": 1.5, "high": 2.0, "low": 1.0, "close": 1.25, "volume": 7.0}
    ]


def test_a_job_is_read_from_the_environment() -> None:
    job = Job.from_env(
        {
            "EXCHANGE_URL": "http://127.0.0.1:1",
            "REDIS_URL": "redis://127.0.0.1:2",
            "PREFIX": "x",
            "SYMBOLS": "BTCUSDT,ETHUSDT",
            "TIMEFRAMES": "5m:30:120,1h:120:300",
        }
    )
    assert (job.symbols, job.limit) == (("BTCUSDT", "ETHUSDT"), 500)
    assert [tuple(timeframe) for timeframe in job.timeframes] == [("5m", 30, 120), ("1h", 120, 300)]


def results() -> dict[str, Any]:
    """Figures of the service, of two contenders that need two and three times as much of
    everything, a quarter more of it over TLS, and of the service with more symbols."""
    keys = ("service", "aiohttp", "before")

    def steady(times: int) -> dict[str, float]:
        return {
            "requests_h": 100.0 * times,
            "weight_h": 100.0 * times,
            "bytes_h": 1e6 * times,
            "cpu_h_s": 30.0 * times,
            "peak_mb": 40.0 * times,
            "turns": times,
            "commands": 60.0 * times,
        }

    def alone(times: float) -> dict[str, Any]:
        return {
            key: {
                "fill_s": [1.0 * n * times, 1.2 * n * times],
                "peak_mb": [39.0 * times, 40.0 * times, 41.0 * times],
                "refresh_s": [0.1 * n * times],
                "refresh_cpu_s": 0.08 * n * times,
            }
            for n, key in enumerate(keys, 1)
        }

    growth = {
        "cpu_share": 0.1,
        "peak_mb": 80.0,
        "weight_min": 270.0,
        "requests_5min": 1350,
        "median_ms": {"5m": 200.0, "1h": 300.0, "4h": 400.0},
        "longest_ms": {"5m": 250, "1h": 350, "4h": 400},
        "failed": 0,
        "skipped": 0,
        "failed_at_start": 5,
        "refused": 0,
    }
    many = {"cpu_share": 0.3, "peak_mb": 200.0, "failed": 261, "skipped": 1, "refused": 2}
    return {
        "machine": "a machine",
        "log_ms": [10.0, 20.0],
        "rare_log_ms": [1.0, 2.0],
        "alone": {"plain": alone(1.0), "tls": alone(1.25)},
        "fresh": {key: [1.0 * n, 1.1 * n] for n, key in enumerate(keys, 1)},
        "steady": {key: steady(n) for n, key in enumerate(keys, 1)},
        "growth": {"100": growth, "350": growth | many},
        "local_api": {
            "paced": {"rate": 1500.0, "p50_ms": 1.0, "p99_ms": 4.0},
            "skipped": 0,
            "free": {"rate": 4000.0, "p50_ms": 9.0, "p99_ms": 30.0},
            "refreshes_ms": [90, 120],
        },
    }


def test_whenever_a_run_begins_all_timeframes_refresh_in_its_window() -> None:
    for now_s in range(COMBINED_S):
        start_at = steady_start(now_s + 0.5)
        assert start_at % 30 == 0
        assert PREPARE_S <= start_at - now_s <= 8 * 60  # else it would take over 15 minutes
        assert any(
            start_at + EARLIEST_S <= at <= start_at + LATEST_S
            for at in (COMBINED_S, 2 * COMBINED_S)
        )


def test_bars() -> None:
    bars = {bar.what: bar for bar in report.bars(results())}
    assert bars["cold fill, of the fastest other"].measured == pytest.approx(0.5)
    assert bars["freshness p99"].cells() == ["freshness p99", "≤ 1.2 s", "1.1 s", "met"]
    assert not bars["bytes an hour, of before"].met
    assert bars["refresh, of the fastest other"].wanted == 0.8
    assert bars["query of a full rare stream, p99"].measured == 2
    assert bars["peak memory"].cells() == ["peak memory", "≤ 65 MB", "40 MB", "met"]
    assert not report.Bar("unknown", 1, math.nan).met


def test_bars_over_tls() -> None:
    found = results()
    bars = [bar for bar in report.bars(found) if bar.what.startswith("over TLS")]
    assert [bar.cells() for bar in bars] == [
        ["over TLS: cold fill, of that without", "≤ 1.3", "1.25", "met"],
        ["over TLS: CPU of a refresh, of that without", "≤ 1.3", "1.25", "met"],
        ["over TLS: more peak memory", "≤ 5 MB", "10 MB", "**NOT met**"],
    ]


def test_bars_for_more_symbols_end_at_100() -> None:
    found = [bar for bar in report.bars(results()) if "symbols: " in bar.what]
    assert [bar.cells() for bar in found] == [
        ["100 symbols: peak memory", "≤ 90 MB", "80 MB", "met"],
        ["100 symbols: CPU, of a core", "≤ 15 %", "10 %", "met"],
        ["100 symbols: answers 429", "≤ 0", "0", "met"],
        ["100 symbols: refreshes skipped or symbols left out", "≤ 0", "0", "met"],
    ]


@pytest.mark.parametrize(
    ("worse", "missed", "measured"),
    [
        ({"peak_mb": 90.1}, "peak memory", 90.1),
        ({"cpu_share": 0.151}, "CPU, of a core", 15.1),
        ({"refused": 1}, "answers 429", 1),
        ({"failed": 3}, "refreshes skipped or symbols left out", 3),
        ({"skipped": 1}, "refreshes skipped or symbols left out", 1),
        ({"median_ms": {"5m": 200.0}}, "refreshes skipped or symbols left out", math.nan),
        ({"median_ms": {}, "failed": 3}, "refreshes skipped or symbols left out", 3),
    ],
    ids=["memory", "cpu", "429", "left-out", "skipped", "4h-not-seen", "left-out-and-4h-not-seen"],
)
def test_each_bar_for_100_symbols_can_be_missed(
    worse: dict[str, Any], missed: str, measured: float
) -> None:
    found = results()
    before = {bar.what for bar in report.bars(found) if not bar.met}
    found["growth"]["100"] |= worse
    bars = {bar.what: bar for bar in report.bars(found)}
    assert {what for what, bar in bars.items() if not bar.met} - before == {
        f"100 symbols: {missed}"
    }
    assert bars[f"100 symbols: {missed}"].measured == pytest.approx(measured, nan_ok=True)


def test_the_page_keeps_what_is_around_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_plots", lambda *_: None)
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{report.BEGIN}\nearlier figures\n{report.END}\n\nafter\n")
    for _ in range(2):
        report.write(results(), page)
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "earlier" not in text
        assert "| aiohttp, 100 connections | 2 | 2 |" in text
        assert "| this service | 1.10 (1.00 to 1.20) | 100 (100 to 100) |" in text
        assert "| aiohttp, 100 connections | 2.75 (2.50 to 3.00) | 1.25 | 200 | 1.25 |" in text
        assert (
            "| 100 | 270 | 1350 | 200 (to 250) | 300 (to 350) | 400 (to 400) | 0 | 5 | 0 |" in text
        )
        assert (
            "| 350 | 270 | 1350 | 200 (to 250) | 300 (to 350) | 400 (to 400) | 262 | 5 | 2 |"
            in text
        )
