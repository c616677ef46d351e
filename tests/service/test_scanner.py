"""The scanner on a real Redis, and its command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from consumers import scanner
from consumers.market_cache import MarketCache, Update
from consumers.scanner import Scanner, score_key
from redis_log import read_log
from tests.candles import from_closes, put_candles, walk
from tests.support import ENVIRON, ROOT, RedisServer


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

    def test_a_score_is_as_old_as_the_update_of_its_candles(
        self, redis_server: RedisServer
    ) -> None:
        client: Any = redis_server.client
        for symbol in ("AUSDT", "BUSDT"):
            put_candles(client, symbol, "1h", walk(100))
        running = Scanner(MarketCache(client, "dashboard"))
        running.turn(None)
        client.set(score_key("AUSDT"), "as it was", keepttl=True)
        for updated in (["BUSDT"], []):
            rows, _ = running.turn(Update("1h", updated, ["AUSDT"], 1, 1))
            assert sorted(rows) == ["AUSDT", "BUSDT"]
            assert client.get(score_key("AUSDT")) == "as it was"


class TestCommand:
    @staticmethod
    def once(redis_server: RedisServer) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "consumers.scanner", "--once"],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=30,
            env={**ENVIRON, "REDIS_URL": redis_server.url},
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
