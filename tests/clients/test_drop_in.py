"""Third-party programs, unmodified but for the URL, run on the service: none of their requests
reaches the exchange."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import binance
import ccxt
import ccxt.async_support
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo.exchange import Exchange
from settings import VERSION
from tests.support import Service, quiet_interval, until

COINS = ("BTC", "ETH", "SOL", "XRP")
SYMBOLS = [f"{coin}USDT" for coin in COINS]
PAIRS = {f"{coin}/USDT" for coin in COINS}


@pytest.fixture
def service(start_service: Callable[..., Service], exchange: Exchange) -> Iterator[Service]:
    """A service that has read everything, the listing too, and does not refresh for hours. After
    the test, the exchange must have seen no client but the service, and no further requests."""
    running = start_service(
        SYMBOLS=",".join(SYMBOLS),
        TIMEFRAMES=f"1m:{quiet_interval(31, 59)}:9000,5m:9000:9001,1h:9000:9001",
    )
    until(lambda: "/api/v3/exchangeInfo" in exchange.totals["paths"], 20)
    running.wait_for("ok")
    exchange.fault("status", status=500)  # and it could not answer any
    before = exchange.totals
    yield running
    after = exchange.totals
    assert set(after["clients"]) == {f"coinex-market-data/{VERSION}"}
    asked = sum(after["paths"].values()) - sum(before["paths"].values())
    assert asked <= 3 * (len(SYMBOLS) + 1), "more than the one refresh that may have come meanwhile"


def ask(service: Service, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{path}", timeout=5) as answer:
        return json.load(answer)


def rows(service: Service, symbol: str, interval: str, limit: int) -> list[list[Any]]:
    """Rows from the service; tests/service/test_local_api.py compares them with the exchange's."""
    found: list[list[Any]] = ask(
        service, f"/api/v3/klines?symbol={symbol}&interval={interval}&limit={limit}"
    )
    return found


def config(service: Service) -> dict[str, Any]:
    """The one change for ccxt that docs/migrating.md names."""
    return {"urls": {"api": {"public": f"http://127.0.0.1:{service.port}/api/v3"}}}


def test_ccxt(service: Service) -> None:
    client = ccxt.binanceus(config(service))
    assert set(client.load_markets()) == PAIRS
    truth = [[row[0], *map(float, row[1:6])] for row in rows(service, "ETHUSDT", "5m", 500)]
    assert client.fetch_ohlcv("ETH/USDT", "5m") == truth and len(truth) == 500
    assert client.fetch_ohlcv("ETH/USDT", "5m", since=truth[100][0], limit=20) == truth[100:120]
    assert client.fetch_ohlcv("ETH/USDT", "1h", limit=3)[0][4] > 0
    assert set(client.fetch_tickers()) == PAIRS
    assert set(client.fetch_tickers(["BTC/USDT", "SOL/USDT"])) == {"BTC/USDT", "SOL/USDT"}
    ticker = client.fetch_ticker("BTC/USDT")
    assert ticker["last"] > 0 and ticker["symbol"] == "BTC/USDT" and ticker["quoteVolume"] > 0
    with pytest.raises(ccxt.BadRequest, match="CANDLE_LIMIT"):
        client.fetch_ohlcv("ETH/USDT", "5m", since=0)
    with pytest.raises(ccxt.BaseError, match="Held here: 1m, 5m, 1h"):
        client.fetch_ohlcv("ETH/USDT", "4h")


def test_ccxt_async(service: Service) -> None:
    async def run() -> None:
        client = ccxt.async_support.binanceus(config(service))
        try:
            assert set(await client.load_markets()) == PAIRS
            answers = await asyncio.gather(*(client.fetch_ohlcv(p, "5m") for p in sorted(PAIRS)))
            assert [len(candles) for candles in answers] == [500] * len(PAIRS)
            since = answers[0][-10][0]
            assert len(await client.fetch_ohlcv("BTC/USDT", "5m", since=since, limit=4)) == 4
            assert set(await client.fetch_tickers()) == PAIRS
            assert (await client.fetch_ticker("SOL/USDT"))["percentage"] is not None
        finally:
            await client.close()

    asyncio.run(run())


def test_python_binance(service: Service) -> None:
    client = binance.Client(tld="us", ping=False)
    client.API_URL = f"http://127.0.0.1:{service.port}/api"
    assert client.ping() == {} and client.get_server_time()["serverTime"] > 0
    assert client.get_klines(symbol="BTCUSDT", interval="1h") == rows(service, "BTCUSDT", "1h", 500)
    assert client.get_symbol_info("XRPUSDT")["status"] == "TRADING"
    assert client.get_ticker(symbol="BTCUSDT")["symbol"] == "BTCUSDT"
    assert [row["symbol"] for row in client.get_all_tickers()] == SYMBOLS
    with pytest.raises(binance.exceptions.BinanceAPIException, match="Invalid symbol"):
        client.get_klines(symbol="NOUSDT", interval="1h")
    client.close_connection()


def test_a_connection_is_kept_and_says_that_no_weight_was_used(service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)
    connection.connect()
    socket_ = connection.sock
    for path in ("/api/v3/ping", "/health", "/api/v3/nothing", "/metrics", "/api/v3/time"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert connection.sock is socket_
    assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "0"
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    connection.close()


def test_metrics_are_what_prometheus_reads(service: Service) -> None:
    entries = 4 * len(SYMBOLS) + 4
    until(lambda: ask(service, "/health")["redis"]["message_log_length"] == entries, 5)
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    found = {sample.name: sample for family in families for sample in family.samples}
    assert all(family.documentation and family.type != "unknown" for family in families)
    assert found["market_data_build_info"].labels == {"version": VERSION}
    values = {
        (sample.name.removeprefix("market_data_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert values["status", "ok"] == 1 and values["status", "down"] == 0
    assert values["leader",] == values["redis_up",] == 1
    assert (
        values["symbols",]
        == values["symbols_fresh", "5m"]
        == values["symbols_fresh", "price"]
        == len(SYMBOLS)
    )
    assert values["symbols_failing", "1h"] == 0 and 0 < values["age_seconds", "1m"] < 60
    assert values["refreshes_total", "1h"] == 1 and values["refresh_seconds_total", "1h"] > 0
    assert values["requests_total", "200"] >= 3 * len(SYMBOLS) + 2
    assert values["used_weight",] > 0 and values["weight_limit",] == 1200
    assert values["hold_seconds",] == 0 and values["uptime_seconds",] > 0
    assert values["operations_logged_total",] == values["message_log_entries",] == entries
