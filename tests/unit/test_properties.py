"""What must hold for anything that may happen, tried on examples that hypothesis makes up."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import fakeredis
import pytest
import redis
import responses
from hypothesis import example, given
from hypothesis import strategies as st

import binance_client
import fetcher
import redis_log
import store as store_module
from binance_answers import (
    TIMEFRAME_MS,
    BadResponse,
    BinanceError,
    Candles,
    Listing,
    RateLimited,
    Retryable,
    Ticker,
    parse_klines,
    parse_tickers,
)
from binance_client import BinanceClient, RateLimiter
from candles import Feed, Series
from fetcher import Fetcher
from redis_log import DEFAULT_KEY, read_log
from settings import Settings
from store import Store
from tests.candles import rows_of, written
from tests.support import Clock

# --- what is read in parts equals what is read whole ---

REVISED_FOR_S = 60  # two refreshes: the exchange may change a candle for so long after its close
FIRST = 1000  # the number of the market's first candle, which opens FIRST * step_s after the epoch


@dataclass(frozen=True)
class Market:
    """Candle number n appears and then changes at the seconds after its open that are in
    `pattern[n % len(pattern)]`; where there are none is a gap. Its prices tell n and the change."""

    step_s: int
    pattern: list[list[int]]

    def candle(self, number: int, change: int) -> list[Any]:
        """Its row at the exchange."""
        value = f"{number * 10 + change}.0"
        return [number * self.step_s * 1000, *[value] * 5, 0, value, change, value, value, "0"]

    def changes(self, number: int, at: int) -> list[int]:
        """The indexes of what has happened to the candle until `at`."""
        offsets = self.pattern[number % len(self.pattern)] if number >= FIRST else []
        return [n for n, after in enumerate(offsets) if number * self.step_s + after <= at]

    def newest(self, count: int, at: int) -> list[list[Any]]:
        """What a right answer of the exchange has at that second."""
        found: list[list[Any]] = []
        for number in range(at // self.step_s, FIRST - 1, -1):
            if len(found) < count and (changes := self.changes(number, at)):
                found.append(self.candle(number, changes[-1]))
        return found[::-1]

    def is_in_time(self, candle: list[Any]) -> bool:
        """Whether it appeared before its close."""
        number = candle[0] // 1000 // self.step_s
        return self.pattern[number % len(self.pattern)][0] < self.step_s

    def ever_had(self, candle: list[Any], until: int) -> bool:
        number = candle[0] // 1000 // self.step_s
        return candle in [self.candle(number, change) for change in self.changes(number, until)]


class Answer(NamedTuple):
    """It takes `takes_s`, and shows the exchange of `late_s` before, or fails. If only a part of
    the series was asked for, it may have just the newest `short` and not the one at `hole`."""

    takes_s: int = 0
    late_s: int = 0
    short: int = 0
    hole: int = 0
    fails: bool = False


class Exchange:
    """BinanceClient.klines on a Market; the answers are scripted, then right and at once."""

    def __init__(self, market: Market, now: int, candle_limit: int) -> None:
        self.market, self.now, self.candle_limit = market, now, candle_limit
        self.script: Iterator[Answer] = iter([])
        self.shown_at, self.failed, self.whole = 0, False, False  # of the last answer

    def klines(self, symbol: str, timeframe: str, limit: int, give_up_at: float) -> Candles:
        answer = next(self.script, Answer())
        self.now += answer.takes_s
        self.shown_at = self.now - answer.late_s
        candles = self.market.newest(limit, self.shown_at)
        self.failed, self.whole = answer.fails or not candles, limit == self.candle_limit
        if self.failed:
            raise Retryable("HTTP 503")
        if self.whole:
            return written(candles)
        # Of one that came after its close, nobody who has not seen it can tell that it is missing.
        inner = 0 < answer.hole < len(candles) - 1
        if inner and self.market.is_in_time(candles[answer.hole]):
            del candles[answer.hole]
        return written(candles[-answer.short :])


def rarely(strategy: st.SearchStrategy[Any], usually: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usually), st.just(usually), strategy)


def markets() -> st.SearchStrategy[Market]:
    def of_step(step_s: int) -> st.SearchStrategy[Market]:
        after = st.integers(0, step_s + REVISED_FOR_S - 1)
        revised = st.integers(step_s, step_s + REVISED_FOR_S - 1).map(lambda at: [0, at])
        any_times = st.lists(after, max_size=4, unique=True).map(sorted)
        candle = st.one_of(st.just([0]), revised, any_times)
        return st.builds(Market, st.just(step_s), st.lists(candle, min_size=1, max_size=12))

    return st.sampled_from([60, 300]).flatmap(of_step)


answers = st.builds(
    Answer,
    takes_s=rarely(st.integers(0, 24), 0),
    late_s=rarely(st.integers(0, 400), 0),
    short=rarely(st.integers(1, 4), 0),
    hole=rarely(st.integers(1, 4), 0),
    fails=rarely(st.booleans(), False),
)
pauses = st.one_of(st.integers(0, 40), st.integers(0, 700), st.just(3700))


class TestMerging:
    # The second read begins in one candle and is answered in the next, after the first read's
    # last but one was revised.
    @example(
        market=Market(60, [[0, 61]]),
        age_s=37,
        limit=10,
        ahead_s=0,
        reads=[(23, []), (156, [Answer(takes_s=24)])],
    )
    @given(
        market=markets(),
        age_s=st.integers(0, 6000),
        limit=st.integers(10, 14),
        ahead_s=rarely(st.integers(-10, 10), 0),
        reads=st.lists(st.tuples(pauses, st.lists(answers, max_size=2)), min_size=2, max_size=25),
    )
    def test_a_series_read_in_parts_is_what_a_whole_read_would_have_brought(
        self,
        market: Market,
        age_s: int,
        limit: int,
        ahead_s: int,
        reads: list[tuple[int, list[Answer]]],
    ) -> None:
        """However late, short or failed the answers are: after each that was taken, the series
        is the whole truth of the moment that the answer shows."""
        exchange = Exchange(market, FIRST * market.step_s + age_s, limit)
        name = {60: "1m", 300: "5m"}[market.step_s]
        environ = {"SYMBOLS": "BTCUSDT", "TIMEFRAMES": f"{name}:30:120", "CANDLE_LIMIT": str(limit)}
        clock = SimpleNamespace(
            time=lambda: float(exchange.now + ahead_s), monotonic=lambda: float(exchange.now)
        )
        with (
            patch.multiple(fetcher, time=clock, boot_s=clock.monotonic),
            patch.multiple(store_module, time=clock, boot_s=clock.monotonic),
        ):
            settings = Settings.from_env(environ)
            held = Store(settings)
            reader = Fetcher(settings, exchange, held)  # type: ignore[arg-type]
            for pause_s, script in [*reads, (0, [])]:
                exchange.now += pause_s
                exchange.script = iter(script)
                self.read(settings, held, reader, exchange)

    def read(self, settings: Settings, store: Store, reader: Fetcher, exchange: Exchange) -> None:
        [timeframe] = settings.timeframes
        feed, limit = Feed("BTCUSDT", timeframe.name), settings.candle_limit
        before: Any = store.held(feed)
        results = reader.read_candles(feed, timeframe, math.inf)
        update = store.take(timeframe, results, exchange.now)
        held: Any = store.held(feed)
        if not update.updated:
            assert update.failed and held is before
            assert exchange.failed or exchange.whole  # a bad part is no reason to have nothing
            return
        assert isinstance(held, Series)
        candles, times = rows_of(held.candles), list(held.candles.times)
        assert times == [row[0] for row in candles]
        assert times == sorted(set(times)) and len(times) <= limit
        assert [list(fields.values()) for fields in json.loads(held.json())] == [
            [row[0], *map(float, row[1:6])] for row in candles
        ]
        assert all(exchange.market.ever_had(candle, exchange.now) for candle in candles)
        assert candles == exchange.market.newest(limit, exchange.shown_at)
        if before and before.expires_at > exchange.now:
            assert held.newest_ms >= before.newest_ms


# --- the limiter ---


class Ask(NamedTuple):
    weight: int
    patience_s: float


class Hold(NamedTuple):
    seconds: float


class Report(NamedTuple):
    """The exchange says how much weight was used."""

    used: int


class Callers(Clock):
    """Carries out `events`, each so many seconds after the one before; also while a caller waits,
    who therefore may wake late. What happened is in the logs, in order, with its time."""

    ROUNDING_S = 1e-6

    def __init__(self, own: int, address: int, requests: int, travel_s: float) -> None:
        super().__init__()
        self.own, self.address, self.requests, self.travel_s = own, address, requests, travel_s
        self.events: list[tuple[float, Ask | Hold | Report]] = []
        self.grants: list[tuple[float, int]] = []
        self.used: list[tuple[float, int]] = []  # grants, and what others must have used
        self.held_until = 0.0
        limits: dict[str, Any] = {"WEIGHT_LIMIT": address, "REQUESTS_LIMIT": requests}
        with patch.multiple(binance_client, **limits):
            self.limiter = RateLimiter(own, travel_s=travel_s, clock=self, wait=self.wait)

    def wait(self, seconds: float) -> bool:
        assert seconds > 0 and len(self.waits) < 1000
        self.waits.append(seconds)
        wakes_at = self.now + seconds
        while self.events and self.now + self.events[0][0] <= wakes_at:
            self.next_event()
        if self.events and self.now < wakes_at:
            after_s, event = self.events[0]
            self.events[0] = (after_s - (wakes_at - self.now), event)
        self.now = max(self.now, wakes_at)
        return False

    def run(self, events: Sequence[tuple[float, Ask | Hold | Report]]) -> None:
        self.events = list(events)
        while self.events:
            self.next_event()

    def next_event(self) -> None:
        after_s, event = self.events.pop(0)
        self.now += after_s
        if isinstance(event, Ask):
            self.ask(event)
        elif isinstance(event, Hold):
            self.limiter.hold(event.seconds, 429)
            self.held_until = max(self.held_until, self.now + event.seconds)
        else:
            self.limiter.observe(event.used)
            others = event.used - self.spent(self.used, 60 + self.travel_s)
            self.used.append((self.now, max(0, others)))

    def spent(self, log: list[tuple[float, int]], window_s: float) -> int:
        """The weight of the last `window_s` seconds, counted one by one."""
        return sum(weight for at, weight in log if at > self.now - window_s + self.ROUNDING_S)

    def asked(self, window_s: float) -> int:
        """The requests of the last `window_s` seconds."""
        return self.spent([(at, 1) for at, _ in self.grants], window_s)

    def ask(self, ask: Ask) -> None:
        weight, asked_at = min(ask.weight, self.own), self.now
        may_at_once = (  # whatever the travel time
            self.now >= self.held_until
            and self.spent(self.grants, 70) + weight <= self.own
            and self.spent(self.used, 70) + weight <= self.address
            and self.asked(310) < self.requests
        )
        give_up_at = asked_at + ask.patience_s
        try:
            self.limiter.acquire(weight, give_up_at)
        except RateLimited as error:
            assert not may_at_once
            assert error.retry_in_s > 0 and self.now + error.retry_in_s >= give_up_at
            return
        assert not may_at_once or self.now == asked_at
        self.grants.append((self.now, weight))
        self.used.append((self.now, weight))
        assert self.now >= self.held_until
        assert self.spent(self.grants, 60) <= self.own
        assert self.asked(300) <= self.requests
        assert self.spent(self.used, 60) <= self.address


seconds = st.one_of(st.integers(0, 90).map(float), st.floats(0, 90))
events = st.one_of(
    st.builds(Ask, st.integers(0, 20), st.one_of(st.just(math.inf), seconds)),
    st.builds(Hold, seconds),
    st.builds(Report, st.integers(0, 80)),
)
soon = st.one_of(st.just(0.0), st.floats(0, 5), seconds)


class TestLimiter:
    @given(
        own=st.integers(1, 40),
        others=st.integers(0, 20),
        requests=st.integers(1, 12),
        travel_s=st.sampled_from([0.0, 0.1, 5.0]),
        schedule=st.lists(st.tuples(soon, events), min_size=3, max_size=40),
    )
    def test_no_schedule_of_callers_gets_more_than_the_budget_or_anything_during_a_hold(
        self,
        own: int,
        others: int,
        requests: int,
        travel_s: float,
        schedule: list[tuple[float, Ask | Hold | Report]],
    ) -> None:
        Callers(own, own + others, requests, travel_s).run(schedule)

    @given(
        own=st.integers(1, 40),
        travel_s=st.floats(0, 10),
        asks=st.lists(st.tuples(soon, st.integers(1, 20), st.floats(0, 1)), min_size=3),
    )
    def test_the_budget_holds_where_the_requests_arrive_too(
        self, own: int, travel_s: float, asks: list[tuple[float, int, float]]
    ) -> None:
        clock = Clock()
        limiter = RateLimiter(own, travel_s=travel_s, clock=clock, wait=clock.wait)
        arrived: list[tuple[float, int]] = []
        for after_s, weight, slowness in asks:
            clock.now += after_s
            clock.waits.clear()
            limiter.acquire(min(weight, own))
            assert sum(wait_s > Callers.ROUNDING_S for wait_s in clock.waits) <= 1
            arrived.append((clock.now + slowness * travel_s, min(weight, own)))
        for start, _ in arrived:
            end = start + 60 - Callers.ROUNDING_S
            assert sum(weight for at, weight in arrived if start <= at < end) <= own


# --- the parsers ---

NOW = 1_800_000_000_000  # a multiple of 5 minutes
STEP = TIMEFRAME_MS["5m"]
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
FIELDS = {
    0,
    1,
    2,
    3,
    4,
    5,
    "lastPrice",
    "volume",
    "priceChangePercent",
    "closeTime",
    "symbol",
    "status",
    "serverTime",
    "code",
}  # what the client looks at
ODD_TEXTS = [
    "",
    "-",
    ".",
    "NaN",
    "Infinity",
    "-1",
    "0",
    "0.0",
    "1e5",
    "1_0",
    "0x1",
    "1,0",
    "1.2.3",
    "\ud800",
    "\0",
    "9" * 400,
    "0." + "0" * 400 + "1",
    *SYMBOLS,
]
ODD_TIMES = [
    NOW + STEP,
    NOW + 10_000,
    NOW + 10_001,
    NOW - STEP,
    NOW - 1,
    0,
    -STEP,
    True,
    float(NOW),
    10**400,
    math.nan,
    math.inf,
]
SPELLINGS: list[Callable[[str], str]] = [
    "+{}".format,
    "-{}".format,
    " {}".format,
    "{}\n".format,
    "{}e0".format,
    "{}_0".format,
    "{}\u0661".format,
    "{}\uff11".format,
]
odd: st.SearchStrategy[Any] = st.sampled_from([*ODD_TEXTS, *ODD_TIMES, None, [], {}, [[]]])
scalars = st.one_of(odd, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=13), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)


@st.composite
def good_klines(draw: st.DrawFn) -> list[list[Any]]:
    rows, ago = [], draw(st.integers(0, 5))
    for _ in range(draw(st.integers(1, 4))):
        low, first, second, high = sorted(draw(st.tuples(*[st.integers(1, 10**9)] * 4)))
        if draw(st.booleans()):
            first, second = second, first
        cents = (first, high, low, second, draw(st.integers(0, 10**12)))
        numbers = [f"{n // 100}.{n % 100:02}" for n in cents]
        open_ms = NOW - ago * STEP
        rows.append([open_ms, *numbers, open_ms + STEP - 1, "11.0", 7, "1.0", "2.0", "0"])
        ago += draw(st.integers(1, 3))
    return rows[::-1]


@st.composite
def good_tickers(draw: st.DrawFn) -> list[dict[str, Any]]:
    number = st.integers(1, 10**9).map(lambda n: f"{n // 100}.{n % 100:02}")
    return [
        {
            "symbol": symbol,
            "lastPrice": draw(number),
            "volume": draw(number),
            "priceChangePercent": draw(st.sampled_from(["", "-"])) + draw(number),
            "closeTime": NOW - draw(st.integers(0, 10**6)),
        }
        for symbol in SYMBOLS
    ]


def good_listing() -> st.SearchStrategy[dict[str, Any]]:
    status = st.sampled_from(["TRADING", "BREAK", "HALT"])
    entries = st.tuples(
        *(
            st.fixed_dictionaries({"symbol": st.just(symbol), "status": status})
            for symbol in SYMBOLS
        )
    )
    return entries.map(lambda entries: {"timezone": "UTC", "symbols": list(entries)})


def places(node: Any) -> list[tuple[Any, Any]]:
    """(container, index or key) of all that is inside `node`."""
    items = list(enumerate(node)) if isinstance(node, list) else []
    items = list(node.items()) if isinstance(node, dict) else items
    return [place for key, inner in items for place in [(node, key), *places(inner)]]


def odd_instead_of(value: Any) -> st.SearchStrategy[Any]:
    """What might be mistaken for `value`."""
    if isinstance(value, str):
        return st.one_of(
            st.sampled_from(ODD_TEXTS), st.sampled_from(SPELLINGS).map(lambda spell: spell(value))
        )
    return st.sampled_from(ODD_TIMES) if isinstance(value, int) else odd


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[Any]) -> Any:
    """A good answer of which one part or a few were replaced, lost, exchanged or repeated; or
    something else altogether."""
    if draw(st.integers(0, 19)) == 0:
        return draw(json_values)
    root = [copy.deepcopy(draw(good))]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        anywhere = places(root)
        leaves = [at for at in anywhere if not isinstance(at[0][at[1]], list | dict)]
        fields = [at for at in leaves if at[1] in FIELDS]
        what = draw(st.sampled_from(["odd"] * 5 + ["replace", "lose", "swap", "repeat", "repeat"]))
        if what == "odd" and fields:
            container, key = draw(st.sampled_from(fields))
            container[key] = copy.deepcopy(draw(odd_instead_of(container[key])))
            continue
        rows = [
            at
            for at in anywhere
            if at not in leaves and at[0] is not root and isinstance(at[0], list)
        ]
        container, key = draw(st.sampled_from(rows if what == "repeat" and rows else anywhere))
        if what == "lose" and container is not root:
            del container[key]
        elif what == "swap" and isinstance(container, list):
            other = draw(st.integers(0, len(container) - 1))
            container[key], container[other] = container[other], container[key]
        elif what == "repeat" and rows:
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[key] = draw(json_values)
    return root[0]


def is_plain(text: Any, signs: str = "") -> bool:
    """A decimal as the exchange writes it."""
    if type(text) is not str or not set(text) <= set("0123456789." + signs):
        return False
    with suppress(ValueError):
        return float(text) > -math.inf
    return False


def assert_promised_candles(candles: Candles, rows: Any) -> None:
    """What docs/redis-schema.md says of what goes into Redis, and that it is what the rows say."""
    assert all(type(row) is list and len(row) >= 12 for row in rows)
    assert rows_of(candles) == [row[:12] for row in rows]
    assert b" " not in candles.rows and b"\n" not in candles.rows
    read = json.loads(Series(candles, 0, 0, 0).json())
    assert 0 < len(read) == len(rows)
    assert all(a["timestamp"] < b["timestamp"] for a, b in pairwise(read))
    for candle, row in zip(read, rows, strict=True):
        assert type(row[0]) is int and all(map(is_plain, row[1:6]))
        open_ms, *numbers = candle.values()
        assert [open_ms, *map(float, numbers)] == [row[0], *map(float, row[1:6])]
        assert open_ms >= 0 and open_ms % STEP == 0
        assert open_ms <= NOW + 10_000
        assert all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        opened, high, low, close, volume = numbers
        assert 0 < low <= min(opened, close) <= max(opened, close) <= high and volume >= 0


def assert_promised_tickers(found: dict[str, Ticker | BadResponse], rows: Any) -> None:
    assert list(found) == SYMBOLS and isinstance(rows, list)
    for symbol, ticker in found.items():
        if isinstance(ticker, BadResponse):
            continue
        assert all(type(number) is float and math.isfinite(number) for number in ticker[:3])
        assert ticker.price > 0 and ticker.volume >= 0
        assert type(ticker.timestamp) is int and 0 < ticker.timestamp <= NOW + 10_000
        origin = [
            row
            for row in rows
            if isinstance(row, dict)
            and row.get("symbol") == symbol
            and is_plain(row.get("lastPrice"))
            and is_plain(row.get("volume"), "-")
            and is_plain(row.get("priceChangePercent"), "-")
        ]
        names = ("lastPrice", "priceChangePercent", "volume")
        assert [*ticker[:4], json.loads(ticker.row)] in [
            [*(float(row[name]) for name in names), row.get("closeTime"), row] for row in origin
        ]


def assert_promised_listing(found: Listing, info: Any) -> None:
    assert isinstance(info, dict) and isinstance(info["symbols"], list)
    listed = {entry["symbol"]: entry for entry in info["symbols"]}
    rows = {symbol: listed[symbol] for symbol in SYMBOLS if symbol in listed}
    assert found.statuses == {symbol: row["status"] for symbol, row in rows.items()}
    assert {symbol: json.loads(row) for symbol, row in found.rows.items()} == rows
    assert found.rules | {"symbols": info["symbols"]} == info
    assert all(type(status) is str for status in found.statuses.values())


def as_answered(value: Any) -> Any:
    """What the client makes of the JSON that the exchange sends."""
    return json.loads(json.dumps(value))


def parse(rows: Any) -> Candles:
    """From the text as the exchange writes it. Written with spaces it must mean the same."""
    spaced = partial(parse_klines, json.dumps(rows).encode(), "5m", NOW)
    try:
        candles = parse_klines(json.dumps(rows, separators=(",", ":")).encode(), "5m", NOW)
    except BadResponse:
        with pytest.raises(BadResponse):
            spaced()
        raise
    assert spaced() == candles
    return candles


class TestParsers:
    @given(good_klines())
    def test_good_candles_get_through(self, rows: list[list[Any]]) -> None:
        assert_promised_candles(parse(rows), rows)

    @given(damaged(good_klines()))
    def test_of_other_candles_no_bad_one_does(self, answer: Any) -> None:
        rows = as_answered(answer)
        try:
            candles = parse(rows)
        except BadResponse as error:
            assert error.reason.isprintable() and len(error.reason) < 300
        else:
            assert_promised_candles(candles, rows)

    @given(good_tickers())
    def test_good_tickers_get_through(self, rows: list[dict[str, Any]]) -> None:
        found = parse_tickers(rows, SYMBOLS, NOW)
        assert all(isinstance(ticker, Ticker) for ticker in found.values())
        assert_promised_tickers(found, rows)

    @given(damaged(good_tickers()))
    def test_of_other_tickers_no_bad_one_does(self, answer: Any) -> None:
        rows = as_answered(answer)
        try:
            found = parse_tickers(rows, SYMBOLS, NOW)
        except BadResponse:
            assert not isinstance(rows, list)
        else:
            assert_promised_tickers(found, rows)

    @pytest.mark.parametrize("value", [*ODD_TEXTS, *ODD_TIMES, None], ids=lambda v: repr(v)[:12])
    def test_each_field_with_each_odd_value(self, value: Any) -> None:
        for field in range(12):
            row = [NOW, "2.0", "4.0", "1.0", "3.0", "5.5", 0, "1", 7, "1", "2", "0"]
            row[field] = value
            with suppress(BadResponse):
                assert_promised_candles(parse([row]), [row])
        for name in ("lastPrice", "priceChangePercent", "volume", "closeTime"):
            good = {"lastPrice": "2", "priceChangePercent": "-1", "volume": "9", "closeTime": NOW}
            rows = [{"symbol": "BTCUSDT", **good, name: value}]
            assert_promised_tickers(parse_tickers(rows, SYMBOLS, NOW), rows)
        url = "http://127.0.0.1"
        client = BinanceClient(url, RateLimiter(), wait=lambda _: False)
        with responses.RequestsMock() as server:
            server.get(f"{url}/api/v3/time", json.dumps({"serverTime": value}))
            server.get(f"{url}/api/v3/klines", json.dumps({"code": value, "msg": ""}), status=400)
            with suppress(BadResponse):
                assert client.server_time() == value and type(value) is int
            with pytest.raises(BinanceError):
                client.klines("BTCUSDT", "5m", 5)


# --- the client: any answer at all ---

DEPTHS = [1, 100, 900, 950, *range(970, 1000, 5), 1200, 100_000]
nested = st.sampled_from(DEPTHS).map(lambda depth: "[" * depth + "]" * depth)
complaint = st.fixed_dictionaries({"code": st.just(-1121), "msg": st.text(max_size=5)})
WHERE: dict[str, tuple[str, Callable[[], st.SearchStrategy[Any]]]] = {
    "klines": ("klines", good_klines),
    "tickers": ("ticker/24hr", good_tickers),
    "exchange_info": ("exchangeInfo", good_listing),
    "server_time": ("time", lambda: st.fixed_dictionaries({"serverTime": st.integers(NOW)})),
}


def bodies(good: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    text = st.one_of(damaged(good), damaged(complaint), good, complaint).map(json.dumps)
    return st.one_of(
        text.map(str.encode),
        damaged(good).map(json.dumps).map(str.encode),
        st.tuples(text, st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]].encode()),
        st.tuples(
            nested,
            st.sampled_from(
                [
                    "%s",
                    "[%s]",
                    '{"symbols":%s}',
                    '{"serverTime":%s}',
                    '[{"symbol":"BTCUSDT","lastPrice":%s}]',
                    '[{"symbol":%s}]',
                    '{"symbols":[{"symbol":%s,"status":"TRADING"}]}',
                    '{"code":%s,"msg":"no"}',
                    '{"code":1,"msg":%s}',
                    f"[[{NOW},%s{',1' * 10}]]",
                ]
            ),
        ).map(lambda deep: (deep[1] % deep[0]).encode()),
        st.binary(max_size=50),
    )


headers = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(
            st.sampled_from(["1", "0", "-5", "9" * 12, "9" * 5000, "1.5", "soon", "\xb2"]),
            st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=5),
        )
        for name in ("Retry-After", "X-MBX-USED-WEIGHT-1M")
    },
)
failures = st.sampled_from([201, 204, 301, 302, 400, 403, 404, 418, 429, 451, 500, 503])


class TestClient:
    @pytest.mark.parametrize("method", WHERE)
    @given(data=st.data(), status=rarely(failures, 200), headers=headers)
    def test_an_answer_is_right_or_one_of_the_client_s_own_errors(
        self, method: str, data: st.DataObject, status: int, headers: dict[str, str]
    ) -> None:
        path, good = WHERE[method]
        body, clock = data.draw(bodies(good())), Clock()
        client = BinanceClient(
            "http://127.0.0.1",
            RateLimiter(clock=clock, wait=clock.wait),
            wait=lambda _: False,
            wall_clock=lambda: NOW / 1000,
        )
        asked: dict[str, tuple[Any, ...]] = {"klines": ("BTCUSDT", "5m", 5), "server_time": ()}
        with responses.RequestsMock(assert_all_requests_are_fired=False) as server:
            server.get(f"http://127.0.0.1/api/v3/{path}", body, status=status, headers=headers)
            try:
                found = getattr(client, method)(*asked.get(method, (SYMBOLS,)))
            except BinanceError as error:
                assert str(error).isprintable()
                return
        assert status == 200
        answer = json.loads(body)
        if method == "klines":
            assert_promised_candles(found, answer)
        elif method == "tickers":
            assert_promised_tickers(found, answer)
        elif method == "exchange_info":
            assert_promised_listing(found, answer)
        else:
            assert type(found) is int and found == answer["serverTime"]


# --- the message log ---

TEXTS = ["signal", "trade", "dashboard", "type", ""]
texts = st.sampled_from(TEXTS)
fields = st.sampled_from(["type", "source", "channel", "summary", "id"])
entries = st.one_of(
    st.just([("type", "signal"), ("summary", "trade"), ("source", "dashboard")]),
    st.lists(st.tuples(fields, texts), min_size=1, max_size=6),
)
types, sources = (st.one_of(st.none(), st.just(usual), texts) for usual in ("signal", "dashboard"))


class TestReadLog:
    client: redis.Redis = fakeredis.FakeRedis(decode_responses=True)

    @given(
        added=st.lists(entries, max_size=25),
        lost=st.sets(st.integers(0, 24), max_size=3),
        limit=st.one_of(st.integers(0, 4), st.integers(0, 30)),
        page=st.integers(1, 8),
        type_=types,
        source=sources,
    )
    def test_it_finds_what_a_plain_filter_finds(
        self,
        added: list[list[tuple[str, str]]],
        lost: set[int],
        limit: int,
        page: int,
        type_: str | None,
        source: str | None,
    ) -> None:
        """Also where others add entries with fields in any order, missing or twice, or delete."""
        self.client.delete(DEFAULT_KEY)
        pipeline: Any = self.client.pipeline()
        for number, fields in enumerate(added, 1):
            flat = [text for field in fields for text in field]
            pipeline.execute_command("XADD", DEFAULT_KEY, f"{number}-0", *flat)
        for number in lost:
            pipeline.xdel(DEFAULT_KEY, f"{number + 1}-0")
        pipeline.execute()
        plain = []
        for number, fields in reversed(list(enumerate(added))):
            entry = dict(fields) | {"id": f"{number + 1}-0"}
            is_type = type_ is None or ("type" in entry and entry["type"] == type_)
            is_source = source is None or ("source" in entry and entry["source"] == source)
            if number not in lost and is_type and is_source:
                plain.append(entry)
        with patch.object(redis_log, "PAGE", page):
            assert read_log(self.client, limit, type_, source) == plain[:limit]
