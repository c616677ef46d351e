"""The local API: the same answers as the exchange gives at the same moment, or an error that says
why it has none."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import fakeredis
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fetcher
from binance_answers import TIMEFRAME_MS, as_json
from candles import boot_s
from demo.exchange import Exchange
from local_api import PREFIX, LocalApi
from market_data import MarketData
from settings import Settings
from store import LISTING_TTL_S

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SHIBUSDT")
NEW = "SUIUSDT"  # listed so recently that all of its candles are held
HELD = 60
STEP = 300_000
NOW_MS = int(time.time() * 1000)
PATHS = ["ping", "time", "exchangeInfo", "klines", "ticker/24hr", "ticker/price"]
HALTED = "SHIBUSDT"


def api_of(service: MarketData) -> LocalApi:
    return LocalApi(service.settings, service.store, service.other_leader)


class Local:
    """A service on an exchange whose clock stands still, and the two APIs side by side."""

    def __init__(self, timeframes: str = "5m:5:20,1h:7:30") -> None:
        self.now = int(time.time() * 1000) / 1000
        self.exchange = Exchange(
            (*SYMBOLS, NEW, "XRPUSDT"), clock=lambda: self.now, listed_at={NEW: self.now - 20 * 300}
        ).start()
        self.settings = Settings.from_env(
            {
                "BINANCE_BASE_URL": self.exchange.url,
                "SYMBOLS": ",".join((*SYMBOLS, NEW)),
                "CANDLE_LIMIT": str(HELD),
                "TIMEFRAMES": timeframes,
            }
        )
        self.exchange.halt(HALTED)
        self.redis = fakeredis.FakeRedis(decode_responses=True)
        self.service = MarketData(self.settings, self.redis)
        self.api = api_of(self.service)
        self.asked = 0

    def refresh(self) -> None:
        for timeframe in self.settings.timeframes:
            self.service.refresh(timeframe)

    def ask(self, path: str, **params: object) -> tuple[int, Any]:
        return self.ask_raw(path, urlencode(params))

    def ask_raw(self, path: str, query: str) -> tuple[int, Any]:
        status, body = self.api.answer(PREFIX + path, query)
        return status, json.loads(body)

    def ask_exchange(self, path: str, query: str) -> tuple[int, Any]:
        self.asked += 1  # a new address each time, so no limit is reached
        reply, _ = self.exchange.serve("GET", PREFIX + path, query, f"client {self.asked}")
        return reply.status, json.loads(json.dumps(reply.value))

    def close(self) -> None:
        self.service.stop(until=time.monotonic() + 5)
        self.exchange.stop()


@pytest.fixture
def local() -> Iterator[Local]:
    made = Local()
    made.refresh()
    yield made
    made.close()


@pytest.fixture(scope="module")
def still() -> Iterator[Local]:
    """For tests that change nothing. Its data does not expire meanwhile."""
    made = Local("5m:5:9999,1h:7:9999")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetcher, "PRICE_TTL_S", 9999)
        patch.setattr("candles.FRESH_LENGTHS", 9999)
        made.refresh()
    yield made
    made.close()


def without_time(path: str, body: Any) -> Any:
    """Drop serverTime: the clock of the simulated exchange stands still, the service's does not."""
    if path in ("time", "exchangeInfo") and isinstance(body, dict):
        return {name: value for name, value in body.items() if name != "serverTime"}
    return body


# --- the same as the exchange ---

symbols = st.sampled_from([*SYMBOLS, NEW, "XRPUSDT", "NOUSDT", "btcusdt", ""])
symbol_lists = st.one_of(
    st.lists(st.sampled_from([*SYMBOLS, NEW, "NOUSDT"]), max_size=4).map(
        lambda names: json.dumps(names, separators=(",", ":"))
    ),
    st.sampled_from(["[]", "[", "BTCUSDT", '["BTCUSDT",]', '["BTCUSDT", "ETHUSDT"]']),
)
intervals = st.sampled_from(["5m", "1h", "4h", "1m", "7m", "", "5M"])
statuses = st.sampled_from(["TRADING", "HALT", "BREAK"])
permissions = st.sampled_from(["SPOT", "MARGIN", '["SPOT"]', '["MARGIN","SPOT"]', "[]", "spot", ""])
time_zones = st.sampled_from(["0", "+00:00", "-1:00", "05:45", "8", "-12:01", "14", "15", "UTC"])
limits = st.one_of(st.integers(0, 70), st.sampled_from([500, 1000, 1001, 10**19, -1, "x", ""]))


@st.composite
def queries(draw: Callable[..., Any]) -> tuple[str, str]:
    path = draw(st.sampled_from([*PATHS, *["klines"] * 6, "depth", "klines/"]))
    times = st.one_of(
        st.integers(-80, 5).map(lambda n: (NOW_MS // STEP + n) * STEP),
        st.integers(NOW_MS - 80 * STEP, NOW_MS + STEP),
        st.sampled_from([0, "", "1e3", -5, 10**18]),
    )
    known = {
        "symbol": symbols,
        "symbols": symbol_lists,
        "interval": intervals,
        "limit": limits,
        "startTime": times,
        "endTime": times,
        "type": st.sampled_from(["FULL", "MINI", "mini", ""]),
        "permissions": permissions,
        "showPermissionSets": st.sampled_from(["true", "false", "no"]),
        "symbolStatus": statuses,
        "timeZone": time_zones,
        "what": st.just("x"),
    }
    usual = ["symbol", "interval"] if path == "klines" and draw(st.integers(0, 9)) else []
    more = st.lists(st.sampled_from(sorted(known)), max_size=3, unique=draw(st.integers(0, 9)) > 0)
    names = usual + [name for name in draw(more) if name not in usual]
    return path, urlencode([(name, draw(known[name])) for name in names])


def is_not_held(code: int, message: str) -> bool:
    """Whether an error says that the service, but not the exchange, lacks this data."""
    says = {-1121: "SYMBOLS", -1120: "TIMEFRAMES", -1130: "CANDLE_LIMIT|UTC"}
    return bool(re.search(says.get(code, "^$"), message))


@given(query=queries())
def test_it_answers_as_the_exchange_does_or_says_that_it_does_not_hold_it(
    still: Local, query: tuple[str, str]
) -> None:
    path, text = query
    assume(not (path.startswith("ticker") and "symbolStatus" in text))  # see the next test
    status, body = still.ask_raw(path, text)
    there_status, there = still.ask_exchange(path, text)
    if path in PATHS and status == 400 and is_not_held(body["code"], body["msg"]):
        assert there_status == 200 or there["code"] == -1121
        return
    assert status == there_status
    if path in PATHS and "symbol" not in text and path.startswith("ticker"):
        there = (
            [row for row in there if row["symbol"] != "XRPUSDT"]
            if isinstance(there, list)
            else there
        )
    if path == "exchangeInfo" and status == 200:
        there["symbols"] = [row for row in there["symbols"] if row["symbol"] != "XRPUSDT"]
    if status == 400 and {body["code"], there["code"]} <= {-1101, -1104}:
        return  # which of them depends on how many are known
    if path not in PATHS:
        there["msg"] = body["msg"]  # it names the paths that are served here
    assert without_time(path, body) == without_time(path, there)


@pytest.mark.parametrize("timeframe", ["5m", "1h"])
@pytest.mark.parametrize(
    "params",
    [
        {"limit": HELD},
        {"limit": 1},
        {"limit": 7},
        {"start": -10},
        {"start": -HELD + 1, "limit": 20},
        {"start": -20, "end": -10},
        {"start": -20, "end": -10, "limit": 3},
        {"start": 3},
        {"end": -3, "limit": 50},
        {"start": -5, "end": -9},
    ],
)
def test_each_range_that_is_held(still: Local, timeframe: str, params: dict[str, int]) -> None:
    step = TIMEFRAME_MS[timeframe]
    newest = int(still.now * 1000) // step * step
    asked = {"symbol": "BTCUSDT", "interval": timeframe, "limit": params.get("limit", HELD)}
    for name in ("start", "end"):
        if name in params:
            asked[f"{name}Time"] = newest + params[name] * step
    status, rows = still.ask("klines", **asked)
    assert (status, rows) == still.ask_exchange("klines", urlencode(asked))
    assert status == 200 and (rows or params.get("start", 0) in (3, -5))


def test_of_a_new_symbol_all_is_held(still: Local) -> None:
    for params in ({}, {"limit": 1000}, {"startTime": 0}, {"endTime": int(still.now * 1000)}):
        status, rows = still.ask("klines", symbol=NEW, interval="5m", **params)
        assert status == 200 and len(rows) == 21


# --- parameters that select among what is held ---


@pytest.mark.parametrize("path", ["ticker/24hr", "ticker/price"])
@pytest.mark.parametrize("status", ["TRADING", "BREAK", "HALT"])
def test_tickers_are_those_of_the_symbols_with_the_status(
    still: Local, path: str, status: str
) -> None:
    with_status = {"TRADING": {"BTCUSDT", "ETHUSDT", NEW}, "BREAK": {HALTED}, "HALT": set()}[status]
    for asked in ({}, {"symbols": f'["{HALTED}","ETHUSDT"]'}, {"symbols": '["BTCUSDT"]'}):
        answered = still.ask(path, **asked)[1]
        expected = [row for row in answered if row["symbol"] in with_status]
        assert still.ask(path, **asked, symbolStatus=status) == (200, expected)
    mismatch = "The symbol's status does not match the requested symbolStatus."
    for symbol in ("BTCUSDT", HALTED):
        answer = still.ask(path, symbol=symbol)
        if symbol not in with_status:
            answer = 400, {"code": -1220, "msg": mismatch}
        assert still.ask(path, symbol=symbol, symbolStatus=status) == answer


def test_permission_sets_are_lists_of_lists_or_left_out(local: Local) -> None:
    listing = local.service.store.listing()
    assert listing
    sets = {"BTCUSDT": [["SPOT", "MARGIN"], ["TRD_GRP_007"]], "ETHUSDT": [["LEVERAGED"]], NEW: None}
    rows = {
        symbol: json.loads(row) | {"permissions": [], "permissionSets": sets.get(symbol, [])}
        for symbol, row in listing.rows.items()
    }
    listing = listing._replace(rows={symbol: as_json(row) for symbol, row in rows.items()})
    local.service.store.take_listing(listing)

    def found(**params: str) -> list[str]:
        return [row["symbol"] for row in local.ask("exchangeInfo", **params)[1]["symbols"]]

    assert found() == list(rows)  # those without any, too
    assert found(permissions="SPOT") == found(permissions="TRD_GRP_007") == ["BTCUSDT"]
    assert found(permissions='["LEVERAGED","MARGIN"]') == ["BTCUSDT", "ETHUSDT"]
    assert found(permissions="LEVERAGED", symbolStatus="BREAK") == []
    shown = local.ask("exchangeInfo", symbol="BTCUSDT")[1]["symbols"]
    assert shown == [rows["BTCUSDT"]]
    left = local.ask("exchangeInfo", symbol="BTCUSDT", showPermissionSets="false")[1]["symbols"]
    assert left == [rows["BTCUSDT"] | {"permissionSets": []}]


@pytest.mark.parametrize("time_zone", ["0", "00:00", "+00:00", "-0", "8", "-12:00", "+14:00"])
def test_in_a_time_zone_that_is_whole_candles_away_candles_are_the_same(
    still: Local, time_zone: str
) -> None:
    asked = {"symbol": "BTCUSDT", "interval": "1h", "limit": HELD}
    assert still.ask("klines", **asked, timeZone=time_zone) == still.ask("klines", **asked)


@pytest.mark.parametrize(
    ("path", "params", "code", "names"),
    [
        ("klines", {"timeZone": "05:30"}, -1130, "UTC"),
        ("klines", {"timeZone": "-0:30"}, -1130, "UTC"),
        ("klines", {"timeZone": "14:01"}, -1130, "timeZone"),
        ("klines", {"timeZone": "-13"}, -1130, "timeZone"),
        ("klines", {"timeZone": "UTC"}, -1100, "timeZone"),
        ("klines", {"timeZone": ""}, -1105, "timeZone"),
        ("exchangeInfo", {"symbolStatus": "TRADING", "symbol": "BTCUSDT"}, -1128, "Combination"),
        ("exchangeInfo", {"symbolStatus": "BREAK", "symbols": '["BTCUSDT"]'}, -1128, "Combination"),
        ("exchangeInfo", {"permissions": "SPOT", "symbol": "BTCUSDT"}, -1128, "Combination"),
        ("exchangeInfo", {"permissions": "spot"}, -1100, "permissions"),
        ("exchangeInfo", {"permissions": "[]"}, -1100, "permissions"),
        ("exchangeInfo", {"permissions": '["SPOT",]'}, -1100, "permissions"),
        ("exchangeInfo", {"showPermissionSets": "no"}, -1130, "showPermissionSets"),
        ("exchangeInfo", {"symbolStatus": "trading"}, -1122, "symbolStatus"),
        ("ticker/24hr", {"symbolStatus": "AUCTION_MATCH"}, -1122, "symbolStatus"),
        ("ticker/price", {"symbolStatus": ""}, -1105, "symbolStatus"),
        ("ticker/price", {"symbolStatus": "TRADING", "symbol": "NOUSDT"}, -1121, "SYMBOLS"),
        ("ticker/price", {"timeZone": "0"}, -1104, "read"),
        ("klines", {"symbolStatus": "TRADING"}, -1104, "read"),
    ],
)
def test_selections_that_the_exchange_would_refuse_or_that_are_not_served(
    still: Local, path: str, params: dict[str, str], code: int, names: str
) -> None:
    usual = {"symbol": "BTCUSDT", "interval": "1h", "limit": 5} if path == "klines" else {}
    status, body = still.ask(path, **usual | params)
    assert (status, body["code"]) == (400, code) and names in body["msg"]


@given(
    path=st.sampled_from(PATHS[2:]),
    name=st.sampled_from(["permissions", "showPermissionSets", "symbolStatus", "timeZone"]),
    text=st.one_of(st.text(max_size=12), st.from_regex(r"[+-]?\d{1,3}(:\d\d)?", fullmatch=True)),
)
def test_any_text_is_answered_or_is_an_error_in_the_exchange_s_format(
    still: Local, path: str, name: str, text: str
) -> None:
    usual = {"symbol": "BTCUSDT", "interval": "1h", "limit": 5} if path == "klines" else {}
    status, body = still.ask(path, **usual | {name: text})
    assert status == 200 or (status == 400 and body["code"] <= -1100 and body["msg"])


# --- data that is not held ---


@pytest.mark.parametrize(
    ("params", "code", "says"),
    [
        ({"symbol": "XRPUSDT", "interval": "5m"}, -1121, "SYMBOLS"),
        ({"symbol": "BTCUSDT", "interval": "4h"}, -1120, "5m, 1h"),
        ({"symbol": "BTCUSDT", "interval": "1w"}, -1120, "TIMEFRAMES"),
        ({"symbol": "BTCUSDT", "interval": "5m"}, -1130, "60 candles"),  # 500 by default
        ({"symbol": "BTCUSDT", "interval": "5m", "limit": HELD + 1}, -1130, "CANDLE_LIMIT"),
        ({"symbol": "BTCUSDT", "interval": "5m", "startTime": 0}, -1130, "startTime"),
        ({"symbol": "BTCUSDT", "interval": "5m", "endTime": 0}, -1130, "endTime"),
    ],
)
def test_what_is_not_held_is_an_error_that_says_so(
    local: Local, params: dict[str, Any], code: int, says: str
) -> None:
    before = len(local.exchange.requests)
    status, body = local.ask("klines", **params)
    assert (status, body["code"]) == (400, code) and says in body["msg"]
    assert len(local.exchange.requests) == before


def test_nothing_older_than_its_ttl_is_answered(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"symbol": "BTCUSDT", "interval": "5m", "limit": 5}
    later = boot_s() + 21
    local.exchange.fault("status", status=500)
    local.refresh()
    assert local.ask("klines", **asked)[0] == 200  # still fresh
    monkeypatch.setattr(time, "clock_gettime", lambda _: later)
    status, body = local.ask("klines", **asked)
    assert (status, body["code"]) == (503, -1001)
    assert body["msg"] == "There is no fresh data of BTCUSDT: HTTP 500"
    assert local.ask("klines", **asked | {"interval": "1h"})[0] == 200  # its TTL is 30 s
    assert local.ask("ticker/price", symbol="BTCUSDT")[0] == 200  # 60 s
    later += 40
    for path in ("ticker/price", "ticker/24hr"):
        assert local.ask(path, symbol="BTCUSDT")[0] == 503
        assert local.ask(path, symbols='["BTCUSDT","ETHUSDT"]')[0] == 503
        assert local.ask(path)[0] == 503
    assert local.ask("exchangeInfo")[0] == 200
    later += LISTING_TTL_S
    assert local.ask("exchangeInfo")[0] == 503
    status, body = local.ask("ticker/price", symbolStatus="TRADING")
    assert status == 503 and "list of symbols" in body["msg"]
    assert local.ask("ping") == (200, {})


def test_before_the_first_read_and_on_a_standby(local: Local) -> None:
    fresh = MarketData(local.settings, local.redis)
    api = api_of(fresh)

    def said(path: str, query: str = "") -> tuple[int, str]:
        status, body = api.answer(PREFIX + path, query)
        return status, json.loads(body)["msg"]

    klines = "symbol=BTCUSDT&interval=5m&limit=5"
    unread = "There is no fresh data of BTCUSDT: It was not read yet."
    assert said("klines", klines) == (503, unread)
    assert said("exchangeInfo")[0] == said("ticker/price")[0] == 503
    local.service.claim()
    fresh.claim()
    assert fresh.other_leader() == local.service.lease.token
    assert said("klines", klines) == (
        503,
        f"{local.service.lease.token} fetches, this instance stands by.",
    )
    fresh.stop(until=time.monotonic() + 1)


def test_a_symbol_that_the_exchange_does_not_know(local: Local) -> None:
    local.exchange.delist("ETHUSDT")
    local.refresh()
    asked = {"symbol": "ETHUSDT", "interval": "5m", "limit": 5}
    assert local.ask("klines", **asked) == (400, {"code": -1121, "msg": "Invalid symbol."})
    assert local.ask("ticker/price", symbol="ETHUSDT")[1]["code"] == -1121
    assert [row["symbol"] for row in local.ask("ticker/price")[1]] == ["BTCUSDT", "SHIBUSDT", NEW]
    trading = local.ask("ticker/price", symbolStatus="TRADING")[1]
    assert [row["symbol"] for row in trading] == ["BTCUSDT", NEW]


def test_rows_stay_the_exchange_s_own_through_many_refreshes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = urlencode({"symbol": "BTCUSDT", "interval": "5m", "limit": HELD})
    local = Local()
    local.now -= 100 * 280
    monkeypatch.setattr(time, "time", lambda: local.now)
    for _ in range(100):
        local.now += 280
        local.service.refresh(local.settings.timeframes[0])
        assert local.ask_raw("klines", asked) == local.ask_exchange("klines", asked)
    local.close()
