"""How the paper trader acts on signals, and that its book survives failures."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import redis

from consumers.book import POSITIONS_KEY, Book, Costs, Position
from consumers.market_cache import MarketCache, now_ms, timeframe_ms, update_channel
from consumers.paper_trader import LEADER_KEY, TRADES_CHANNEL, PaperTrader
from consumers.program import Failure
from consumers.ta_service import SIGNALS_CHANNEL, Signal, State, state_key
from redis_log import read_log
from tests.candles import put_price, update
from tests.support import RedisServer, lose_an_answer

TICK = (update_channel("5m"), "{}")
FREE = Costs(fee_pct=0, slippage_pct=0)


def signal(
    name: str, symbol: str = "AUSDT", timeframe: str = "1h", age_s: float = 0, candles: int = 1
) -> Any:
    """A signal that is `age_s` old, of a change within `candles` candles."""
    length = candles * timeframe_ms(timeframe)
    made = Signal(symbol, timeframe, name, 1.0, length, 0, now_ms() - int(age_s * 1000))
    return SIGNALS_CHANNEL, json.dumps(made._asdict())


POSITION = {
    "timeframe": "1h",
    "signal": "ribbon_up",
    "quantity": 2.0,
    "price": 50.0,
    "opened": 1,
    "exit_signal": "",
}


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client


@pytest.fixture
def trader(client: redis.Redis) -> PaperTrader:
    return start(client)


def start(client: redis.Redis, costs: Costs = FREE) -> PaperTrader:
    """Start a trader that leads; any previous one is dead, and its lease has expired."""
    client.delete(LEADER_KEY)
    trader = PaperTrader(MarketCache(client, "trader-bot"), 100, costs)
    trader.turn(None)
    return trader


def book(client: Any) -> dict[str, Any]:
    """The trader's book without its revision."""
    body = json.loads(client.get(POSITIONS_KEY) or '{"positions":{},"profit":0.0,"trades":0}')
    return {name: value for name, value in body.items() if name != "revision"}


def log_of(client: redis.Redis, *types: str) -> list[str]:
    """The summaries of entries of these types, oldest first."""
    entries = reversed(read_log(client, 1000))
    return [entry["summary"] for entry in entries if entry["type"] in types]


class TestTrades:
    def test_buys_and_sells_for_the_stake(
        self, trader: PaperTrader, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(TRADES_CHANNEL)
        heard.get_message(timeout=1)
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        [position] = book(client)["positions"].values()
        assert (position["quantity"], position["price"]) == (2.0, 50.0)
        assert client.ttl(POSITIONS_KEY) == -1
        put_price(client, "AUSDT", 60.0)
        trader.turn(signal("stoch_rsi_down"))
        assert book(client) == {"positions": {}, "profit": 20.0, "trades": 2}
        bought, sold = (json.loads(heard.get_message(timeout=2)["data"]) for _ in range(2))
        assert (bought["action"], bought["price"], bought["profit"]) == ("buy", 50.0, None)
        assert (sold["action"], sold["signal"], sold["profit"]) == ("sell", "stoch_rsi_down", 20.0)
        assert log_of(client, "trade") == [
            "buy 2 AUSDT at 50 on ribbon_up",
            "sell 2 AUSDT at 60 on stoch_rsi_down, profit +20.00",
        ]
        assert {entry["source"] for entry in read_log(client)} == {"trader-bot"}
        assert caplog.text.count("event=trade") == 2

    def test_a_position_a_symbol(self, trader: PaperTrader, client: Any) -> None:
        for symbol in ("AUSDT", "BUSDT"):
            put_price(client, symbol, 50.0)
            trader.turn(signal("ribbon_up", symbol))
            trader.turn(signal("squeeze_up", symbol, "5m"))
        assert sorted(book(client)["positions"]) == ["AUSDT", "BUSDT"]
        assert book(client)["trades"] == 2

    def test_only_the_timeframe_that_bought_sells(self, trader: PaperTrader, client: Any) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up", timeframe="4h"))
        trader.turn(signal("ribbon_down", timeframe="5m"))
        assert book(client)["positions"]
        trader.turn(signal("ribbon_down", timeframe="4h"))
        assert not book(client)["positions"]

    def test_a_down_signal_without_a_position_is_nothing(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_down"))
        assert log_of(client, "trade", "error") == [] and not client.exists(POSITIONS_KEY)


class TestRefusals:
    def test_does_not_buy_without_a_price(self, trader: PaperTrader, client: Any) -> None:
        trader.turn(signal("ribbon_up"))
        assert log_of(client, "trade", "error") == [
            "nothing fresh in market:price:AUSDT: not bought on ribbon_up"
        ]
        put_price(client, "AUSDT", 50.0)
        trader.turn(TICK)
        assert book(client)["positions"] == {}  # the moment has passed

    def test_sells_once_there_is_a_price_again(self, trader: PaperTrader, client: Any) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        client.delete("market:price:AUSDT")
        trader.turn(signal("ribbon_down"))
        trader.turn(TICK)
        assert book(client)["positions"]["AUSDT"]["exit_signal"] == "ribbon_down"
        assert log_of(client, "error") == [
            "nothing fresh in market:price:AUSDT: to be sold once there is a price"
        ]
        put_price(client, "AUSDT", 40.0)
        start(client)  # another process, after a restart
        assert book(client) == {"positions": {}, "profit": -20.0, "trades": 2}

    def test_says_that_a_sale_waits_also_after_another_trader_made_the_last_one(
        self, trader: PaperTrader, client: Any
    ) -> None:
        for _ in range(2):
            client.delete(LEADER_KEY)
            trader.turn(None)
            put_price(client, "AUSDT", 50.0)
            trader.turn(signal("ribbon_up"))
            client.delete("market:price:AUSDT")
            trader.turn(signal("ribbon_down"))
            put_price(client, "AUSDT", 50.0)
            start(client)
        assert len(log_of(client, "error")) == 2

    def test_does_not_buy_on_an_old_signal_but_sells_on_one(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up", age_s=75))
        assert log_of(client, "trade", "error") == ["ribbon_up is 75 s old: not bought"]
        trader.turn(signal("ribbon_up"))
        trader.turn(signal("ribbon_down", age_s=75))
        assert book(client)["trades"] == 2

    def test_does_not_buy_on_one_from_the_future(self, trader: PaperTrader, client: Any) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up", age_s=-60))
        assert book(client)["trades"] == 0
        trader.turn(signal("ribbon_up", age_s=-2))  # from a clock that is slightly ahead
        assert book(client)["trades"] == 1

    def test_does_not_buy_on_what_came_some_time_ago(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up", candles=23))
        assert log_of(client, "trade", "error") == ["ribbon_up came within 23 candles: not bought"]
        trader.turn(signal("ribbon_up", candles=2))
        trader.turn(signal("ribbon_down", candles=23))
        assert book(client)["trades"] == 2

    @pytest.mark.parametrize(
        "payload",
        [
            "",
            "nonsense",
            "[]",
            "{}",
            "1",
            '{"symbol":"AUSDT"}',
            json.dumps(Signal("AUSDT", "1h", "sideways", 1.0, 1, 0, 1)._asdict()),
            json.dumps(Signal("A:*", "1h", "ribbon_up", 1.0, 1, 0, 1)._asdict()),
            json.dumps(Signal("AUSDT", "1h", "ribbon_up", 1.0, 1, 0, "now")._asdict()),  # type: ignore[arg-type]
            json.dumps(Signal("AUSDT", "1h", "ribbon_up", 1.0, 1, 0, 10**400)._asdict()),
            "[" * 5000,
            json.dumps(Signal(7, "1h", "ribbon_up", 1.0, 1, 0, 1)._asdict()),
        ],  # type: ignore[arg-type]
    )
    def test_what_is_no_signal_is_passed_over(
        self, trader: PaperTrader, client: Any, payload: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn((SIGNALS_CHANNEL, payload))
        assert not client.exists(POSITIONS_KEY)
        assert "event=bad_signal" in caplog.text


class TestBook:
    def test_a_restart_goes_on_with_it(self, trader: PaperTrader, client: Any) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        again = start(client)
        again.turn(signal("ribbon_up"))
        assert book(client)["trades"] == 1
        again.turn(signal("ribbon_down"))
        assert book(client)["trades"] == 2

    def test_a_redis_that_came_back_empty_gets_it_back(
        self, trader: PaperTrader, redis_server: RedisServer, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        before = book(client)
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            trader.turn(signal("ribbon_down"))
        redis_server.start()
        put_price(client, "AUSDT", 60.0)
        trader.turn(None)  # as after a failure of Redis
        assert before["positions"]["AUSDT"]["quantity"] == 2
        assert book(client) == {"positions": {}, "profit": 20.0, "trades": 2}

    def test_a_trade_whose_answer_was_lost_is_not_done_twice(
        self, trader: PaperTrader, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        lose_an_answer(monkeypatch, trader._cache.logged, "trade")
        with pytest.raises(redis.TimeoutError):
            trader.turn(signal("ribbon_up"))
        trader.turn(signal("squeeze_up"))  # received together with the first, so no None in between
        assert book(client)["trades"] == 1

    def test_a_redis_restored_from_a_copy_undoes_no_trade(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        copy = client.get(POSITIONS_KEY)
        put_price(client, "AUSDT", 60.0)
        trader.turn(signal("ribbon_down"))
        client.set(POSITIONS_KEY, copy)
        trader.turn(None)
        assert book(client) == {"positions": {}, "profit": 20.0, "trades": 2}

    @pytest.mark.parametrize("away", ["a moment", "a restart"])
    def test_a_down_signal_while_it_was_away_sells(
        self, trader: PaperTrader, client: Any, away: str
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        state = State(1, None, None, None, last_down=now_ms() + 1)
        client.set(state_key("AUSDT", "4h"), json.dumps(state._asdict()), ex=60)
        trader.turn(None)
        assert book(client)["trades"] == 1  # it was of another timeframe
        client.set(state_key("AUSDT", "1h"), json.dumps(state._asdict()), ex=60)
        if away == "a restart":
            start(client)
        else:
            trader.turn(None)
        assert book(client) == {"positions": {}, "profit": 0.0, "trades": 2}
        assert log_of(client, "trade")[-1].endswith("on missed_down, profit +0.00")

    def test_a_down_signal_before_it_bought_sells_nothing(
        self, trader: PaperTrader, client: Any
    ) -> None:
        state = State(1, None, None, None, last_down=now_ms() - 1)
        client.set(state_key("AUSDT", "1h"), json.dumps(state._asdict()), ex=60)
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        trader.turn(None)
        assert book(client)["trades"] == 1

    def test_another_type_of_key_in_its_place_ends_it_and_is_kept(self, client: Any) -> None:
        client.hset(POSITIONS_KEY, "a", "b")
        with pytest.raises(Failure, match="another type of key"):
            start(client)
        assert client.hgetall(POSITIONS_KEY) == {"a": "b"}

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 5000,
            '{"positions":{},"profit":null}',
            '{"positions":{},"trades":"1"}',
            "nonsense",
            "[]",
            "{}",
            '{"positions":[]}',
            '{"positions":{"A":{}}}',
            '{"positions":{},"gain":1}',
            '{"positions":{},"revision":-1}',
            '{"positions":{},"profit":true}',
            *(
                json.dumps({"positions": {symbol: POSITION | changes}})
                for symbol, changes in [
                    ("BTC<script>", {}),
                    ("A", {}),
                    ("AUSDT", {"timeframe": "5"}),
                    ("AUSDT", {"timeframe": 5}),
                    ("AUSDT", {"signal": "up"}),
                    ("AUSDT", {"exit_signal": None}),
                    ("AUSDT", {"quantity": "2.0"}),
                    ("AUSDT", {"quantity": True}),
                    ("AUSDT", {"quantity": 1e30}),
                    ("AUSDT", {"price": 0}),
                    ("AUSDT", {"fee": -1.0}),
                    ("AUSDT", {"fee": "0"}),
                    ("AUSDT", {"opened": None}),
                    ("AUSDT", {"opened": 1.5}),
                    ("AUSDT", {"opened": 10**17}),
                ]
            ),
        ],
    )
    def test_something_else_in_its_place_ends_it_and_is_kept(self, client: Any, text: str) -> None:
        client.set(POSITIONS_KEY, text)
        with pytest.raises(Failure, match=r"redis-cli rename paper:positions"):
            start(client)
        assert client.get(POSITIONS_KEY) == text

    def test_json_and_back(self) -> None:
        position = Position("1h", "ribbon_up", 2.0, 50.0, 1)
        made = Book().changed("AUSDT", position)
        text = '{"positions":{"AUSDT":{"timeframe":"1h","signal":"ribbon_up","quantity":2.0,'
        text += '"price":50.0,"opened":1,"exit_signal":"","fee":0.0}},'
        text += '"profit":0.0,"trades":0,"revision":1}'
        assert Book.from_json(text) == made
        assert made.changed("AUSDT", None, trades=2) == Book({}, 0.0, 2, 2)


class TestBookIsKept:
    def test_a_book_that_redis_lost_without_a_failure_is_written_again(
        self, trader: PaperTrader, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        before = client.get(POSITIONS_KEY)
        for lose in (lambda: client.delete(POSITIONS_KEY), client.flushall):
            lose()
            trader.turn(("market:update:5m", update(["AUSDT"])))
            assert client.get(POSITIONS_KEY) == before
        assert "event=positions_lost positions=1" in caplog.text


class TestTwoTraders:
    def test_only_one_buys_and_the_other_stands_by(
        self, trader: PaperTrader, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "coinex")
        other = PaperTrader(MarketCache(client, "trader-bot"), 100, FREE)
        other.turn(None)
        put_price(client, "AUSDT", 50.0)
        for each in (other, trader):
            each.turn(signal("ribbon_up"))
        assert book(client)["trades"] == 1 and len(log_of(client, "trade")) == 1
        assert f"event=standby leader={client.get(LEADER_KEY)}" in caplog.messages

    def test_one_that_was_overtaken_in_the_middle_of_a_trade_trades_nothing(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        other = start(client)  # it takes over; `trader` has not noticed
        other.turn(signal("ribbon_up"))
        trader.turn(signal("ribbon_up"))
        assert book(client)["trades"] == 1 and len(log_of(client, "trade")) == 1

    @pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
    def test_one_that_was_overtaken_and_leads_again_reads_the_book_again(
        self, trader: PaperTrader, client: Any, monkeypatch: pytest.MonkeyPatch, sent: bool
    ) -> None:
        """The thread that renews the lease has a new term before, or just after, a trade of the
        main thread is sent: what the other one traded meanwhile is neither lost nor done twice."""
        logged = trader._cache.logged
        send = logged.send

        def overtaken(batch: Any, **fence: Any) -> None:
            monkeypatch.undo()
            if sent:
                send(batch, **fence)
            client.delete(LEADER_KEY)
            other = PaperTrader(MarketCache(client, "trader-bot"), 100, FREE)
            other.turn(None)
            other.turn(signal("ribbon_up", "BUSDT"))
            client.delete(LEADER_KEY)
            trader._lease.claim()
            if not sent:
                send(batch, **fence)

        for symbol in ("AUSDT", "BUSDT", "CUSDT"):
            put_price(client, symbol, 50.0)
        monkeypatch.setattr(logged, "send", overtaken)
        trader.turn(signal("ribbon_up", "AUSDT"))
        trader.turn(signal("ribbon_up", "CUSDT"))
        assert set(book(client)["positions"]) == {"AUSDT", "BUSDT", "CUSDT"}
        assert book(client)["trades"] == len(log_of(client, "trade")) == 3

    def test_who_takes_over_sells_what_the_other_bought(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        other = PaperTrader(MarketCache(client, "trader-bot"), 100, FREE)
        other.turn(None)
        trader.turn(signal("ribbon_up"))
        client.delete(LEADER_KEY)  # the lease of `trader`, which died, has expired
        other.turn(None)
        other.turn(signal("ribbon_down"))
        assert book(client) == {"positions": {}, "profit": 0.0, "trades": 2}
        trader.turn(signal("ribbon_up"))  # it was not dead, only suspended
        assert book(client)["trades"] == 2

    def test_a_redis_that_lost_its_data_gets_the_book_back_and_the_trade(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        client.flushall()
        put_price(client, "AUSDT", 60.0)
        trader.turn(signal("ribbon_down"))
        assert book(client) == {"positions": {}, "profit": 20.0, "trades": 2}
