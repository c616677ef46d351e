"""ccxt, which was written for the real exchange, on the simulated one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import ccxt
import pytest

from demo import market
from demo.exchange import Exchange


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """Its clock stands still, so that two answers show the same moment."""
    with Exchange(clock=lambda: 1_764_000_123.4) as exchange:
        yield exchange


def connected(exchange: Exchange) -> Any:
    client = ccxt.binanceus({"enableRateLimit": False})
    client.urls["api"] = {
        name: f"{exchange.url}{urlsplit(url).path}" for name, url in client.urls["api"].items()
    }
    return client


@pytest.fixture
def binanceus(exchange: Exchange) -> Any:
    return connected(exchange)


def test_ccxt_reads_markets_candles_and_tickers(binanceus: Any, exchange: Exchange) -> None:
    markets = binanceus.load_markets()
    assert len(markets) == len(market.DEFAULT_SYMBOLS)
    assert markets["BTC/USDT"]["active"] and markets["BTC/USDT"]["spot"]
    for interval in ("5m", "1h", "4h"):
        truth = exchange.klines("BTCUSDT", interval, 100)
        wanted = [[row[0], *map(float, row[1:6])] for row in truth]
        assert binanceus.fetch_ohlcv("BTC/USDT", interval, limit=100) == wanted
        since = binanceus.fetch_ohlcv("BTC/USDT", interval, since=truth[10][0], limit=20)
        assert since == wanted[10:30]
    tickers = binanceus.fetch_tickers(["BTC/USDT", "ETH/USDT"])
    assert set(tickers) == {"BTC/USDT", "ETH/USDT"}
    assert len(binanceus.fetch_tickers()) == len(market.DEFAULT_SYMBOLS)
    bitcoin = binanceus.fetch_ticker("BTC/USDT")
    assert bitcoin["last"] == float(exchange.klines("BTCUSDT", "5m", 1)[0][4])
    assert bitcoin["percentage"] is not None and bitcoin["baseVolume"] > 0


def test_ccxt_tells_closed_markets_from_traded_ones() -> None:
    with Exchange(delisted=40) as exchange:
        markets = connected(exchange).load_markets()
        active = [symbol for symbol, facts in markets.items() if facts["active"]]
        assert (len(markets), len(active)) == (69, 29)
        exchange.halt("BTCUSDT")
        assert not connected(exchange).load_markets()["BTC/USDT"]["active"]


def test_ccxt_understands_the_errors(binanceus: Any, exchange: Exchange) -> None:
    binanceus.load_markets()
    with pytest.raises(ccxt.BadSymbol):
        binanceus.fetch_ohlcv("NO/USDT", "5m")
    assert len(exchange.requests) == 1
    with pytest.raises(ccxt.BadSymbol, match="-1121"):
        binanceus.publicGetKlines({"symbol": "NOUSDT", "interval": "5m"})
    exchange.fault("hold", times=1)
    with pytest.raises(ccxt.DDoSProtection):  # its class for the statuses 429 and 418
        binanceus.fetch_ohlcv("BTC/USDT", "5m")
    exchange.clear()
    for status, code in ((500, -1000), (400, -1001)):
        exchange.fault("status", times=1, status=status, code=code)
        with pytest.raises(ccxt.OperationFailed):
            binanceus.fetch_ohlcv("BTC/USDT", "5m")
    exchange.fault("blocked")
    with pytest.raises(ccxt.BaseError):
        binanceus.fetch_ohlcv("BTC/USDT", "5m")
