"""/api/positions, /api/trades and /api/trades.csv over real sockets, on a real Redis."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from consumers import trades as trades_module
from consumers.book import POSITIONS_KEY, TRADES_LOG_KEY, Book, ClosedTrade, Costs, Position
from consumers.dashboard import Dashboard
from consumers.market_cache import ALIVE_KEY, now_ms, update_channel
from consumers.trades import Filter, TradesLog
from redis_log import DEFAULT_KEY
from tests.candles import put_price, update
from tests.service.test_dashboard import Serve, ask, dashboard_on, request
from tests.service.test_paper_trader import signal, start
from tests.support import RedisServer, until
from tests.trades import trade


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client


@pytest.fixture
def serve(redis_server: RedisServer) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *url: stack.enter_context(dashboard_on(redis_server.url, *url))


def add(client: Any, *closed: ClosedTrade) -> list[str]:
    """Add trades to the stream as the trader does; returns their ids."""
    return [client.xadd(TRADES_LOG_KEY, each.fields()) for each in closed]


def trades(server: Dashboard, query: str = "") -> Any:
    status, body = ask(server, f"/api/trades?{query}")
    assert status == 200, body
    return body


class TestPositions:
    def test_with_price_and_profit_while_the_price_is_fresh(
        self, serve: Serve, client: Any
    ) -> None:
        position = Position("1h", "ribbon_up", 2.0, 50.0, 1000, "ribbon_down", 0.1)
        other = Position("5m", "squeeze_up", 1.0, 10.0, 2000)
        book = Book({"AUSDT": position, "BUSDT": other}, 7.5, 4, 3)
        client.set(POSITIONS_KEY, book.json())
        put_price(client, "AUSDT", 53.0, ttl_s=3)
        server = serve()
        client.publish(update_channel("5m"), update(["AUSDT", "BUSDT"]))

        def positions() -> Any:
            return ask(server, "/api/positions")[1]

        until(lambda: positions()["positions"][1]["current_price"] == 53.0, 2)
        body = positions()
        assert (body["profit"], body["trades"], body["error"]) == (7.5, 4, "")
        assert abs(body["timestamp"] - now_ms()) < 60_000
        second, first = body["positions"]
        assert second["symbol"] == "BUSDT" and second["current_price"] is None
        assert second["unrealised_profit"] is None
        assert first["unrealised_profit"] == pytest.approx(5.9)
        assert (first["exit_signal"], first["opened"], first["quantity"]) == (
            "ribbon_down",
            1000,
            2.0,
        )
        until(lambda: positions()["positions"][1]["unrealised_profit"] is None, 5)

    def test_without_a_book_there_are_none(self, serve: Serve, client: Any) -> None:
        server = serve()
        body = ask(server, "/api/positions")[1]
        assert (body["positions"], body["profit"], body["trades"]) == ([], 0, 0)
        assert body["trader_alive"] is False
        client.hset(ALIVE_KEY, "trader-bot", json.dumps({"timestamp": now_ms(), "pid": 1}))
        until(lambda: ask(server, "/api/positions")[1]["trader_alive"], 5)

    @pytest.mark.parametrize("what", ["text", "a hash"])
    def test_what_is_not_a_book_is_said(self, serve: Serve, client: Any, what: str) -> None:
        if what == "text":
            client.set(POSITIONS_KEY, "[1]")
        else:
            client.hset(POSITIONS_KEY, "a", "b")
        status, body = ask(serve(), "/api/positions")
        assert status == 200 and body["positions"] == [] and body["profit"] is None
        assert body["error"].startswith("paper:positions in Redis is not a book of positions: ")

    def test_looking_leaves_no_entries_in_the_message_log(self, serve: Serve, client: Any) -> None:
        server = serve()
        add(client, trade())
        before = client.xlen(DEFAULT_KEY)
        for path in ("/api/positions", "/api/trades", "/api/trades.csv"):
            assert request(server, path)[0].status == 200
        assert client.xlen(DEFAULT_KEY) == before


class TestTrades:
    def test_one_that_a_trader_closed(self, serve: Serve, client: Any) -> None:
        server = serve()
        trader = start(client, Costs(0.1, 0.05))
        for name, price in (("ribbon_up", 50.0), ("stoch_rsi_down", 60.0)):
            put_price(client, "AUSDT", price)
            trader.turn(signal(name))
        body = trades(server)
        [shown] = body["trades"]
        assert shown["id"] == client.xrange(TRADES_LOG_KEY)[0][0]
        assert (shown["symbol"], shown["timeframe"]) == ("AUSDT", "1h")
        assert (shown["signal"], shown["exit_signal"]) == ("ribbon_up", "stoch_rsi_down")
        assert shown["profit"] == ask(server, "/api/positions")[1]["profit"]
        assert shown["profit_pct"] == pytest.approx(shown["profit"])  # of a stake of 100
        assert body["next"] is None and body["bad"] == 0
        assert body["summary"]["trades"] == 1 and body["equity"][-1][1] == shown["profit"]

    def test_newest_first_and_page_by_page(self, serve: Serve, client: Any) -> None:
        server = serve()
        ids = add(client, *(trade(float(n), closed=2000 + n) for n in range(25)))
        seen, before, newer = [], "", []
        while True:
            body = trades(server, f"limit=10&before={before}")
            seen += [shown["id"] for shown in body["trades"]]
            newer.append(body["newer"])
            if not (before := body["next"] or ""):
                break
        assert seen == ids[::-1] and newer == [0, 10, 20]
        assert len(trades(server, f"before={ids[0]}")["trades"]) == 0
        assert trades(server, f"before={ids[10]}&limit=1")["trades"][0]["id"] == ids[9]

    def test_filters(self, serve: Serve, client: Any) -> None:
        server = serve()
        add(
            client,
            trade(1.0),
            trade(2.0, symbol="BUSDT"),
            trade(4.0, timeframe="5m"),
            trade(-8.0, signal="squeeze_up"),
        )

        def profit(query: str) -> float:
            body = trades(server, query)
            assert sum(each["profit"] for each in body["trades"]) == body["summary"]["profit"]
            return float(body["summary"]["profit"])

        assert profit("") == profit("symbol=&timeframe=&signal=") == -1
        assert profit("symbol=BUSDT") == 2
        assert profit("timeframe=5m") == 4
        assert profit("signal=squeeze_up") == -8
        assert profit("symbol=AUSDT&timeframe=1h&signal=ribbon_up") == 1
        assert profit("symbol=CUSDT") == 0
        body = trades(server, "symbol=BUSDT")
        assert body["choices"] == {
            "symbol": ["AUSDT", "BUSDT"],
            "timeframe": ["1h", "5m"],
            "signal": ["ribbon_up", "squeeze_up"],
        }
        assert [group["symbol"] for group in body["by_symbol"]] == ["BUSDT"]
        assert trades(server)["by_signal"][-1]["signal"] == "squeeze_up"

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("symbol=<b>", "like BTCUSDT"),
            ("timeframe=5", "timeframe"),
            ("signal=up", "ribbon_up"),
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("before=x", "id of a trade"),
            ("coin=BTCUSDT", "accepted: only symbol timeframe signal"),
        ],
    )
    def test_a_bad_parameter_is_400_and_says_what_is_accepted(
        self, serve: Serve, query: str, said: str
    ) -> None:
        status, body = ask(serve(), f"/api/trades?{query}")
        assert status == 400 and said in body["error"]

    def test_bad_entries_are_left_out_and_counted(
        self, serve: Serve, client: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = serve()
        add(client, trade(1.0))
        client.xadd(TRADES_LOG_KEY, {"symbol": "<script>"})
        client.xadd(TRADES_LOG_KEY, trade().fields() | {"profit": "1000000"})
        add(client, trade(2.0))
        body = trades(server)
        assert [shown["profit"] for shown in body["trades"]] == [2.0, 1.0] and body["bad"] == 2
        assert caplog.text.count("event=bad_data key=paper:trades:log") == 1

    def test_another_type_of_key_is_503_with_the_reason_and_mends(
        self, serve: Serve, client: Any
    ) -> None:
        server = serve()
        client.set(TRADES_LOG_KEY, "no stream")
        status, body = ask(server, "/api/trades")
        assert status == 503 and "WRONGTYPE" in body["error"]
        client.delete(TRADES_LOG_KEY)
        assert trades(server)["trades"] == []

    def test_csv_has_all_that_pass(self, serve: Serve, client: Any) -> None:
        server = serve()
        ids = add(client, *(trade(float(n)) for n in range(60)), trade(3.0, symbol="BUSDT"))
        answer, body = request(server, "/api/trades.csv?symbol=AUSDT")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert 'filename="trades.csv"' in answer.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(body.decode())))
        assert [row["id"] for row in rows] == ids[59::-1]
        assert rows[0]["profit"] == "59.0" and rows[0]["closed"] == "1970-01-01T00:00:02.000Z"
        assert ask(server, "/api/trades.csv?limit=5")[0] == 400
        assert len(request(server, "/api/trades.csv")[1].splitlines()) == 62


class TestFollowing:
    """What is held in memory is always what is in the stream."""

    @pytest.fixture(autouse=True)
    def small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trades_module, "PAGE", 7)

    @staticmethod
    def held(log: TradesLog) -> list[str]:
        return [each["id"] for each in log.answer(Filter(), 1000, "")["trades"]]

    def test_whatever_happens_to_it(self, client: Any) -> None:
        log, chance = TradesLog(client), random.Random(3)
        copy: list[bytes] = []

        def restore() -> None:
            if copy:
                client.restore(TRADES_LOG_KEY, 0, copy[-1], replace=True)

        def remember() -> None:
            if saved := client.dump(TRADES_LOG_KEY):
                copy.append(saved)

        actions = [
            lambda: add(client, *(trade(1.0) for _ in range(chance.randrange(20)))),
            lambda: client.xadd(TRADES_LOG_KEY, {"no": "trade"}),
            lambda: client.xtrim(TRADES_LOG_KEY, maxlen=chance.randrange(30), approximate=False),
            lambda: client.delete(TRADES_LOG_KEY),
            lambda: (
                client.xdel(TRADES_LOG_KEY, *[i for i, _ in client.xrange(TRADES_LOG_KEY)][3:5])
                if client.xlen(TRADES_LOG_KEY) > 5
                else None
            ),
            remember,
            restore,
        ]
        for _ in range(400):
            chance.choice(actions)()
            entries = client.xrevrange(TRADES_LOG_KEY)
            assert self.held(log) == [id_ for id_, fields in entries if "symbol" in fields]

    def test_only_what_is_new_is_read(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        log = TradesLog(client)
        add(client, *(trade(1.0) for _ in range(50)))
        assert len(self.held(log)) == 50
        parsed = []
        from_fields = ClosedTrade.from_fields
        monkeypatch.setattr(
            ClosedTrade,
            "from_fields",
            lambda fields: parsed.append(1) or from_fields(fields),
        )
        add(client, trade(2.0))
        assert len(self.held(log)) == 51 and len(parsed) == 1
