"""Each user of docs/users.acl does the whole work of its program on a real server, is refused
nothing that the program sends, and needs every rule that it has."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.book import Book, Position
from consumers.market_cache import MarketCache
from demo.exchange import Exchange
from redis_log import LoggedRedis, connect
from tests.acl import GuardedRedis, Observer
from tests.candles import FALLING, RISING, put_candles, put_price, update
from tests.service.test_paper_trader import signal
from tests.service.test_service import run
from tests.support import ENVIRON, PATIENCE, ROOT, Program, Service, free_port, until
from tests.trades import trade

Start = Callable[..., Any]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[GuardedRedis]:
    server = GuardedRedis(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def observer(redis_server: GuardedRedis) -> Observer:
    return Observer(redis_server)


def until_pinged(server: GuardedRedis, user: str) -> None:
    """Until a program of `user` has heard nothing for 5 s and so asks whether Redis is there."""

    def asked() -> bool:
        connected: Any = server.client.client_list()
        return any((each["user"], each["cmd"]) == (user, "ping") for each in connected)

    until(asked, 15, what=f"{user} pings")


def check(server: GuardedRedis, user: str, observer: Observer) -> None:
    """That `user` was refused nothing, and that less would not have done."""
    assert server.denied() == []
    assert server.needless(user, observer.commands()) == []


def test_service(
    redis_server: GuardedRedis, start_service: Start, exchange: Exchange, observer: Observer
) -> None:
    """Fills and refreshes; meets a ban, which it notes; and a failure, which it logs."""
    url, client = redis_server.url_of("coinex-service"), redis_server.client
    settings = {"SYMBOLS": "BTCUSDT,ETHUSDT", "CANDLE_LIMIT": "10", "REDIS_URL": url}
    checked = run("--check", BINANCE_BASE_URL=exchange.url, **settings)
    assert checked.returncode == 0, checked.stdout
    assert "may not tell" not in checked.stdout
    service: Service = start_service(TIMEFRAMES="5m:2:60,1h:3:80", **settings)
    service.wait_for("ok")
    until(lambda: len(service.lines("event=refresh timeframe=5m")) > 1, 10)
    until(lambda: service.health()[1]["redis"]["message_log_length"], 5)
    assert service.health()[1]["problems"] == {}
    exchange.fault("ban", seconds=5)
    until(lambda: client.exists("market:hold"), 10)
    until(lambda: client.xlen("redis:message_log:error"), 10)
    service.wait_for("ok")
    assert service.stop() == 0
    assert not client.exists("market:leader") and client.exists("market:leader:term")
    check(redis_server, "coinex-service", observer)


def test_ta_service(redis_server: GuardedRedis, start_consumer: Start, observer: Observer) -> None:
    """Analyses what is there, and gives a signal when candles that rise come after others."""
    client = redis_server.client
    put_candles(client, "AUSDT", "1h", FALLING, age=1)
    program: Program = start_consumer("ta_service", REDIS_URL=redis_server.url_of("coinex-ta"))
    until(lambda: client.exists("ta:state:AUSDT:1h"), 10)
    until_pinged(redis_server, "coinex-ta")
    put_candles(client, "AUSDT", "1h", RISING)
    client.publish("market:update:1h", update(["AUSDT"]))
    until(lambda: program.lines("event=signal"), 10)
    assert client.xlen("redis:message_log:signal") and client.exists("ta:indicators:AUSDT:1h")
    assert client.hkeys("consumers:alive") == ["ta-service"]
    assert program.stop() == 0
    check(redis_server, "coinex-ta", observer)


def test_paper_trader(
    redis_server: GuardedRedis, start_consumer: Start, observer: Observer
) -> None:
    """Buys and sells, refuses to buy without a price, and writes a book again that was lost."""
    client = redis_server.client
    program: Program = start_consumer(
        "paper_trader", REDIS_URL=redis_server.url_of("coinex-trader")
    )
    put_price(client, "AUSDT", 50.0)
    until_pinged(redis_server, "coinex-trader")
    client.publish(*signal("ribbon_up"))
    until(lambda: program.lines('what="buy '), 10)
    client.publish(*signal("ribbon_down"))
    until(lambda: client.xlen("paper:trades:log"), 10)
    client.publish(*signal("ribbon_up", "NOPRICEUSDT"))
    until(lambda: client.xlen("redis:message_log:error"), 10)
    client.publish(*signal("ribbon_up"))
    until(lambda: len(program.lines('what="buy ')) == 2, 10)
    client.delete("paper:positions")
    client.publish("market:update:5m", update(["AUSDT"]))
    until(lambda: client.exists("paper:positions"), 10)
    assert client.xlen("redis:message_log:trade") == 3
    assert client.hkeys("consumers:alive") == ["trader-bot"]
    assert program.stop() == 0
    assert not client.exists("paper:leader") and client.exists("paper:leader:term")
    assert not program.lines("trades_log_refused")
    check(redis_server, "coinex-trader", observer)


def test_dashboard_with_its_scanner(
    redis_server: GuardedRedis, start_consumer: Start, observer: Observer
) -> None:
    """Every address under /api/ answers, with what is in Redis; events come."""
    client, port = redis_server.client, free_port()
    put_candles(client, "AUSDT", "1h", RISING)
    put_price(client, "AUSDT", 50.0)
    position = Position("1h", "ribbon_up", 2.0, 50.0, 1)
    client.set("paper:positions", Book().changed("AUSDT", position).json())
    client.xadd("paper:trades:log", trade().fields())  # type: ignore[arg-type]
    logged = LoggedRedis(client, "test")
    logged.signal("ta:signals", "{}", "AUSDT 1h ribbon_up at 50.0")
    url = redis_server.url_of("coinex-dashboard")
    program: Program = start_consumer("dashboard", REDIS_URL=url, DASHBOARD_PORT=str(port))
    until(lambda: program.lines("event=start"), 10)
    until(lambda: client.exists("scanner:score:AUSDT"), 10)
    until_pinged(redis_server, "coinex-dashboard")

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return json.load(answer) if "json" in answer.headers["Content-Type"] else answer.read()

    client.publish("market:update:1h", update(["AUSDT"]))
    [row] = until(
        lambda: [r for r in get("/api/scanner")["symbols"] if r["price"] and r["scan"]], 10
    )
    assert row["symbol"] == "AUSDT"
    lives = until(lambda: (s := get("/api/status"))["consumers"]["scanner"] and s, 10)
    assert lives["redis"]["up"] and lives["redis"]["error"] == ""
    assert len(get("/api/chart?symbol=AUSDT&timeframe=1h")["candles"]) == len(RISING)
    assert get("/api/redis/log?type=signal&type=trade&type=error")["length"] == 1
    assert get("/api/redis/log?type=cache_read&source=dashboard")["entries"]
    assert get("/api/positions")["error"] == "" and len(get("/api/positions")["positions"]) == 1
    assert len(get("/api/trades")["trades"]) == 1 and b"AUSDT" in get("/api/trades.csv")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/events", timeout=10) as events:
        logged.error("market:price:AUSDT", "something to tell")
        until(lambda: b"something to tell" in events.readline(), 10)
    assert program.stop() == 0
    check(redis_server, "coinex-dashboard", observer)


def test_scanner_and_message_log_on_a_terminal(redis_server: GuardedRedis, tmp_path: Path) -> None:
    """They are for the dashboard's user, too."""
    client, url = redis_server.client, redis_server.url_of("coinex-dashboard")
    put_candles(client, "AUSDT", "1h", RISING)
    command = [sys.executable, "-m", "consumers.scanner", "--once"]
    scores = subprocess.run(
        command, cwd=ROOT, env={**ENVIRON, "REDIS_URL": url}, capture_output=True, text=True
    )
    assert scores.returncode == 0 and scores.stdout.splitlines()[1].startswith("AUSDT ")
    types = ["--type", "trade", "--type", "error"]
    logs = [
        Program(tmp_path / f"{number}.log", ["redis_log.py", "--follow", *each], {"REDIS_URL": url})
        for number, each in enumerate(([], types))
    ]
    logged = LoggedRedis(client, "test")
    for log in logs:
        until(lambda: log.lines("redis_log: the log "), 10)  # noqa: B023
    logged.error("market:price:AUSDT", "something to tell")
    for log in logs:
        until(lambda: log.lines("something to tell"), 10)  # noqa: B023
        log.end()
    assert redis_server.denied() == []


def test_reader(redis_server: GuardedRedis, observer: Observer) -> None:
    """Finds and reads candles and prices and hears of refreshes, by the files of this project and
    with the client alone."""
    admin = redis_server.client
    put_candles(admin, "AUSDT", "1h", RISING)
    put_price(admin, "AUSDT", 50.0)
    client = connect(redis_server.url_of("coinex-reader"))
    stopping = threading.Event()
    cache = MarketCache(client, "my-bot", stopping=stopping)
    assert cache.series() == {"1h": ["AUSDT"]}
    assert cache.candles("AUSDT", "1h").closed and cache.price("AUSDT").price == 50
    assert client.get("market:price:AUSDT")
    assert next(cache.updates("5m")) is None
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        for each in cache.updates():
            heard.put(each)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    until_pinged(redis_server, "coinex-reader")
    admin.publish("market:update:1h", update(["AUSDT"]))
    assert heard.get(timeout=10 * PATIENCE) is None
    assert heard.get(timeout=10 * PATIENCE).symbols == ["AUSDT"]
    stopping.set()
    listener.join()
    assert cache.logged.log_error == "" and admin.hkeys("consumers:alive") == ["my-bot"]
    check(redis_server, "coinex-reader", observer)
