"""The candles of a made-up market: pure arithmetic without I/O, clock, or state except caches.

The same symbol and time give the same candle in every process. Candles are generated top-down: a
formula gives each day, and each block is cut into smaller blocks. So a candle costs the same
whether it is an hour or years old, and all timeframes agree to the last digit. Prices are whole
numbers of ticks and volumes whole numbers of lots, so that sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from hashlib import shake_128
from itertools import accumulate, pairwise
from struct import unpack
from typing import Any, NamedTuple

# Only intervals that divide a day, in seconds, so that open times are multiples of the interval.
INTERVALS = {
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "2h": 7200,
    "4h": 14400,
    "6h": 21600,
    "8h": 28800,
    "12h": 43200,
    "1d": 86400,
}

# Mean prices in US dollars, close enough to the real ones for charts to look right.
PRICES = {
    "BTC": 64000.0,
    "ETH": 3100.0,
    "SOL": 150.0,
    "XRP": 0.58,
    "ADA": 0.44,
    "DOGE": 0.13,
    "AVAX": 31.0,
    "LINK": 14.5,
    "DOT": 6.4,
    "LTC": 78.0,
    "BCH": 410.0,
    "UNI": 8.6,
    "ATOM": 8.1,
    "XLM": 0.11,
    "ALGO": 0.17,
    "NEAR": 5.9,
    "FIL": 5.3,
    "ICP": 11.0,
    "HBAR": 0.085,
    "VET": 0.032,
    "AAVE": 105.0,
    "GRT": 0.24,
    "SHIB": 0.000021,
    "BNB": 580.0,
    "SUI": 1.4,
    "APT": 8.4,
    "ARB": 0.93,
    "OP": 2.2,
    "ETC": 26.0,
}
DEFAULT_SYMBOLS = tuple(f"{coin}USDT" for coin in PRICES)

DAY_S = 86400
UNITS = 10**8  # the exchange writes every price and quantity with eight decimals

# Each block is cut into blocks of the next size: 1d, 4h, 1h, 5m, 1m, 10s, 1s.
_SIZES = (DAY_S, 14400, 3600, 300, 60, 10, 1)
_LEVELS = {size: level for level, size in enumerate(_SIZES)}

# The sine waves that daily closes follow: (amplitude as a share of the price, period in days).
_WAVES = ((0.25, 137.0), (0.10, 29.0), (0.04, 7.3))
_DAILY_NOISE = 0.02
_CACHED_CUTS = 16384  # about 2 kB each; 29 symbols at 5m, 1h and 4h need about 9000
_CACHED_ROWS = 16384  # about 1 kB each; 29 symbols have 14500 rows of one interval


Rows = list[list[Any]]  # a klines answer


class Candle(NamedTuple):
    """Prices in ticks and `volume` in lots, all whole numbers; `Listing` defines both units."""

    open: int
    high: int
    low: int
    close: int
    volume: int
    trades: int


class Listing(NamedTuple):
    """The constants of a symbol; a tick is 10**-price_decimals, a lot 10**-lot_decimals."""

    symbol: str
    base: str
    quote: str
    price_decimals: int
    lot_decimals: int
    mean_ticks: float
    daily_lots: float
    daily_trades: float
    phases: tuple[float, ...]


def symbols(count: int) -> tuple[str, ...]:
    """The first `count` symbols: the default ones, then made-up ones (`X030USDT`...)."""
    made_up = (f"X{number:03d}USDT" for number in range(len(DEFAULT_SYMBOLS) + 1, count + 1))
    return (*DEFAULT_SYMBOLS[:count], *made_up)


def delisted_symbols(count: int) -> tuple[str, ...]:
    """Made-up symbols for markets that are closed for ever."""
    return tuple(f"OLD{number:03d}USD" for number in range(1, count + 1))


@lru_cache(maxsize=1024)
def listing(symbol: str) -> Listing:
    """The listing of `symbol`, made up unless PRICES has the coin."""
    quote = next((q for q in ("USDT", "USDC", "USD") if symbol.endswith(q) and symbol != q), "USDT")
    base = symbol.removesuffix(quote)
    price_u, volume_u, trades_u, *phases = _units(f"listing {symbol}", 3 + len(_WAVES))
    price = PRICES.get(base, 10 ** (5 * price_u - 2))
    # Six significant digits of price, and lots worth a few cents, as far as the eight decimals of
    # their product allow.
    price_decimals = min(max(5 - math.floor(math.log10(price)), 2), 8)
    lot_decimals = min(max(math.ceil(math.log10(price)) + 1, 0), 8 - price_decimals)
    return Listing(
        symbol,
        base,
        quote,
        price_decimals,
        lot_decimals,
        mean_ticks=price * 10**price_decimals,
        daily_lots=10 ** (6 + 1.5 * volume_u) / price * 10**lot_decimals,
        daily_trades=20_000 * (1 + 2 * trades_u),
        phases=tuple(phases),
    )


def candle(symbol: str, start_s: int, end_s: int) -> Candle:
    """The candle of all trades in [start_s, end_s), epoch seconds.

    An empty range gives a flat candle without volume at the price of `start_s`.
    """
    if end_s <= start_s:
        price = candle(symbol, start_s, start_s + 1).open
        return Candle(price, price, price, price, 0, 0)
    return merge(list(_blocks(symbol, start_s, end_s)))


def whole_candle(symbol: str, step_s: int, open_s: int) -> Candle:
    """The closed candle of `step_s`, one of INTERVALS, that opens at its multiple `open_s`.

    Equals `candle(symbol, open_s, open_s + step_s)`, but is faster.
    """
    level = _LEVELS.get(step_s)
    if level is not None:
        return _block(symbol, level, open_s)
    level = next(level for size, level in _LEVELS.items() if step_s % size == 0)
    opens = range(open_s, open_s + step_s, _SIZES[level])
    return merge([_block(symbol, level, at) for at in opens])


def merge(blocks: list[Candle]) -> Candle:
    """Merge adjacent blocks into one candle."""
    if len(blocks) == 1:
        return blocks[0]
    opens, highs, lows, closes, volumes, trades = zip(*blocks, strict=True)
    return Candle(opens[0], max(highs), min(lows), closes[-1], sum(volumes), sum(trades))


def fixed(value: int, decimals: int) -> str:
    """`value` units of 10**-decimals as the exchange writes them, with eight decimals."""
    whole, part = divmod(abs(value) * 10 ** (8 - decimals), UNITS)
    return f"{'-' if value < 0 else ''}{whole}.{part:08d}"


def row(symbol: str, step_s: int, open_s: int, bar: Candle) -> tuple[Any, ...]:
    """`bar` as the twelve fields of a klines answer: int times in ms, decimal strings, int trades.

    The taker-buy volumes are made up from the open time; the last field is unused.
    """
    facts = listing(symbol)
    price, lot = facts.price_decimals, facts.lot_decimals
    paid = _paid(bar)
    share = 80 + open_s // step_s * 2654435761 % 97  # of 256
    return (
        open_s * 1000,
        fixed(bar.open, price),
        fixed(bar.high, price),
        fixed(bar.low, price),
        fixed(bar.close, price),
        fixed(bar.volume, lot),
        (open_s + step_s) * 1000 - 1,
        fixed(paid, price + lot),
        bar.trades,
        fixed(bar.volume * share >> 8, lot),
        fixed(paid * share >> 8, price + lot),
        "0",
    )


@lru_cache(maxsize=_CACHED_ROWS)
def whole_row(symbol: str, step_s: int, open_s: int) -> tuple[Any, ...]:
    """`row` of a closed candle, cached because formatting costs more than the candle itself."""
    return row(symbol, step_s, open_s, whole_candle(symbol, step_s, open_s))


MINI_TICKER = (
    "symbol",
    "openPrice",
    "highPrice",
    "lowPrice",
    "lastPrice",
    "volume",
    "quoteVolume",
    "openTime",
    "closeTime",
    "firstId",
    "lastId",
    "count",
)


def ticker(symbol: str, day: Candle, close_ms: int) -> dict[str, Any]:
    """The 24 h figures of a ticker/24hr answer, for the `day` that ends at `close_ms`."""
    facts = listing(symbol)
    open_ms = close_ms - DAY_S * 1000
    first_id = open_ms // 1000

    def price(ticks: int) -> str:
        return fixed(ticks, facts.price_decimals)

    return {
        "symbol": symbol,
        "priceChange": price(day.close - day.open),
        "priceChangePercent": f"{100 * (day.close / day.open - 1):.3f}",
        "weightedAvgPrice": price((day.open + day.high + day.low + day.close) // 4),
        "prevClosePrice": price(day.open),
        "lastPrice": price(day.close),
        "lastQty": fixed(day.volume // max(day.trades, 1), facts.lot_decimals),
        "bidPrice": price(day.close - 1),
        "askPrice": price(day.close + 1),
        "openPrice": price(day.open),
        "highPrice": price(day.high),
        "lowPrice": price(day.low),
        "volume": fixed(day.volume, facts.lot_decimals),
        "quoteVolume": fixed(_paid(day), facts.price_decimals + facts.lot_decimals),
        "openTime": open_ms,
        "closeTime": close_ms,
        "firstId": first_id,
        "lastId": first_id + day.trades - 1,
        "count": day.trades,
    }


def idle_ticker(symbol: str, close_ms: int) -> dict[str, Any]:
    """The ticker of a market without a trade in the 24 h that end at `close_ms`."""
    figures = ticker(symbol, Candle(1, 1, 1, 1, 0, 0), close_ms)
    zeros = {name: fixed(0, 0) for name, value in figures.items() if isinstance(value, str)}
    none = {"priceChangePercent": "0.000", "firstId": -1, "lastId": -1, "count": 0}
    return figures | zeros | none | {"symbol": symbol}


# --- generating blocks ---


def _units(key: str, count: int) -> list[float]:
    """`count` numbers in [0, 1) that depend on `key` alone."""
    return [n / 2**32 for n in unpack(f"<{count}I", shake_128(key.encode()).digest(4 * count))]


def _paid(bar: Candle) -> int:
    """The quote volume of `bar` at the mean of its four prices, in ticks times lots.

    The only figure that does not add up across timeframes: prices are generated before trades.
    """
    return bar.volume * (bar.open + bar.high + bar.low + bar.close) // 4


def _blocks(symbol: str, start_s: int, end_s: int) -> Iterator[Candle]:
    """The fewest blocks that cover a range of seconds."""
    at = start_s
    while at < end_s:
        size = next(size for size in _SIZES if at % size == 0 and at + size <= end_s)
        yield _block(symbol, _LEVELS[size], at)
        at += size


def _block(symbol: str, level: int, start_s: int) -> Candle:
    """The block of `_SIZES[level]` seconds that starts at `start_s`."""
    if level == 0:
        return _day(symbol, start_s // DAY_S)
    offset_s = start_s % _SIZES[level - 1]
    return _cut(symbol, level - 1, start_s - offset_s)[offset_s // _SIZES[level]]


def _daily_close(facts: Listing, day: int, noise: float) -> int:
    """The close of `day`, days since the epoch, in ticks; `noise` in [0, 1)."""
    waves = sum(
        share * math.sin(math.tau * (day / period + phase))
        for (share, period), phase in zip(_WAVES, facts.phases, strict=True)
    )
    return round(facts.mean_ticks * math.exp(waves + _DAILY_NOISE * (2 * noise - 1)))


@lru_cache(maxsize=_CACHED_CUTS)
def _day(symbol: str, day: int) -> Candle:
    """The candle of a whole day; it opens at the close of the day before."""
    facts = listing(symbol)
    noise, above, below, volume, trades = _units(f"day {symbol} {day}", 5)
    noise_before = _units(f"day {symbol} {day - 1}", 1)[0]
    first, last = _daily_close(facts, day - 1, noise_before), _daily_close(facts, day, noise)
    return Candle(
        first,
        round(max(first, last) * (1 + 0.001 + 0.02 * above)),
        max(round(min(first, last) * (1 - 0.001 - 0.02 * below)), 1),
        last,
        round(facts.daily_lots * (0.5 + volume)),
        round(facts.daily_trades * (0.5 + trades)),
    )


@lru_cache(maxsize=_CACHED_CUTS)
def _cut(symbol: str, level: int, start_s: int) -> tuple[Candle, ...]:
    """Cut the block of `_SIZES[level]` seconds into blocks of the next size.

    They go from its open to its close within [low, high]; one of them touches the high and one
    the low; their volumes and trades add up to those of the block.
    """
    whole = _block(symbol, level, start_s)
    count = _SIZES[level] // _SIZES[level + 1]
    digest = shake_128(f"{level} {symbol} {start_s}".encode()).digest(10 * count)
    noise = unpack(f"<{5 * count}H", digest)  # five 16-bit numbers per block
    points = _path(whole, noise[:count])
    wick = (whole.high - whole.low) / (1.5 * math.sqrt(count)) / 2**16
    highs = [
        min(max(a, b) + int(wick * up), whole.high)
        for a, b, up in zip(points, points[1:], noise[count:], strict=False)
    ]
    lows = [
        max(min(a, b) - int(wick * down), whole.low)
        for a, b, down in zip(points, points[1:], noise[2 * count :], strict=False)
    ]
    highs[highs.index(max(highs))] = whole.high
    lows[lows.index(min(lows))] = whole.low
    volumes = _shares(whole.volume, noise[3 * count : 4 * count])
    trades = _shares(whole.trades, noise[4 * count :])
    return tuple(map(Candle, points, highs, lows, points[1:], volumes, trades))


def _path(whole: Candle, noise: tuple[int, ...]) -> list[int]:
    """The prices at which the parts of `whole` meet: a random walk bent to end at its close."""
    count = len(noise)
    scale = 1.7 * (whole.high - whole.low) / math.sqrt(count) / 2**16
    slope = (whole.close - whole.open - scale * sum(noise)) / count
    between = [
        min(max(round(whole.open + slope * number + scale * walked), whole.low), whole.high)
        for number, walked in enumerate(accumulate(noise[:-1]), 1)
    ]
    return [whole.open, *between, whole.close]


def _shares(total: int, noise: tuple[int, ...]) -> list[int]:
    """Split `total` into whole random shares, the largest about five times the smallest."""
    bounds = list(accumulate((n + 2**14 for n in noise), initial=0))
    cuts = [total * bound // bounds[-1] for bound in bounds]
    return [b - a for a, b in pairwise(cuts)]
