"""Fixtures for single refreshes, without any loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import fakeredis
import pytest
import redis

from demo.exchange import Exchange
from market_data import MarketData
from settings import Settings


@pytest.fixture
def fake() -> redis.Redis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def make(exchange: Exchange, fake: redis.Redis) -> Iterator[Callable[..., MarketData]]:
    """A service on the simulated exchange and a fake Redis, whose loops do not run."""
    made: list[MarketData] = []

    def make(client: redis.Redis = fake, **environ: str) -> MarketData:
        defaults = {
            "BINANCE_BASE_URL": exchange.url,
            "SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT",
            "CANDLE_LIMIT": "50",
            "REQUEST_TIMEOUT": "1",
            "TIMEFRAMES": "5m:5:20,1h:7:30",
        }
        made.append(MarketData(Settings.from_env(defaults | environ), client))
        return made[-1]

    yield make
    for service in made:
        service.stop(until=time.monotonic() + 5)
