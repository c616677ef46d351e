"""What the paper trader pays, and that each closed trade is in the stream exactly once."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from consumers.book import POSITIONS_KEY, TRADES_LOG_KEY, Book, ClosedTrade, Costs
from consumers.market_cache import MarketCache, now_ms
from consumers.paper_trader import LEADER_KEY, TRADES_CHANNEL, PaperTrader
from redis_log import Batch, connect
from tests.candles import put_price
from tests.service.test_paper_trader import FREE, TICK, log_of, signal, start
from tests.support import PATIENCE, RedisServer, lose_an_answer


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client


@pytest.fixture
def trader(client: redis.Redis) -> PaperTrader:
    return start(client)


def stream(client: Any) -> list[ClosedTrade]:
    """The closed trades in the stream, oldest first."""
    return [ClosedTrade.from_fields(fields) for _, fields in client.xrange(TRADES_LOG_KEY)]


def book(client: Any) -> Book:
    return Book.from_json(client.get(POSITIONS_KEY))


def round_trip(trader: PaperTrader, client: Any, symbol: str = "AUSDT") -> None:
    """Buy at 50 and sell at 60: a profit of 20 for the stake of 100."""
    put_price(client, symbol, 50.0)
    trader.turn(signal("ribbon_up", symbol))
    put_price(client, symbol, 60.0)
    trader.turn(signal("stoch_rsi_down", symbol))


class TestCosts:
    def test_a_fee_for_each_fill_at_a_price_that_is_worse(self, client: Any) -> None:
        """100 buys 0.990099 at 101, and for a fee of 1; they sell for 196.0396 at 198, and for a
        fee of 1.960396: 196.0396 - 100 - 2.960396 = 93.079208."""
        trader = start(client, Costs(fee_pct=1, slippage_pct=1))
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(TRADES_CHANNEL)
        heard.get_message(timeout=1)
        put_price(client, "AUSDT", 100.0)
        before = now_ms()
        trader.turn(signal("ribbon_up"))
        [position] = book(client).positions.values()
        assert position.price == pytest.approx(101) and position.fee == pytest.approx(1)
        assert position.quantity == pytest.approx(100 / 101)
        put_price(client, "AUSDT", 200.0)
        trader.turn(signal("stoch_rsi_down"))
        [trade] = stream(client)
        assert trade[:4] == ("AUSDT", "1h", "ribbon_up", "stoch_rsi_down")
        assert (trade.quantity, trade.entry_price) == (position.quantity, position.price)
        assert trade.exit_price == pytest.approx(198)
        assert trade.fees == pytest.approx(2.960396) and trade.profit == pytest.approx(93.079208)
        assert before <= trade.opened <= trade.closed <= now_ms()
        assert book(client).profit == trade.profit
        bought, sold = (json.loads(heard.get_message(timeout=2)["data"]) for _ in range(2))
        assert (bought["fee"], bought["profit"]) == (pytest.approx(1), None)
        assert (sold["fee"], sold["profit"]) == (pytest.approx(1.960396), trade.profit)

    def test_a_book_from_before_there_were_fees_goes_on(self, client: Any) -> None:
        old = {
            "positions": {
                "AUSDT": {
                    "timeframe": "1h",
                    "signal": "ribbon_up",
                    "quantity": 2.0,
                    "price": 50.0,
                    "opened": 1,
                    "exit_signal": "",
                }
            },
            "profit": 7.0,
            "trades": 5,
            "revision": 9,
        }
        client.set(POSITIONS_KEY, json.dumps(old))
        trader = start(client, Costs(fee_pct=1, slippage_pct=0))
        put_price(client, "AUSDT", 60.0)
        trader.turn(signal("ribbon_down"))
        [trade] = stream(client)
        assert trade.fees == pytest.approx(1.2)  # of the sale alone
        assert book(client) == Book({}, 7 + trade.profit, 6, 10)
        assert trade.profit == pytest.approx(20 - 1.2)


class TestOnce:
    def test_book_and_stream_change_in_one_transaction(
        self, trader: PaperTrader, client: Any
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        assert not client.exists(TRADES_LOG_KEY)
        seen: list[str] = []
        with client.monitor() as monitor:

            def watch() -> None:
                for each in monitor.listen():
                    seen.append(each["command"])
                    if each["command"] == "PING over":
                        return

            watcher = threading.Thread(target=watch)
            watcher.start()
            trader.turn(signal("ribbon_down"))
            client.execute_command("PING", "over")
            watcher.join(5 * PATIENCE)
        words = [" ".join(command.split()[:2]) for command in seen]
        first = words.index(f"SET {POSITIONS_KEY}")
        transaction = words[first : words.index("EXEC", first)]
        assert words[first - 1] == "MULTI"
        assert f"XADD {TRADES_LOG_KEY}" in transaction and "PUBLISH paper:trades" in transaction
        assert client.xlen(TRADES_LOG_KEY) == 1

    def test_a_sale_whose_answer_was_lost(
        self, trader: PaperTrader, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        lose_an_answer(monkeypatch, trader._cache.logged, "trade")
        with pytest.raises(redis.TimeoutError):
            trader.turn(signal("ribbon_down"))
        trader.turn(None)
        trader.turn(signal("ribbon_down"))
        assert len(stream(client)) == 1 and book(client).trades == 2

    def test_a_sale_that_was_not_sent(
        self, trader: PaperTrader, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))

        logged = trader._cache.logged
        send = logged.send

        def fail(batch: Batch, **fence: Any) -> None:
            if any(entry["type"] == "trade" for entry in batch.entries):
                raise redis.ConnectionError("gone")
            send(batch, **fence)

        monkeypatch.setattr(logged, "send", fail)
        with pytest.raises(redis.ConnectionError):
            trader.turn(signal("ribbon_down"))
        assert not client.exists(TRADES_LOG_KEY) and book(client).positions
        monkeypatch.undo()
        trader.turn(None)
        assert len(stream(client)) == 1 and not book(client).positions

    def test_of_two_traders_one_writes_it(self, trader: PaperTrader, client: Any) -> None:
        other = PaperTrader(MarketCache(client, "trader-bot"), 100, FREE)
        other.turn(None)
        for name, price in (("ribbon_up", 50.0), ("ribbon_down", 60.0)):
            put_price(client, "AUSDT", price)
            for each in (other, trader):
                each.turn(signal(name))
        assert [trade.profit for trade in stream(client)] == [20.0]

    def test_one_that_was_overtaken_writes_none(self, trader: PaperTrader, client: Any) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        other = start(client)  # it takes over; `trader` has not noticed
        trader.turn(signal("ribbon_down"))
        assert not client.exists(TRADES_LOG_KEY) and book(client).trades == 1
        other.turn(signal("ribbon_down"))
        client.delete(LEADER_KEY)
        trader.turn(None)
        trader.turn(signal("ribbon_down"))
        assert len(stream(client)) == 1

    @pytest.mark.parametrize(
        "lose",
        [
            lambda client: client.flushall(),
            lambda client: client.delete(POSITIONS_KEY),
            lambda client: client.delete(TRADES_LOG_KEY),
            lambda client: client.xtrim(TRADES_LOG_KEY, maxlen=1, approximate=False),
        ],
        ids=["all", "the book", "the stream", "a part of the stream"],
    )
    def test_what_redis_lost_is_added_again(
        self, trader: PaperTrader, client: Any, lose: Callable[[Any], None]
    ) -> None:
        for symbol in ("AUSDT", "BUSDT"):
            round_trip(trader, client, symbol)
        before = stream(client)
        lose(client)
        trader.turn(None)  # as after a failure of Redis
        trader.turn(None)
        assert sorted(stream(client)) == before and len(before) == 2
        assert book(client).profit == 40.0

    def test_a_redis_restored_from_a_copy(self, trader: PaperTrader, client: Any) -> None:
        round_trip(trader, client)
        copies = client.get(POSITIONS_KEY), client.dump(TRADES_LOG_KEY)
        round_trip(trader, client, "BUSDT")
        client.set(POSITIONS_KEY, copies[0])
        client.restore(TRADES_LOG_KEY, 0, copies[1], replace=True)
        trader.turn(None)
        assert [trade.symbol for trade in stream(client)] == ["AUSDT", "BUSDT"]
        assert book(client).profit == 40.0


class TestRefusedStream:
    """The book is what counts: the trade is made, and added to the stream once that works."""

    def test_another_type_of_key(
        self, trader: PaperTrader, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        client.set(TRADES_LOG_KEY, "no stream")
        round_trip(trader, client)
        round_trip(trader, client, "BUSDT")
        assert book(client).profit == 40.0 and book(client).trades == 4
        assert caplog.text.count("event=trades_log_refused") == 1
        [said] = log_of(client, "error")
        assert said.startswith("closed trades cannot be added: ") and "WRONGTYPE" in said
        assert len(log_of(client, "trade")) == 4
        assert client.get(TRADES_LOG_KEY) == "no stream"
        client.rename(TRADES_LOG_KEY, "elsewhere")
        trader.turn(TICK)
        round_trip(trader, client, "CUSDT")
        assert [trade.symbol for trade in stream(client)] == ["AUSDT", "BUSDT", "CUSDT"]
        assert "event=trades_added_again trades=2" in caplog.text

    def test_no_permission(
        self, redis_server: RedisServer, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        rules = ["on", ">secret", "+@all", "allchannels", "allkeys"]
        client.execute_command("ACL", "SETUSER", "bot", *rules)
        mine = connect(redis_server.url.replace("//", "//bot:secret@"))
        trader = start(mine)
        client.execute_command("ACL", "SETUSER", "bot", "resetkeys", "%R~*", "~paper:p*")
        client.execute_command("ACL", "SETUSER", "bot", "~paper:leader*", "~redis:*")
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        trader.turn(signal("ribbon_down"))
        assert book(client) == Book({}, 0.0, 2, 2)
        assert not client.exists(TRADES_LOG_KEY)
        assert caplog.text.count("event=trade ") == 2
        assert "event=trades_log_refused" in caplog.text
        client.execute_command("ACL", "SETUSER", "bot", "allkeys")
        trader.turn(TICK)
        assert [trade.symbol for trade in stream(client)] == ["AUSDT"]

    def test_a_full_redis_takes_no_trade_at_all(self, trader: PaperTrader, client: Any) -> None:
        put_price(client, "AUSDT", 50.0)
        trader.turn(signal("ribbon_up"))
        client.config_set("maxmemory", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            trader.turn(signal("ribbon_down"))
        assert book(client).positions and not client.exists(TRADES_LOG_KEY)
        client.config_set("maxmemory", "0")
        trader.turn(None)
        assert len(stream(client)) == 1 and not book(client).positions
