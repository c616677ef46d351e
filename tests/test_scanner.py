"""Scores as pure functions, and what the scanner puts into Redis."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from consumers import indicators, scanner
from consumers.market_cache import MarketCache, Update
from consumers.scanner import Scanner, scan, score, score_key
from redis_log import read_log
from tests.candles import from_closes, put_candles, walk
from tests.conftest import ROOT, RedisServer


class TestScore:
    @pytest.mark.parametrize(
        ("rsi", "distance_pct", "place", "expected"),
        [
            (50, 0, 0.5, 0),
            (30, -3, 0, 100),
            (70, 3, 1, -100),
            (0, -50, -1, 100),
            (100, 50, 2, -100),
            (40, 0, 0.5, 17),
            (50, -1.5, 0.5, 17),
            (50, 0, 0.25, 17),
        ],
    )
    def test_the_mean_of_three_bounded_parts(
        self, rsi: float, distance_pct: float, place: float, expected: int
    ) -> None:
        assert score(rsi, distance_pct, place) == expected

    def test_a_coin_that_fell_scores_higher_than_one_that_rose(self) -> None:
        fell, rose = ([100 * step**n for n in range(60)] for step in (0.99, 1.01))
        assert scan(from_closes(fell))["score"] > 50 > -50 > scan(from_closes(rose))["score"]


class TestScan:
    def test_the_figures_are_those_of_the_indicators(self) -> None:
        candles = walk(300)
        row = scan(candles)
        assert row["rsi"] == indicators.rsi(candles)
        assert row["bands"] == indicators.bollinger(candles)._asdict()
        assert row["vwap_distance_pct"] == pytest.approx(
            100 * (candles[-1].close - row["vwap"]) / row["vwap"]
        )
        assert row["closes"] == [candle.close for candle in candles[-48:]]
        assert row["reasons"] == {}

    @pytest.mark.parametrize(
        "candles",
        [
            walk(1),
            walk(10),
            from_closes([5.0] * 300),
            from_closes([5.0] * 300, volume=0.0),
            from_closes([5.0] * 299 + [5e6]),
            from_closes([5.0] * 299 + [5e-6]),
        ],
        ids=["1", "10", "flat", "dead", "spike", "crash"],
    )
    def test_what_cannot_be_computed_is_null_with_the_reason(self, candles: Any) -> None:
        row = scan(candles)
        json.dumps(row, allow_nan=False)
        for name in ("rsi", "vwap", "bands", "score"):
            assert (row[name] is None) == (name in row["reasons"])
        assert row["vwap_distance_pct"] is None or math.isfinite(row["vwap_distance_pct"])

    def test_there_is_no_score_of_a_part(self) -> None:
        row = scan(walk(17))
        assert row["rsi"] is not None and row["bands"] is None and row["score"] is None
        assert row["reasons"]["score"] == "needs bands"


class TestScanner:
    def test_scores_live_as_long_as_their_candles(self, redis_server: RedisServer) -> None:
        client: Any = redis_server.client
        put_candles(client, "AUSDT", "1h", walk(100), ttl_s=300)
        put_candles(client, "BUSDT", "1h", walk(10), ttl_s=7)
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(scanner.UPDATE_CHANNEL)
        heard.get_message(timeout=1)
        rows, missing = Scanner(MarketCache(client, "dashboard")).turn(None)
        assert sorted(rows) == ["AUSDT", "BUSDT"] and missing == {}
        written = json.loads(client.get(score_key("AUSDT")))
        assert written["score"] == rows["AUSDT"]["score"]
        assert abs(written["timestamp"] - time.time() * 1000) < 3000
        assert 295 < client.ttl(score_key("AUSDT")) <= 300
        assert 5 < client.ttl(score_key("BUSDT")) <= 7
        assert json.loads(client.get(score_key("BUSDT")))["reasons"]["rsi"]
        assert heard.get_message(timeout=2)["channel"] == scanner.UPDATE_CHANNEL
        kinds = [(e["type"], e["source"], e["channel"]) for e in read_log(client)]
        assert kinds == [
            ("publish", "dashboard", "scanner:update"),
            ("cache_write", "dashboard", "scanner:score:BUSDT"),
            ("cache_write", "dashboard", "scanner:score:AUSDT"),
            ("cache_read", "dashboard", "market:ohlcv:*:1h"),
        ]

    def test_a_coin_that_was_seen_is_missed(self, redis_server: RedisServer) -> None:
        client = redis_server.client
        put_candles(client, "AUSDT", "1h", walk(100))
        put_candles(client, "BUSDT", "1h", walk(100))
        running = Scanner(MarketCache(client, "dashboard"))
        running.turn(None)
        client.delete("market:ohlcv:BUSDT:1h", score_key("BUSDT"))
        rows, missing = running.turn(Update("1h", ["AUSDT"], ["CUSDT"], 1, 1))
        assert list(rows) == ["AUSDT"] and sorted(missing) == ["BUSDT", "CUSDT"]
        assert not client.exists(score_key("BUSDT"))


class TestCommand:
    @staticmethod
    def once(redis_server: RedisServer) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "consumers.scanner", "--once"],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=30,
            env={"PATH": os.environ["PATH"], "REDIS_URL": redis_server.url},
        )

    def test_once_prints_the_highest_first(self, redis_server: RedisServer) -> None:
        put_candles(redis_server.client, "UPUSDT", "1h", from_closes(100 + n for n in range(60)))
        put_candles(redis_server.client, "DOWNUSDT", "1h", from_closes(200 - n for n in range(60)))
        put_candles(redis_server.client, "NEWUSDT", "1h", walk(3))
        done = self.once(redis_server)
        assert done.returncode == 0, done.stderr
        names = [line.split()[0] for line in done.stdout.splitlines()[1:]]
        assert names == ["DOWNUSDT", "UPUSDT", "NEWUSDT"]
        assert "rsi: needs 15 candles, has 3" in done.stdout

    def test_once_without_candles_or_redis(self, redis_server: RedisServer) -> None:
        done = self.once(redis_server)
        assert done.returncode == 1 and "no candles in Redis" in done.stdout
        redis_server.kill()
        done = self.once(redis_server)
        assert done.returncode == 1 and done.stderr.startswith("scanner: Redis: ")
        assert len(done.stderr.splitlines()) == 1
