"""What the TA service writes to Redis."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import redis

from consumers.market_cache import MarketCache, Update, now_ms
from consumers.ta_service import (
    SIGNALS_CHANNEL,
    State,
    TaService,
    indicators_key,
    state_key,
)
from redis_log import read_log
from tests.candles import FALLING, RISING, put_candles
from tests.support import RedisServer, lose_an_answer


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client


def service(client: redis.Redis) -> TaService:
    return TaService(MarketCache(client, "ta-service"))


def signals(client: redis.Redis) -> list[str]:
    """The summaries of all signals, oldest first."""
    return [entry["summary"] for entry in reversed(read_log(client, 1000, "signal"))]


def refreshed(symbols: list[str], timeframe: str = "1h") -> Update:
    return Update(timeframe, symbols, [], 1, 1)


class TestTurn:
    def test_writes_indicators_of_closed_candles_and_tells(self, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", [*RISING, RISING[-1]._replace(close=1.0)], ttl_s=300)
        put_candles(client, "BUSDT", "5m", RISING, ttl_s=7)
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.psubscribe("ta:update:*")
        heard.get_message(timeout=1)
        service(client).turn(None)
        written = json.loads(client.get(indicators_key("AUSDT", "1h")))
        assert written["close"] == RISING[-1].close  # not that of the forming candle
        assert written["ribbon"]["state"] == "up"
        assert 295 < client.ttl(indicators_key("AUSDT", "1h")) <= 300
        assert 5 < client.ttl(indicators_key("BUSDT", "5m")) <= 7  # no longer than its candles
        told = [json.loads(heard.get_message(timeout=2)["data"]) for _ in range(2)]
        assert [each["timeframe"] for each in told] == ["5m", "1h"]
        assert told[1]["symbols"] == ["AUSDT"]
        assert signals(client) == []  # nothing to compare with yet
        assert {entry["source"] for entry in read_log(client)} == {"ta-service"}

    def test_a_signal_when_a_state_changes_and_only_then(
        self, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(SIGNALS_CHANNEL)
        heard.get_message(timeout=1)
        running = service(client)
        put_candles(client, "AUSDT", "1h", FALLING, age=1)
        running.turn(refreshed(["AUSDT"]))
        state = State(**json.loads(client.get(state_key("AUSDT", "1h"))))
        assert state.ribbon == "down"
        put_candles(client, "AUSDT", "1h", RISING)
        rows = json.loads(client.get("market:ohlcv:AUSDT:1h"))
        running.turn(refreshed(["AUSDT"]))
        running.turn(refreshed(["AUSDT"]))
        assert len(signals(client)) == len(set(signals(client))) >= 1
        assert signals(client)[0] == f"AUSDT 1h ribbon_up at {RISING[-2].close!r}"
        signal = json.loads(heard.get_message(timeout=2)["data"])
        assert signal["signal"] == "ribbon_up" and signal["price"] == RISING[-2].close
        assert signal["candle"] == rows[-2]["timestamp"]
        assert signal["previous_candle"] == state.candle
        assert 'event=signal what="AUSDT 1h ribbon_up' in caplog.text
        [entry] = [e for e in read_log(client, 100, "signal") if "ribbon" in e["summary"]]
        assert (entry["channel"], entry["source"]) == (SIGNALS_CHANNEL, "ta-service")

    def test_a_closed_candle_that_is_revised_is_judged_once(self, client: Any) -> None:
        running = service(client)
        put_candles(client, "AUSDT", "1h", FALLING)
        running.turn(refreshed(["AUSDT"]))
        put_candles(client, "AUSDT", "1h", RISING)
        running.turn(refreshed(["AUSDT"]))
        assert signals(client) == []
        written = json.loads(client.get(indicators_key("AUSDT", "1h")))
        assert written["ribbon"]["state"] == "up"  # but the indicators are of the current candles

    def test_a_restart_repeats_no_signal_and_tells_what_came_meanwhile(self, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", RISING)
        state = State(1, "down", None, None)
        client.set(state_key("AUSDT", "1h"), json.dumps(state._asdict()), ex=60)
        service(client).turn(None)
        assert len(signals(client)) == 1 and "ribbon_up" in signals(client)[0]
        for _ in range(3):
            service(client).turn(None)
        assert len(signals(client)) == 1

    def test_a_transaction_that_failed_is_done_again_once(
        self, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worst kind of failure: it was executed, but the answer was lost."""
        running = service(client)
        put_candles(client, "AUSDT", "1h", RISING)
        before = json.dumps(State(1, "down", None, None)._asdict())
        client.set(state_key("AUSDT", "1h"), before, ex=60)
        lose_an_answer(monkeypatch, running._cache.logged, "signal")
        with pytest.raises(redis.TimeoutError):
            running.turn(refreshed(["AUSDT"]))
        running.turn(None)
        assert len(signals(client)) == 1

    def test_a_redis_that_was_emptied_swallows_no_signal(self, client: Any) -> None:
        running = service(client)
        put_candles(client, "AUSDT", "1h", FALLING[:-1], age=1)
        running.turn(refreshed(["AUSDT"]))
        client.flushall()
        put_candles(client, "AUSDT", "1h", RISING)
        running.turn(None)
        assert "ribbon_up" in signals(client)[0]

    def test_a_redis_restored_from_a_copy_repeats_no_signal(self, client: Any) -> None:
        running = service(client)
        put_candles(client, "AUSDT", "1h", FALLING, age=1)
        running.turn(refreshed(["AUSDT"]))
        copy = client.get(state_key("AUSDT", "1h"))
        put_candles(client, "AUSDT", "1h", RISING)
        running.turn(refreshed(["AUSDT"]))
        told = signals(client)
        assert told
        client.set(state_key("AUSDT", "1h"), copy, ex=60)
        running.turn(None)
        assert signals(client) == told

    def test_the_last_down_signal_is_remembered_for_traders(self, client: Any) -> None:
        running = service(client)
        put_candles(client, "AUSDT", "1h", RISING, age=1)
        running.turn(refreshed(["AUSDT"]))
        assert json.loads(client.get(state_key("AUSDT", "1h")))["last_down"] == 0
        put_candles(client, "AUSDT", "1h", FALLING)
        running.turn(refreshed(["AUSDT"]))
        last_down = json.loads(client.get(state_key("AUSDT", "1h")))["last_down"]
        assert abs(last_down - now_ms()) < 3000

    @pytest.mark.parametrize(
        "text",
        [
            '{"candle":1}',
            '{"candle":100000000000000000,"ribbon":"down","squeeze":null,"zone":null}',
            '{"candle":"x","ribbon":"down","squeeze":null,"zone":null}',
            '{"candle":1,"ribbon":"down","squeeze":null,"zone":null,"last_down":null}',
            "[" * 5000,
            "nonsense",
            "null",
        ],
    )
    def test_a_state_that_is_none_begins_anew(self, client: Any, text: str) -> None:
        put_candles(client, "AUSDT", "1h", RISING)
        client.set(state_key("AUSDT", "1h"), text, ex=60)
        service(client).turn(None)
        assert signals(client) == []
        assert json.loads(client.get(state_key("AUSDT", "1h")))["ribbon"] == "up"

    def test_one_candle_or_none_is_no_analysis(self, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", RISING[:1])
        service(client).turn(refreshed(["AUSDT", "BUSDT"]))
        assert client.keys("ta:*") == []

    def test_old_candles_of_a_symbol_that_failed_are_left_alone(self, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", RISING)
        service(client).turn(Update("1h", [], ["AUSDT"], 1, 1))
        assert client.keys("ta:*") == []
