"""Which answers are believed: none that is older than one before it, none whose data is too old,
and none that contradicts what was final, unless a second one agrees with it.

Knows nothing of threads, Redis and HTTP.
"""

from __future__ import annotations

import time

from binance_answers import CLOCK_SKEW_MS, TIMEFRAME_MS, BadResponse, BinanceError, Outdated
from candles import PRICE_TTL_S, Feed, Price, Series, boot_s, contradiction, stale_at
from redis_log import iso_ms
from settings import Timeframe

# How often a series is read whole, whatever is held: no error can stay for longer. After answers
# contradicted each other, it is read whole at each refresh for as long.
WHOLE_EVERY_S = 3600.0
# An older ticker is refused, unless the exchange has newer ones and the candles of the symbol go
# on: a market may go without a trade for longer than that.
PRICE_STALE_S = 2 * PRICE_TTL_S

Results = dict[Feed, Series | Price | BinanceError]


class Judge:
    """What was seen of the exchange before. Has no lock: Store's guards it."""

    def __init__(self, candle_limit: int) -> None:
        self._candle_limit = candle_limit
        self.newest_ms: dict[Feed, int] = {}  # ever seen, in an answer or in Redis
        self._contradicting: dict[Feed, Series] = {}  # the last answer, if it contradicts the held
        self._disputed_until: dict[Feed, float] = {}

    def judge(
        self, timeframe: Timeframe, results: Results, held: dict[Feed, Series | Price]
    ) -> tuple[Results, dict[Feed, str]]:
        """`results`, with an error in place of each answer that is not believed; and of which feeds
        final candles are replaced, and why."""
        judged: Results = {}
        replaced: dict[Feed, str] = {}
        for feed, read in results.items():
            judged[feed] = read
            if isinstance(read, BinanceError):
                continue
            if read.newest_ms < self.newest_ms.get(feed, 0):
                judged[feed] = Outdated("the answer is older than one before it")
                continue
            self.newest_ms[feed] = read.newest_ms
            if isinstance(read, Series):
                judged[feed] = self._judge_series(feed, read, held.get(feed), timeframe, replaced)
        return judged | self._judge_prices(timeframe, judged), replaced

    def _judge_series(
        self,
        feed: Feed,
        read: Series,
        held: Series | Price | None,
        timeframe: Timeframe,
        replaced: dict[Feed, str],
    ) -> Series | BinanceError:
        step_ms = TIMEFRAME_MS[timeframe.name]
        if stale_at(read.newest_ms, step_ms) <= boot_s():
            return Outdated(f"the newest candle is of {_at(read.newest_ms)}")

        def contradicts(known: Series) -> str:
            final_ms = known.final_ms(step_ms, timeframe.refresh_s)
            return contradiction(known.candles, read.candles, final_ms, self._candle_limit)

        before = self._contradicting.pop(feed, None)
        if not isinstance(held, Series) or not (why := contradicts(held)):
            return read
        self._disputed_until[feed] = boot_s() + WHOLE_EVERY_S
        if before and not contradicts(before):
            replaced[feed] = why
            return read
        self._contradicting[feed] = read
        return BadResponse(why)

    def _judge_prices(self, timeframe: Timeframe, judged: Results) -> Results:
        """An error for each ticker that is too old."""
        prices = {feed: read for feed, read in judged.items() if isinstance(read, Price)}
        exchange_goes_on = any(not _is_old(price.newest_ms) for price in prices.values())
        refused: Results = {}
        for feed, price in prices.items():
            candles = judged.get(Feed(feed.symbol, timeframe.name))
            goes_on = exchange_goes_on and isinstance(candles, Series)
            if _is_old(price.newest_ms) and not goes_on:
                refused[feed] = Outdated(f"the ticker is of {_at(price.newest_ms)}")
        return refused

    def saw(self, newest_ms: dict[Feed, int]) -> dict[Feed, int]:
        """Note times of data that Redis holds. Returns those that are later than any before."""
        latest_ms = time.time() * 1000 + CLOCK_SKEW_MS  # no later one is the exchange's
        news = {
            feed: seen_ms
            for feed, seen_ms in newest_ms.items()
            if self.newest_ms.get(feed, 0) < seen_ms <= latest_ms
        }
        self.newest_ms |= news
        return news

    def is_disputed(self, feed: Feed) -> bool:
        """Whether answers contradicted each other lately, so that only whole ones can tell."""
        return self._disputed_until.get(feed, 0.0) > boot_s()

    def forget(self) -> None:
        """What was held is held no more, so nothing contradicts it."""
        self._contradicting.clear()
        self._disputed_until.clear()


def _is_old(ticker_ms: int) -> bool:
    return time.time() - ticker_ms / 1000 > PRICE_STALE_S


def _at(time_ms: int) -> str:
    """A time and how long ago it is, for a reason."""
    return f"{iso_ms(time_ms / 1000)[:16]}Z, {duration(time.time() - time_ms / 1000)} ago"


def duration(seconds: float) -> str:
    """In the largest unit of which there are two: 90 min, 3 h, 2 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
