"""The simulated exchange: its candles agree with each other, its API with the documentation, and
a plain client can see each of its faults. Only the clock is fake; the sockets are real."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from demo import market
from demo.exchange import Exchange
from demo.faults import KINDS
from demo.rules import REFUSALS_TO_BAN
from tests.support import ROOT

NOW = 1_764_000_123.4  # 2025-11-24 16:02:03, in the middle of a 5m, a 1h and a 4h candle
DAY = 1_763_942_400  # that day's midnight
KLINES = {"symbol": "BTCUSDT", "interval": "5m", "limit": 5}


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Client:
    """GET on one kept-alive connection, redirects not followed; `trusted` is a file of the
    certificates that https needs."""

    def __init__(self, exchange: Exchange, trusted: Path | None = None) -> None:
        self._exchange, self._session = exchange, requests.Session()
        self._session.trust_env = False
        self._session.verify = str(trusted) if trusted else True

    def get(self, path: str, **params: Any) -> requests.Response:
        url = f"{self._exchange.url}/api/v3/{path}"
        return self._session.get(url, params=params, timeout=10, allow_redirects=False)

    def error(self, path: str, **params: Any) -> tuple[int, int]:
        answer = self.get(path, **params)
        return answer.status_code, answer.json()["code"]

    def opens(self, **params: Any) -> list[int]:
        return [row[0] for row in self.get("klines", **params).json()]

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exchange(clock: Clock) -> Iterator[Exchange]:
    with Exchange(clock=clock) as exchange:
        yield exchange


@pytest.fixture
def client(exchange: Exchange) -> Iterator[Client]:
    with closing(Client(exchange)) as client:
        yield client


# --- the candles ---


def aggregate(rows: list[list[Any]]) -> tuple[Any, ...]:
    """(open, high, low, close, volume, trades) of adjoining rows, in decimals."""
    prices = [[Decimal(field) for field in row[1:6]] for row in rows]
    highs, lows = [p[1] for p in prices], [p[2] for p in prices]
    volume, trades = sum(p[4] for p in prices), sum(row[8] for row in rows)
    return prices[0][0], max(highs), min(lows), prices[-1][3], volume, trades


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SHIBUSDT", "XRPUSDT", "X123USDT"])
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("1m", "5m"),
        ("5m", "1h"),
        ("1h", "4h"),
        ("4h", "1d"),
        ("1m", "3m"),
        ("5m", "15m"),
        ("5m", "30m"),
        ("1h", "2h"),
        ("1h", "6h"),
        ("4h", "8h"),
        ("4h", "12h"),
        ("1m", "1d"),
    ],
)
def test_a_candle_is_the_sum_of_its_parts(symbol: str, small: str, large: str) -> None:
    exchange = Exchange(["BTCUSDT"], clock=Clock())
    for whole in exchange.klines(symbol, large, 4):
        opens_ms, closes_ms = whole[0], whole[6]
        parts = exchange.klines(symbol, small, 1440, start_ms=opens_ms, end_ms=closes_ms)
        assert aggregate(parts) == aggregate([whole])


def test_seconds_add_up_to_minutes() -> None:
    seconds = [market.candle("SOLUSDT", DAY + n, DAY + n + 1) for n in range(120)]
    minutes = [market.whole_candle("SOLUSDT", 60, DAY + n) for n in (0, 60)]
    for n, minute in enumerate(minutes):
        parts = seconds[60 * n : 60 * n + 60]
        assert minute == (
            parts[0].open,
            max(p.high for p in parts),
            min(p.low for p in parts),
            parts[-1].close,
            sum(p.volume for p in parts),
            sum(p.trades for p in parts),
        )


@pytest.mark.parametrize("interval", market.INTERVALS)
def test_rows_are_sound_and_join(interval: str) -> None:
    step_ms = market.INTERVALS[interval] * 1000
    rows = Exchange(clock=Clock()).klines("DOGEUSDT", interval, 300)
    assert len(rows) == 300
    for row in rows:
        first, high, low, close, volume = map(Decimal, row[1:6])
        assert 0 < low <= min(first, close) <= max(first, close) <= high
        assert volume > 0 and row[8] > 0
        assert row[0] % step_ms == 0 and row[6] == row[0] + step_ms - 1
        assert low * volume <= Decimal(row[7]) <= high * volume
        assert Decimal(row[9]) < volume and Decimal(row[10]) < Decimal(row[7])
    assert [row[0] for row in rows[1:]] == [row[0] + step_ms for row in rows[:-1]]
    assert [row[1] for row in rows[1:]] == [row[4] for row in rows[:-1]]


def test_another_process_answers_the_same() -> None:
    code = (
        "import json; from demo.exchange import Exchange;"
        f"print(json.dumps(Exchange(clock=lambda: {NOW}).klines('ETHUSDT', '1h', 50)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert json.loads(printed.stdout) == Exchange(clock=Clock()).klines("ETHUSDT", "1h", 50)


def test_prices_are_near_the_real_ones_and_coins_differ() -> None:
    exchange = Exchange(clock=Clock())
    closes = [float(exchange.klines(s, "1d", 1)[0][4]) for s in market.DEFAULT_SYMBOLS]
    for close, price in zip(closes, market.PRICES.values(), strict=True):
        assert 0.5 < close / price < 2
    changes = {row[4] for s in market.symbols(60) for row in exchange.klines(s, "5m", 1)}
    assert len(changes) > 55


@pytest.mark.parametrize("interval", ["1m", "5m", "1h", "4h"])
def test_the_forming_candle_grows_into_the_final_one(interval: str, clock: Clock) -> None:
    step_s = market.INTERVALS[interval]
    begin, exchange = DAY + step_s, Exchange(clock=clock)
    last = (Decimal(0), Decimal(10**9), Decimal(0), 0)
    for age_s in (0, 1, step_s // 3, step_s // 2, step_s - 1, step_s):
        clock.now = begin + age_s
        row = exchange.klines("BTCUSDT", interval, 1, start_ms=begin * 1000)[0]
        high, low, volume, trades = Decimal(row[2]), Decimal(row[3]), Decimal(row[5]), row[8]
        assert high >= last[0] and low <= last[1] and volume >= last[2] and trades >= last[3]
        assert (volume == 0) == (age_s == 0)
        last = (high, low, volume, trades)
    clock.now += 10**6
    assert exchange.klines("BTCUSDT", interval, 1, start_ms=begin * 1000) == [row]


def test_an_unfinished_candle_ends_at_the_price_of_the_ticker(client: Client) -> None:
    row = client.get("klines", **KLINES).json()[-1]
    assert row[6] > NOW * 1000
    assert client.get("ticker/24hr", symbol="BTCUSDT").json()["lastPrice"] == row[4]
    assert client.get("ticker/price", symbol="BTCUSDT").json()["price"] == row[4]


def test_the_ticker_is_the_sum_of_24_hours(exchange: Exchange, client: Client) -> None:
    ticker = client.get("ticker/24hr", symbol="ETHUSDT").json()
    day = market.candle("ETHUSDT", int(NOW) - 86400, int(NOW))
    assert ticker["count"] == day.trades == ticker["lastId"] - ticker["firstId"] + 1
    assert Decimal(ticker["highPrice"]) == Decimal(day.high) / 100
    change = Decimal(ticker["lastPrice"]) - Decimal(ticker["openPrice"])
    assert Decimal(ticker["priceChange"]) == change
    percent = 100 * change / Decimal(ticker["openPrice"])
    assert abs(Decimal(ticker["priceChangePercent"]) - percent) < Decimal("0.001")
    assert ticker["closeTime"] - ticker["openTime"] == 86_400_000


# --- klines parameters ---


def test_without_times_the_last_candles_up_to_the_forming_one(client: Client) -> None:
    opens = client.opens(symbol="BTCUSDT", interval="1h", limit=3)
    assert opens == [(DAY + hour * 3600) * 1000 for hour in (14, 15, 16)]
    assert len(client.opens(symbol="BTCUSDT", interval="1h")) == 500
    assert len(client.opens(symbol="BTCUSDT", interval="1h", limit=5000)) == 1000


def test_times_choose_by_open_time_inclusive(client: Client) -> None:
    hour, asked = 3_600_000, {"symbol": "BTCUSDT", "interval": "1h", "limit": 3}
    start = DAY * 1000
    ascending = [start, start + hour, start + 2 * hour]
    assert client.opens(**asked, startTime=start) == ascending
    assert client.opens(**asked, startTime=start - hour + 1) == ascending
    assert client.opens(**asked, endTime=start + 2 * hour) == ascending
    assert client.opens(**asked, endTime=start + 3 * hour - 1) == ascending
    assert client.opens(**asked, startTime=start, endTime=start + hour) == ascending[:2]
    assert client.opens(**asked, startTime=start, endTime=start + 9 * hour) == ascending
    assert client.opens(**asked, startTime=start + hour, endTime=start) == []
    assert client.opens(**asked, startTime=int(NOW * 1000)) == []


def test_a_young_market_has_fewer_candles() -> None:
    listed_at = DAY + 3600 * 14 + 90
    young = Exchange(["SUIUSDT"], clock=Clock(), listed_at={"SUIUSDT": listed_at})
    with young, closing(Client(young)) as client:
        rows = client.get("klines", symbol="SUIUSDT", interval="1h").json()
        ticker = client.get("ticker/24hr", symbol="SUIUSDT").json()
        minutes = client.get("klines", symbol="SUIUSDT", interval="1m", limit=1000).json()
    assert [row[0] for row in rows] == [(DAY + hour * 3600) * 1000 for hour in (14, 15, 16)]
    assert aggregate(rows) == aggregate(minutes)
    assert ticker["count"] == sum(row[8] for row in rows)
    assert Decimal(ticker["openPrice"]) == Decimal(rows[0][1])


@pytest.mark.parametrize("zone", ["0", "-12:00", "+5:45", "14"])
def test_time_zones_are_understood_and_change_nothing(client: Client, zone: str) -> None:
    assert client.opens(**KLINES, timeZone=zone) == client.opens(**KLINES)


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("klines", {"interval": "5m"}, 400, -1102),
        ("klines", {"symbol": "BTCUSDT"}, 400, -1102),
        ("klines", {"symbol": "", "interval": "5m"}, 400, -1105),
        ("klines", {"symbol": "NOUSDT", "interval": "5m"}, 400, -1121),
        ("klines", {"symbol": "btcusdt", "interval": "5m"}, 400, -1100),
        ("klines", {"symbol": "BTC/USDT", "interval": "5m"}, 400, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, 400, -1120),
        ("klines", {**KLINES, "limit": "many"}, 400, -1100),
        ("klines", {**KLINES, "limit": "-1"}, 400, -1100),
        ("klines", {**KLINES, "limit": "0"}, 400, -1130),
        ("klines", {**KLINES, "startTime": "now"}, 400, -1100),
        ("klines", {**KLINES, "page": "2"}, 400, -1104),
        ("klines", {"symbol": ["BTCUSDT", "ETHUSDT"], "interval": "5m"}, 400, -1101),
        ("ping", {"symbol": "BTCUSDT"}, 400, -1101),
        ("ticker/24hr", {"symbol": "NOUSDT"}, 400, -1121),
        ("ticker/24hr", {"symbols": '["BTCUSDT","NOUSDT"]'}, 400, -1121),
        ("ticker/24hr", {"symbols": "BTCUSDT,ETHUSDT"}, 400, -1100),
        ("ticker/24hr", {"symbols": "[]"}, 400, -1105),
        ("ticker/24hr", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, 400, -1128),
        ("ticker/24hr", {"symbol": "BTCUSDT", "type": "SMALL"}, 400, -1130),
        ("exchangeInfo", {"symbol": "NOUSDT"}, 400, -1121),
        ("exchangeInfo", {"symbolStatus": "CLOSED"}, 400, -1130),
        ("exchangeInfo", {"showPermissionSets": "no"}, 400, -1130),
        ("exchangeInfo", {"permissions": "SPOT,MARGIN"}, 400, -1100),
        ("exchangeInfo", {"symbol": "BTCUSDT", "symbolStatus": "TRADING"}, 400, -1128),
        ("exchangeInfo", {"symbols": '["BTCUSDT"]', "permissions": "SPOT"}, 400, -1128),
        ("klines", {**KLINES, "timeZone": "UTC"}, 400, -1100),
        ("klines", {**KLINES, "timeZone": "14:01"}, 400, -1130),
        ("klines", {**KLINES, "timeZone": "-12:30"}, 400, -1130),
        ("depth", {"symbol": "BTCUSDT"}, 404, -1000),
    ],
)
def test_errors(client: Client, path: str, params: Any, status: int, code: int) -> None:
    assert client.error(path, **params) == (status, code)


def test_only_get(exchange: Exchange) -> None:
    answer = requests.post(f"{exchange.url}/api/v3/ping", data="x=1", timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (405, -1000)


# --- the other endpoints ---


def test_exchange_info(exchange: Exchange, client: Client) -> None:
    exchange.halt("ADAUSDT")
    whole = client.get("exchangeInfo").json()
    entries = {entry["symbol"]: entry for entry in whole["symbols"]}
    assert tuple(entries) == market.DEFAULT_SYMBOLS
    assert entries["ADAUSDT"]["status"] == "BREAK"
    bitcoin = entries["BTCUSDT"]
    assert bitcoin["status"], bitcoin["baseAsset"] == ("TRADING", "BTC")
    filters = {each["filterType"]: each for each in bitcoin["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    limits = {limit["rateLimitType"]: limit for limit in whole["rateLimits"]}
    assert limits["REQUEST_WEIGHT"] == {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": 6000,
    }
    raw = limits["RAW_REQUESTS"]
    assert (raw["limit"], raw["interval"], raw["intervalNum"]) == (300_000, "MINUTE", 5)
    two = client.get("exchangeInfo", symbols='["ETHUSDT","BTCUSDT"]').json()["symbols"]
    assert [entry["symbol"] for entry in two] == ["BTCUSDT", "ETHUSDT"]


def test_permissions_are_only_in_permission_sets(client: Client) -> None:
    entry = client.get("exchangeInfo", symbol="BTCUSDT").json()["symbols"][0]
    assert (entry["permissions"], entry["permissionSets"]) == ([], [["SPOT"]])
    for name in ("oto", "opo", "cancelReplace", "amend", "pegInstructions"):
        assert entry[f"{name}Allowed"] is True
    assert entry["allowTrailingStop"] is True
    assert entry["defaultSelfTradePreventionMode"] in entry["allowedSelfTradePreventionModes"]
    bare = client.get("exchangeInfo", symbol="BTCUSDT", showPermissionSets="false").json()
    assert bare["symbols"][0]["permissionSets"] == []


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({}, 29),
        ({"symbolStatus": "TRADING"}, 28),
        ({"symbolStatus": "BREAK"}, 1),
        ({"symbolStatus": "HALT"}, 0),
        ({"permissions": "SPOT"}, 29),
        ({"permissions": '["MARGIN","SPOT"]', "symbolStatus": "BREAK"}, 1),
        ({"permissions": "MARGIN"}, 0),
    ],
)
def test_exchange_info_chooses_symbols(
    exchange: Exchange, client: Client, params: dict[str, str], count: int
) -> None:
    exchange.halt("ADAUSDT")
    assert len(client.get("exchangeInfo", **params).json()["symbols"]) == count


def test_tickers_of_one_some_and_all(client: Client) -> None:
    assert client.get("ticker/24hr", symbol="BTCUSDT").json()["symbol"] == "BTCUSDT"
    some = client.get("ticker/24hr", symbols='["BTCUSDT","SOLUSDT"]', type="MINI").json()
    assert [entry["symbol"] for entry in some] == ["BTCUSDT", "SOLUSDT"]
    assert "priceChange" not in some[0] and len(some[0]) == 12
    assert len(client.get("ticker/24hr").json()) == len(market.DEFAULT_SYMBOLS)
    assert len(client.get("ticker/price").json()) == len(market.DEFAULT_SYMBOLS)
    assert client.get("time").json() == {"serverTime": int(NOW * 1000)}
    assert client.get("ping").json() == {}


def test_halted_delisted_and_new_symbols(exchange: Exchange, client: Client) -> None:
    exchange.halt("BTCUSDT")
    assert client.get("klines", **KLINES).status_code == 200
    exchange.resume("BTCUSDT")
    assert client.get("exchangeInfo", symbol="BTCUSDT").json()["symbols"][0]["status"] == "TRADING"
    exchange.delist("BTCUSDT")
    assert client.error("klines", **KLINES) == (400, -1121)
    exchange.list("BTCUSDT")
    exchange.list("NEWUSDT")
    assert client.get("klines", **KLINES).status_code == 200
    assert client.get("ticker/price", symbol="NEWUSDT").status_code == 200


# --- markets that are not traded ---


def figures(client: Client, symbol: str = "BTCUSDT") -> dict[str, Any]:
    return client.get("ticker/24hr", symbol=symbol).json()


def is_zero(ticker: dict[str, Any]) -> bool:
    """Whether it is the ticker of a market without a trade in 24 h."""
    texts = [text for name, text in ticker.items() if isinstance(text, str) and name != "symbol"]
    ids = (ticker["firstId"], ticker["lastId"], ticker["count"])
    return ids == (-1, -1, 0) and set(texts) == {"0.00000000", "0.000"}


def test_a_halted_market_stands_still(exchange: Exchange, client: Client, clock: Clock) -> None:
    before = figures(client), client.get("klines", **KLINES).json()
    exchange.halt("BTCUSDT")
    for _ in range(2):
        assert (figures(client), client.get("klines", **KLINES).json()) == before
        clock.now += 12 * 3600
    assert client.opens(symbol="ETHUSDT", interval="5m", limit=1)[0] > before[1][-1][0]
    clock.now += 1  # now its last trade is more than a day old
    ticker = figures(client)
    assert is_zero(ticker) and ticker["closeTime"] == before[0]["closeTime"]
    assert client.get("klines", **KLINES).json() == before[1]


def test_a_halt_leaves_a_gap(exchange: Exchange, client: Client, clock: Clock) -> None:
    hours = {"symbol": "BTCUSDT", "interval": "1h"}
    exchange.halt("BTCUSDT")
    clock.now += 3 * 3600
    exchange.resume("BTCUSDT")
    clock.now += 3600
    opens = client.opens(**hours, limit=4)
    assert opens == [(DAY + hour * 3600) * 1000 for hour in (15, 16, 19, 20)]
    assert client.opens(**hours, startTime=opens[1], limit=3) == opens[1:]
    for whole in exchange.klines("BTCUSDT", "1h", 3):  # those at the edges are of what was traded
        parts = exchange.klines("BTCUSDT", "1m", 60, start_ms=whole[0], end_ms=whole[6])
        assert aggregate(parts) == aggregate([whole])
    traded = [(clock.now - 86400, NOW), (NOW + 3 * 3600, clock.now)]
    parts = [market.candle("BTCUSDT", int(since), int(until)) for since, until in traded]
    assert figures(client)["count"] == sum(part.trades for part in parts)


def test_an_idle_market_has_flat_candles(exchange: Exchange, client: Client, clock: Clock) -> None:
    busy = exchange.klines("BTCUSDT", "1h", 1, end_ms=int(NOW - 86400 - 3600) * 1000)
    exchange.idle("BTCUSDT")
    clock.now += 7200
    ticker = figures(client)
    assert is_zero(ticker) and ticker["closeTime"] == int(clock.now * 1000)
    rows = client.get("klines", symbol="BTCUSDT", interval="1h", limit=26).json()
    assert {(*row[1:6], row[8]) for row in rows} == {(*[rows[0][1]] * 4, "0.00000000", 0)}
    assert [row[0] for row in rows] == [(DAY + hour * 3600) * 1000 for hour in range(-7, 19)]
    assert client.get("exchangeInfo", symbol="BTCUSDT").json()["symbols"][0]["status"] == "TRADING"
    assert exchange.klines("BTCUSDT", "1h", 1, end_ms=int(NOW - 86400 - 3600) * 1000) == busy
    exchange.resume("BTCUSDT")
    clock.now += 60
    assert not is_zero(figures(client))
    last = client.get("klines", symbol="BTCUSDT", interval="1m", limit=1).json()[0]
    assert Decimal(last[5]) > 0


def test_delisted_markets_are_listed_and_answered(clock: Clock) -> None:
    exchange = Exchange(["BTCUSDT"], clock=clock, delisted=40)
    with exchange, closing(Client(exchange)) as client:
        entries = client.get("exchangeInfo").json()["symbols"]
        assert [entry["status"] for entry in entries] == ["TRADING", *["BREAK"] * 40]
        assert len(client.get("ticker/24hr").json()) == 41
        for symbol in (entry["symbol"] for entry in entries[1:]):
            [row] = client.get("klines", symbol=symbol, interval="1h", limit=1).json()
            assert row[6] < (NOW - 86400) * 1000 and Decimal(row[5]) > 0
            assert is_zero(figures(client, symbol))
            assert figures(client, symbol)["closeTime"] < (NOW - 86400) * 1000


# --- weights and limits ---


def symbol_list(count: int) -> str:
    return json.dumps(market.symbols(count), separators=(",", ":"))


@pytest.mark.parametrize(
    ("path", "params", "weight"),
    [
        ("ping", {}, 1),
        ("time", {}, 1),
        ("exchangeInfo", {}, 20),
        ("exchangeInfo", {"symbol": "BTCUSDT"}, 20),
        ("klines", {"symbol": "BTCUSDT", "interval": "5m", "limit": 1000}, 1),
        ("ticker/24hr", {"symbol": "BTCUSDT"}, 1),
        ("ticker/24hr", {"symbols": symbol_list(20)}, 1),
        ("ticker/24hr", {"symbols": symbol_list(21)}, 20),
        ("ticker/24hr", {"symbols": symbol_list(100)}, 20),
        ("ticker/24hr", {"symbols": symbol_list(101)}, 40),
        ("ticker/24hr", {}, 40),
        ("ticker/price", {"symbol": "BTCUSDT"}, 1),
        ("ticker/price", {"symbols": '["BTCUSDT","ETHUSDT"]'}, 2),
        ("ticker/price", {}, 2),
    ],
)
def test_weights(path: str, params: dict[str, Any], weight: int) -> None:
    with Exchange(market.symbols(110), clock=Clock()) as exchange:
        with closing(Client(exchange)) as client:
            answer = client.get(path, **params)
        assert answer.status_code == 200
        assert answer.headers["X-MBX-USED-WEIGHT-1M"] == str(weight)
        assert answer.headers["X-MBX-USED-WEIGHT"] == str(weight)
        assert exchange.requests[0].weight == exchange.totals["weight"] == weight


@pytest.mark.parametrize(
    ("path", "params", "weight"),
    [
        ("ping", {}, 1),
        ("exchangeInfo", {}, 20),
        ("klines", KLINES, 2),
        ("ticker/24hr", {"symbol": "BTCUSDT"}, 2),
        ("ticker/24hr", {}, 80),
        ("ticker/price", {}, 4),
    ],
)
def test_candles_and_tickers_may_weigh_more(path: str, params: dict[str, Any], weight: int) -> None:
    with Exchange(clock=Clock(), weight_factor=2) as exchange, closing(Client(exchange)) as client:
        assert client.get(path, **params).headers["X-MBX-USED-WEIGHT-1M"] == str(weight)


def test_exchange_info_says_the_limits_in_force() -> None:
    exchange = Exchange(weight_limit=1200, raw_limit=5000)
    with exchange, closing(Client(exchange)) as client:
        rates = client.get("exchangeInfo").json()["rateLimits"]
    assert [rate["limit"] for rate in rates] == [1200, 100, 200_000, 5000]


def test_a_new_minute_of_its_clock_starts_at_zero(client: Client, clock: Clock) -> None:
    used = []
    for second in (0, 1, 59.9, 60):
        clock.now = DAY + second
        used.append(client.get("ping").headers["X-MBX-USED-WEIGHT-1M"])
    assert used == ["1", "2", "3", "1"]


def test_over_the_weight_limit_429_until_the_minute_ends(clock: Clock) -> None:
    clock.now = DAY + 12.5
    with Exchange(clock=clock, weight_limit=3) as exchange, closing(Client(exchange)) as client:
        assert [client.get("ping").status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = client.get("ping")
        assert refused.json()["code"] == -1003
        assert refused.headers["Retry-After"] == "48"  # 47.5 s, rounded up
        clock.now = DAY + 60
        assert client.get("ping").status_code == 200


def test_over_the_raw_limit_429_until_five_minutes_end(clock: Clock) -> None:
    clock.now = DAY + 100
    with Exchange(clock=clock, raw_limit=2) as exchange, closing(Client(exchange)) as client:
        assert [client.get("ping").status_code for _ in range(2)] == [200, 200]
        refused = client.get("ping")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "200")


def test_who_goes_on_after_429_is_banned_for_longer_each_time(clock: Clock) -> None:
    bans = []
    with Exchange(clock=clock, weight_limit=1) as exchange, closing(Client(exchange)) as client:
        for _ in range(13):
            clock.now = clock.now // 60 * 60 + 60
            while (answer := client.get("ping")).status_code != 418:
                assert answer.status_code in (200, 429)
            bans.append(int(answer.headers["Retry-After"]))
            clock.now += bans[-1] - 1
            assert client.get("ping").headers["Retry-After"] == "1"
            clock.now += 1
    assert bans == [min(120 * 2**n, 3 * 86400) for n in range(13)]
    statuses = [request.status for request in exchange.requests]
    assert statuses[: REFUSALS_TO_BAN + 3] == [200] + [429] * REFUSALS_TO_BAN + [418, 418]


# --- connections ---


def test_a_connection_is_reused(exchange: Exchange) -> None:
    connection = http.client.HTTPConnection(urlsplit(exchange.url).netloc, timeout=10)
    with closing(connection):
        ports = set()
        for path in ("/api/v3/ping", "/api/v3/nope", "/sim/requests", "/api/v3/klines?x=1"):
            connection.request("GET", path)
            assert connection.getresponse().read()
            ports.add(connection.sock.getsockname()[1])
    assert len(ports) == 1


def test_connections_are_counted(exchange: Exchange, client: Client) -> None:
    client.get("ping")
    client.get("ping")
    with connected(exchange):
        wait_for(lambda: exchange.totals["connections"] == 2)


def test_a_connection_ends_after_so_many_answers() -> None:
    with Exchange(close_after=2) as exchange, closing(Client(exchange)) as client:
        said = [client.get("ping").headers.get("Connection") for _ in range(5)]
        assert said == [None, "close", None, "close", None]
        assert exchange.totals["connections"] == 3


def test_an_idle_connection_ends(clock: Clock) -> None:
    with Exchange(clock=clock, idle_s=0.3) as exchange, connected(exchange) as connection:
        for _ in range(3):
            ask(connection)
            assert connection.recv(4096)
            time.sleep(0.05)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert time.monotonic() - began > 0.1


def test_every_answer_has_the_date_of_its_clock(exchange: Exchange, client: Client) -> None:
    dates = {client.get(path).headers["Date"] for path in ("ping", "nope", "klines")}
    dates.add(requests.get(f"{exchange.url}/sim/requests", timeout=10).headers["Date"])
    exchange.fault("hold")
    dates.add(client.get("ping").headers["Date"])
    assert dates == {"Mon, 24 Nov 2025 16:02:03 GMT"}


@pytest.fixture
def https(certificates: tuple[Path, Path, Path], clock: Clock) -> Iterator[Exchange]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificates[1:])
    with Exchange(clock=clock, tls=tls) as exchange:
        yield exchange


def test_tls(https: Exchange, certificates: tuple[Path, Path, Path]) -> None:
    assert https.url.startswith("https://127.0.0.1:")
    with closing(Client(https, certificates[0])) as client:
        assert client.get("klines", **KLINES).json() == https.klines("BTCUSDT", "5m", 5)
        assert client.get("ping").status_code == 200
    assert https.totals["connections"] == 1
    with closing(Client(https)) as stranger, pytest.raises(requests.exceptions.SSLError):
        stranger.get("ping")


def test_who_never_shakes_hands_keeps_nobody(
    https: Exchange, certificates: tuple[Path, Path, Path]
) -> None:
    with connected(https) as mute, closing(Client(https, certificates[0])) as client:
        assert client.get("ping").status_code == 200
        https.stop()
        assert mute.recv(1) == b""
    wait_for(lambda: not open_connections(https))


@pytest.mark.parametrize("kind", ["reset", "short_body", "silent", "drip", "huge"])
def test_faults_of_the_wire_in_tls(
    https: Exchange, certificates: tuple[Path, Path, Path], kind: str
) -> None:
    """Each ends with an error of the client, and leaves no thread behind."""
    https.fault(kind)
    trust = ssl.create_default_context(cafile=str(certificates[0]))
    with connected(https) as plain, trust.wrap_socket(plain, server_hostname="127.0.0.1") as client:
        ask(client)
        wait_for(lambda: https.requests)
        if kind in ("reset", "short_body"):
            with pytest.raises((OSError, http.client.IncompleteRead)):
                answer = http.client.HTTPResponse(client)
                answer.begin()
                answer.read()
    wait_for(lambda: not open_connections(https))


def test_stop_closes_all_and_start_listens_on_the_same_port(
    exchange: Exchange, client: Client
) -> None:
    url = exchange.url
    client.get("ping")
    with connected(exchange) as idle:
        ask(idle)
        assert idle.recv(4096)
        exchange.stop()
        assert idle.recv(1) == b""
    with pytest.raises(requests.ConnectionError):
        client.get("ping")
    exchange.stop()
    exchange.start()
    assert exchange.url == url
    assert client.get("ping").status_code == 200


def test_latency_comes_before_each_answer() -> None:
    with Exchange(latency_ms=60) as exchange, closing(Client(exchange)) as client:
        began = time.monotonic()
        client.get("ping")
        assert time.monotonic() - began >= 0.06
    with Exchange(latency_ms=60_000) as exchange:  # /sim/ answers without latency
        requests.get(f"{exchange.url}/sim/requests", timeout=20)


# --- recorded requests, and the control path ---


def test_requests_tell_what_was_asked(exchange: Exchange, client: Client) -> None:
    client.get("klines", **KLINES)
    client.get("ticker/24hr", symbols='["ETHUSDT","BTCUSDT"]')
    client.get("klines", symbol="NOUSDT", interval="1h")
    assert exchange.requests == [
        (NOW, "/api/v3/klines", ("BTCUSDT",), "5m", 5, 1, 200),
        (NOW, "/api/v3/ticker/24hr", ("ETHUSDT", "BTCUSDT"), "", 0, 1, 200),
        (NOW, "/api/v3/klines", ("NOUSDT",), "1h", 500, 1, 400),
    ]


def test_the_control_path_does_the_same_over_http(exchange: Exchange, client: Client) -> None:
    sim = f"{exchange.url}/sim/"
    fault = {"kind": "status", "path": "ping", "times": 1, "status": 503}
    assert requests.post(f"{sim}fault", json=fault, timeout=10).json() == {"id": 1}
    assert [client.get("ping").status_code for _ in range(2)] == [503, 200]
    requests.post(f"{sim}fault", json={"kind": "empty"}, timeout=10)
    assert requests.delete(f"{sim}fault?kind=html", timeout=10).json() == {"cleared": 0}
    assert client.get("time").json() == []
    assert requests.delete(f"{sim}fault?kind=empty", timeout=10).json() == {"cleared": 1}
    assert client.get("time").json() != []
    bad = requests.post(f"{sim}fault", json={"kind": "fire"}, timeout=10)
    assert bad.status_code == 400 and "fire" in bad.json()["error"]
    seen = requests.get(f"{sim}requests", timeout=10).json()
    assert [request["status"] for request in seen["requests"]] == [503, 200, 200, 200]
    assert (seen["count"], seen["weight"]) == (4, 4)
    assert seen["statuses"] == {"503": 1, "200": 3}
    assert seen["bytes_sent"] > 400


def test_the_control_path_changes_markets(exchange: Exchange, client: Client) -> None:
    def become(state: str, symbol: str = "BTCUSDT") -> requests.Response:
        asked = {"symbol": symbol, "state": state}
        return requests.post(f"{exchange.url}/sim/market", json=asked, timeout=10)

    assert become("halted").json() == {"symbol": "BTCUSDT", "state": "halted"}
    entry = client.get("exchangeInfo", symbol="BTCUSDT").json()["symbols"][0]
    assert entry["status"] == "BREAK"
    become("idle")
    assert is_zero(figures(client))
    become("delisted")
    assert client.error("klines", **KLINES) == (400, -1121)
    become("trading")
    assert client.get("klines", **KLINES).status_code == 200
    refused = become("asleep")
    assert refused.status_code == 400 and "halted, idle, trading" in refused.json()["error"]


def test_the_program_has_its_options(certificates: tuple[Path, Path, Path]) -> None:
    options = "--port 0 --latency-ms 0 --jitter-ms 0 --symbols 2 --delisted 3 --weight-limit 1200"
    options += " --raw-limit 5000 --weight-factor 2 --close-after 1 --idle-s 60 --tls"
    files = [str(path) for path in certificates]
    program = subprocess.Popen(
        [sys.executable, "-u", "-m", "demo.exchange", *options.split(), *files[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        url = program.stdout.readline().split()[3]
        info = requests.get(f"{url}/api/v3/exchangeInfo", verify=files[0], timeout=10)
        tickers = requests.get(f"{url}/api/v3/ticker/24hr", verify=files[0], timeout=10)
        program.terminate()
    assert url.startswith("https://") and info.headers["Connection"] == "close"
    assert [rate["limit"] for rate in info.json()["rateLimits"]][::3] == [1200, 5000]
    assert len(info.json()["symbols"]) == len(tickers.json()) == 5
    assert tickers.headers["X-MBX-USED-WEIGHT"] == "100"


# --- faults ---


def connected(exchange: Exchange) -> socket.socket:
    """A bare connection, for use as a context manager."""
    host, port = urlsplit(exchange.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def ask(connection: socket.socket, path: str = "/api/v3/ping") -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def is_status(answer: requests.Response) -> bool:
    return answer.status_code == 500 and answer.json()["code"] == -1001


def is_html(answer: requests.Response) -> bool:
    return answer.status_code == 200 and answer.text.startswith("<!DOCTYPE html>")


def is_truncated(answer: requests.Response) -> bool:
    whole = int(answer.headers["Content-Length"]) == len(answer.content)
    try:
        answer.json()
    except ValueError:
        return whole
    return False


def is_redirect(answer: requests.Response) -> bool:
    return answer.status_code == 302 and answer.headers["Location"].startswith("https://")


def is_no_retry_after(answer: requests.Response) -> bool:
    return answer.status_code == 429 and "Retry-After" not in answer.headers


def last(column: int, wanted: Any) -> Callable[[requests.Response], bool]:
    return lambda answer: answer.json()[-1][column] == wanted


def is_page_of_a_block(answer: requests.Response) -> bool:
    kept = {"Retry-After", "X-MBX-USED-WEIGHT-1M"} & answer.headers.keys()
    return answer.status_code == 403 and "country" in answer.text and not kept


def is_without(open_s: int) -> Callable[[requests.Response], bool]:
    whole = {(DAY + 16 * 3600 - 300 * number) * 1000 for number in range(5)}
    return lambda answer: {row[0] for row in answer.json()} == whole - {open_s * 1000}


def is_of_ethereum(answer: requests.Response) -> bool:
    return bool(answer.json() == Exchange(clock=Clock()).klines("ETHUSDT", "5m", 5))


def is_unordered(answer: requests.Response) -> bool:
    opens = [row[0] for row in answer.json()]
    return opens == sorted(opens, reverse=True)


SEEN: dict[str, Callable[[requests.Response], bool]] = {
    "status": is_status,
    "html": is_html,
    "truncated": is_truncated,
    "redirect": is_redirect,
    "no_retry_after": is_no_retry_after,
    "empty": lambda answer: answer.json() == [],
    "wrong_shape": lambda answer: isinstance(answer.json(), dict),
    "short_rows": lambda answer: {len(row) for row in answer.json()} == {5},
    "duplicated": lambda answer: answer.json()[-1] == answer.json()[-2],
    "unordered": is_unordered,
    "future": lambda answer: answer.json()[-1][0] > (NOW + 80_000) * 1000,
    "not_json_number": last(0, "1700000000000"),
    "nan": last(4, "NaN"),
    "inf": last(4, "Infinity"),
    "negative_volume": last(5, "-1.00000000"),
    "high_below_low": lambda answer: float(answer.json()[-1][2]) < float(answer.json()[-1][3]),
    "close_above_high": lambda answer: float(answer.json()[-1][4]) > float(answer.json()[-1][2]),
    "lagging": lambda answer: answer.json()[-1][0] == (DAY + 16 * 3600 - 300) * 1000,
    "hold": lambda answer: (answer.status_code, answer.headers["Retry-After"]) == (429, "7"),
    "frozen": lambda answer: answer.json()[-1][0] == (DAY + 16 * 3600 - 600) * 1000,
    "hole": is_without(DAY + 16 * 3600 - 300),
    "mixed_up": is_of_ethereum,
    "bad_row": lambda answer: answer.json()[-3][0] == (DAY + 16 * 3600 - 600 + 7) * 1000,
    "blocked": is_page_of_a_block,
    "ban": lambda answer: (answer.status_code, answer.headers["Retry-After"]) == (418, "120"),
}
DETAIL: dict[str, dict[str, Any]] = {
    "lagging": {"seconds": 300},
    "frozen": {"at": NOW - 600},
    "bad_row": {"open_ms": (DAY + 16 * 3600 - 600) * 1000},
}


@pytest.mark.parametrize("kind", SEEN)
def test_a_fault_in_the_answer(exchange: Exchange, client: Client, clock: Clock, kind: str) -> None:
    exchange.fault(kind, symbol="BTCUSDT", path="klines", times=1, **DETAIL.get(kind, {}))
    assert client.get("ping").status_code == 200
    assert client.get("klines", **{**KLINES, "symbol": "ETHUSDT"}).status_code == 200
    assert SEEN[kind](client.get("klines", **KLINES))
    clock.now += 130  # a hold or a ban is over by then
    assert client.get("klines", **KLINES).json() == exchange.klines("BTCUSDT", "5m", 5)


TICKER_SEEN = {
    "nan": ("lastPrice", "NaN"),
    "inf": ("lastPrice", "Infinity"),
    "negative_volume": ("volume", "-1.00000000"),
    "high_below_low": ("highPrice", "0.00000000"),
    "close_above_high": ("lastPrice", "99999999.00000000"),
    "price_zero": ("lastPrice", "0.00000000"),
    "not_json_number": ("closeTime", "1700000000000"),
}


@pytest.mark.parametrize("kind", TICKER_SEEN)
def test_a_fault_in_one_of_several_tickers(exchange: Exchange, client: Client, kind: str) -> None:
    key, wrong = TICKER_SEEN[kind]
    exchange.fault(kind, symbol="ETHUSDT", path="ticker/24hr")
    some = client.get("ticker/24hr", symbols='["BTCUSDT","ETHUSDT"]').json()
    assert (some[0][key] != wrong, some[1][key]) == (True, wrong)
    assert client.get("ticker/24hr", symbol="ETHUSDT").json()[key] == wrong
    assert client.get("ticker/24hr", symbols='["BTCUSDT","SOLUSDT"]').json()[0][key] != wrong


def test_details_choose_what_is_wrong(exchange: Exchange, client: Client) -> None:
    for kind, detail, seen in (
        ("status", {"status": 451, "code": 0, "msg": "Unavailable"}, (451, "Unavailable")),
        ("status", {"status": 400, "msg": "Disconnected."}, (400, "Disconnected.")),
        ("wrong_shape", {"shape": "flat"}, (200, [1, 2, 3])),
        ("not_json_number", {"value": True}, (200, True)),
    ):
        exchange.fault(kind, times=1, **detail)
        answer = client.get("klines", **KLINES)
        value = answer.json()
        value = value["msg"] if kind == "status" else value
        value = value[-1][0] if kind == "not_json_number" else value
        assert (answer.status_code, value) == seen


@pytest.mark.parametrize("path", ["klines", "ticker/24hr"])
def test_any_two_faults_of_an_answer_go_together(
    exchange: Exchange, client: Client, path: str
) -> None:
    """Any answer will do, but there must be one."""
    params = KLINES if path == "klines" else {"symbols": '["BTCUSDT","ETHUSDT"]'}
    for two in permutations(SEEN.keys() - {"hold", "ban"}, 2):
        for kind in two:
            exchange.fault(kind, **DETAIL.get(kind, {}))
        assert client.get(path, **params).status_code
        exchange.clear()


def test_a_passing_trouble_may_have_the_status_400(exchange: Exchange, client: Client) -> None:
    for code in (-1000, -1001, -1007, -1008):
        exchange.fault("status", times=1, status=400, code=code)
        assert client.error("klines", **KLINES) == (400, code)


def test_frozen_since_the_injection(exchange: Exchange, client: Client, clock: Clock) -> None:
    def seen() -> list[Any]:
        return [client.get(path, **params).json() for path, params in asked]

    asked = [
        ("time", {}),
        ("klines", KLINES),
        ("ticker/24hr", {"symbol": "BTCUSDT"}),
        ("ticker/price", {"symbol": "BTCUSDT"}),
    ]
    before = seen()
    exchange.fault("frozen")
    clock.now += 3600
    assert seen() == before
    ping = client.get("ping")
    assert ping.headers["Date"] == "Mon, 24 Nov 2025 17:02:03 GMT"
    assert ping.headers["X-MBX-USED-WEIGHT-1M"] == "5"  # the limits' minute is a new one
    exchange.clear("frozen")
    assert not any(map(lambda a, b: a == b, seen(), before))


def test_frozen_for_one_symbol(exchange: Exchange, client: Client, clock: Clock) -> None:
    exchange.fault("frozen", symbol="ETHUSDT", at=NOW - 100)
    some = client.get("ticker/24hr", symbols='["BTCUSDT","ETHUSDT"]').json()
    assert [entry["closeTime"] for entry in some] == [int(NOW * 1000), int((NOW - 100) * 1000)]
    assert client.get("time").json() == {"serverTime": int(NOW * 1000)}


def test_a_hole_further_back_and_in_a_short_answer(exchange: Exchange, client: Client) -> None:
    whole = client.opens(**KLINES)
    exchange.fault("hole")
    assert client.opens(**{**KLINES, "limit": 3}) == [whole[2], whole[4]]
    exchange.clear()
    exchange.fault("hole", back=3)
    assert client.opens(**KLINES) == [whole[0], *whole[2:]]
    assert client.opens(**{**KLINES, "limit": 3}) == whole[2:]


def test_candles_of_another_symbol(exchange: Exchange, client: Client) -> None:
    exchange.fault("mixed_up", symbol="BTCUSDT", other="SOLUSDT")
    assert client.get("klines", **KLINES).json() == exchange.klines("SOLUSDT", "5m", 5)
    exchange.clear()
    exchange.fault("mixed_up")
    last = market.DEFAULT_SYMBOLS[-1]
    answer = client.get("klines", symbol=last, interval="5m", limit=5)
    assert answer.json() == exchange.klines("BTCUSDT", "5m", 5)


@pytest.mark.parametrize(
    ("how", "column"), [("off_grid", 0), ("high_below_open", 2), ("low_zero", 3)]
)
def test_one_bad_row_stays(
    exchange: Exchange, client: Client, clock: Clock, how: str, column: int
) -> None:
    exchange.fault("bad_row", symbol="BTCUSDT", interval="5m", how=how)
    for place in (-301, -302):
        truth = exchange.klines("BTCUSDT", "5m", 500)
        rows = client.get("klines", symbol="BTCUSDT", interval="5m", limit=500).json()
        assert [row for row in rows if row not in truth] == [rows[place]]
        kept = [field for number, field in enumerate(truth[place]) if number != column]
        assert [f for number, f in enumerate(rows[place]) if number != column] == kept
        clock.now += 300
    assert how != "high_below_open" or Decimal(rows[place][2]) < Decimal(rows[place][1])
    assert how != "low_zero" or rows[place][3] == "0.00000000"
    hours = client.get("klines", symbol="BTCUSDT", interval="1h", limit=500).json()
    assert hours == exchange.klines("BTCUSDT", "1h", 500)


def test_blocked_by_the_network(exchange: Exchange, client: Client, clock: Clock) -> None:
    exchange.fault("blocked", seconds=60)
    assert all(is_page_of_a_block(client.get(path)) for path in ("ping", "nope", "klines"))
    assert exchange.totals["weight"] == 0
    clock.now += 60
    assert client.get("ping").headers["X-MBX-USED-WEIGHT-1M"] == "1"
    exchange.fault("blocked", status=451)
    exchange.fault("hold")  # never reached
    assert client.get("ping").status_code == 451
    exchange.clear()
    assert client.get("ping").status_code == 200


def test_late_candles_become_final(exchange: Exchange, client: Client, clock: Clock) -> None:
    clock.now = DAY + 301
    exchange.fault("late", seconds=5)
    early = client.get("klines", **KLINES).json()
    truth = exchange.klines("BTCUSDT", "5m", 5)
    assert early[-2] != truth[-2] and Decimal(early[-2][5]) < Decimal(truth[-2][5])
    assert early[:-2] + early[-1:] == truth[:-2] + truth[-1:]
    clock.now = DAY + 305
    assert client.get("klines", **KLINES).json()[-2] == truth[-2]


def test_revised_candles_until_cleared(exchange: Exchange, client: Client) -> None:
    truth = exchange.klines("BTCUSDT", "5m", 5)
    fault = exchange.fault("revised", candles=2)
    revised = client.get("klines", **KLINES).json()
    assert [a == b for a, b in zip(truth, revised, strict=True)] == [True, True, False, False, True]
    assert revised[2][4] == revised[2][2] > truth[2][2]
    assert exchange.clear(fault) == 1
    assert client.get("klines", **KLINES).json() == truth


def test_a_gap_is_made_up_for_by_older_candles(exchange: Exchange, client: Client) -> None:
    whole = [row[0] for row in exchange.klines("BTCUSDT", "5m", 7)]
    exchange.fault("gap", start=whole[2] / 1000, end=whole[4] / 1000)
    assert client.opens(**KLINES) == whole[:2] + whole[4:]
    assert client.opens(**KLINES, startTime=whole[1]) == [whole[1], *whole[4:]]


def test_used_weight_of_another_program(exchange: Exchange, client: Client) -> None:
    exchange.fault("used_weight", weight=5998)
    assert client.get("ping").headers["X-MBX-USED-WEIGHT-1M"] == "5999"
    assert client.get("ping").status_code == 200
    assert client.get("ping").status_code == 429
    assert exchange.totals["weight"] == 3


def test_a_hold_is_for_everything_and_ends(
    exchange: Exchange, client: Client, clock: Clock
) -> None:
    exchange.fault("hold", path="klines", seconds=7)
    assert client.get("ping").status_code == 200
    assert client.get("klines", **KLINES).headers["Retry-After"] == "7"
    clock.now += 4.5
    assert client.get("ping").headers["Retry-After"] == "3"
    clock.now += 2.5
    assert client.get("klines", **KLINES).status_code == 200
    assert [request.status for request in exchange.requests] == [200, 429, 429, 200]


def test_clear_ends_holds_and_bans(exchange: Exchange, client: Client) -> None:
    for kind, status in (("hold", 429), ("ban", 418)):
        exchange.fault(kind, seconds=1000)
        assert [client.get("ping").status_code for _ in range(2)] == [status, status]
        exchange.clear(kind)
        assert client.get("ping").status_code == 200


def test_short_body(exchange: Exchange, client: Client) -> None:
    exchange.fault("short_body", times=1)
    with connected(exchange) as connection:
        ask(connection, "/api/v3/time")
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    assert f"Content-Length: {2 * len(body)}".encode() in head or len(body) < 20
    assert 0 < len(body) < len(client.get("time").content)


def test_huge_streams_until_the_client_hangs_up(exchange: Exchange) -> None:
    exchange.fault("huge", megabytes=50)
    with closing(requests.get(f"{exchange.url}/api/v3/ping", stream=True, timeout=10)) as answer:
        assert int(answer.headers["Content-Length"]) == 50_000_002
        assert len(next(answer.iter_content(1_000_000))) == 1_000_000
    wait_for(lambda: not open_connections(exchange))
    assert exchange.totals["bytes_sent"] < 50_000_000


def test_reset(exchange: Exchange) -> None:
    exchange.fault("reset")
    with connected(exchange) as connection:
        ask(connection)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert exchange.requests[0].status == 0


def test_drip_from_the_first_byte_or_the_body(exchange: Exchange) -> None:
    exchange.fault("drip", times=1, seconds=0.01)
    exchange.fault("drip", path="time", seconds=0.01, where="body")
    with connected(exchange) as connection:
        ask(connection)
        assert b"HTTP/1.1 200".startswith(connection.recv(100))
    with connected(exchange) as connection:
        ask(connection, "/api/v3/time")
        assert connection.recv(4096).endswith(b"\r\n\r\n")
        assert b'{"serverTime":'.startswith(connection.recv(100))


@pytest.mark.parametrize("end", ["clear", "stop", "hang up"])
def test_silent_until_cleared_stopped_or_hung_up(exchange: Exchange, end: str) -> None:
    exchange.fault("silent")
    with connected(exchange) as connection:
        ask(connection)
        wait_for(lambda: exchange.requests)
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        if end == "hang up":
            connection.shutdown(socket.SHUT_WR)
        else:
            exchange.clear() if end == "clear" else exchange.stop()
        assert connection.recv(1) == b""
    wait_for(lambda: not open_connections(exchange))


@pytest.mark.parametrize("kind", ["silent", "drip", "huge"])
def test_stop_waits_for_no_fault(exchange: Exchange, kind: str) -> None:
    exchange.fault(kind)
    with connected(exchange) as connection:
        ask(connection)
        wait_for(lambda: exchange.requests)
        began = time.monotonic()
        exchange.stop()
        assert time.monotonic() - began < 20


def test_every_fault_is_tested() -> None:
    elsewhere = {
        "late",
        "revised",
        "gap",
        "used_weight",
        "short_body",
        "huge",
        "reset",
        "drip",
        "silent",
    }
    assert set(KINDS) == {*SEEN, *TICKER_SEEN, *elsewhere}


def test_an_unknown_fault_is_refused(exchange: Exchange) -> None:
    with pytest.raises(ValueError, match="fire"):
        exchange.fault("fire")
    with pytest.raises(ValueError, match="low_zero"):
        exchange.fault("bad_row", how="upside_down")
    with pytest.raises(ValueError, match="15m"):
        exchange.fault("bad_row", interval="7m")


def wait_for(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 40
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def open_connections(exchange: Exchange) -> list[threading.Thread]:
    """The threads that are still serving a connection."""
    return [thread for thread in threading.enumerate() if "process_request" in thread.name]
