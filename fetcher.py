"""Reads what a refresh needs from the exchange: in parallel, each request within the deadline.

Knows nothing of Redis. What is held decides what to ask for: three candles where they will join
it, else the whole series.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress

from binance_answers import (
    MAX_TICKER_SYMBOLS,
    TIMEFRAME_MS,
    BadRow,
    BinanceError,
    Candles,
    Listing,
    Retryable,
    Stopped,
    Ticker,
)
from binance_client import BinanceClient
from candles import (
    PRICE,
    PRICE_TTL_S,
    Feed,
    Price,
    Series,
    boot_s,
    contradiction,
    join,
    stale_at,
)
from journal import log_bug
from judge import WHOLE_EVERY_S, Results
from settings import Settings, Timeframe
from store import Store, is_unknown

# Candles that are read again: the forming one, and two that the exchange may still revise.
OVERLAP = 3
# The share of a refresh interval after which no request begins, so that two refreshes never meet.
GIVE_UP_SHARE = 0.8
# A request that began in time may end this much later.
GRACE_S = 1.0

Request = tuple[list[Feed], Callable[[], Results]]  # what it reads, and how


class Fetcher:
    """Reads for `settings` with `client`, up to MAX_WORKERS requests at a time."""

    def __init__(self, settings: Settings, client: BinanceClient, store: Store) -> None:
        self._settings, self._client, self._store = settings, client, store
        self._executor = ThreadPoolExecutor(settings.max_workers, "fetch")
        self._stopped = False  # set by the main thread, read by loops; one flag needs no lock

    def read(self, timeframe: Timeframe) -> Results:
        """The candles of all symbols in `timeframe`, and their prices if they are read with it;
        an error for each that could not be read."""
        give_up_at = time.monotonic() + GIVE_UP_SHARE * timeframe.refresh_s
        requests = self._candle_requests(timeframe, give_up_at)
        if timeframe == self._settings.price_timeframe:
            requests += self._price_requests(give_up_at)
        jobs: dict[Future[Results], list[Feed]] = {}
        results: Results = {}
        for feeds, request in requests:
            try:
                jobs[self._executor.submit(request)] = feeds
            except RuntimeError as error:  # shut down, or the system has no thread left
                failure = Stopped("stopping") if self._stopped else Retryable(str(error))
                results |= dict.fromkeys(feeds, failure)
        wait_for(jobs, timeout=give_up_at - time.monotonic() + GRACE_S)
        for job, feeds in jobs.items():
            results |= _result(job, feeds)
        return results

    def listing(self, give_up_at: float) -> Listing:
        """What the exchange lists of the symbols. Raises BinanceError."""
        return self._client.exchange_info(self._settings.symbols, give_up_at)

    def stop(self) -> None:
        """Begin nothing more. A request that is on its way may end, but nobody waits for it."""
        self._stopped = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _candle_requests(self, timeframe: Timeframe, give_up_at: float) -> list[Request]:
        def request(feed: Feed) -> Request:
            return [feed], lambda: self.read_candles(feed, timeframe, give_up_at)

        return [request(Feed(symbol, timeframe.name)) for symbol in self._settings.symbols]

    def _price_requests(self, give_up_at: float) -> list[Request]:
        """Tickers in calls of 20 symbols. One that the exchange does not know is asked for by
        itself: the exchange rejects a whole call for it."""
        unknown = self._store.unknown_symbols()
        known = [symbol for symbol in self._settings.symbols if symbol not in unknown]
        size = MAX_TICKER_SYMBOLS
        groups = [known[start : start + size] for start in range(0, len(known), size)]
        groups += [[symbol] for symbol in unknown]

        def request(group: list[str]) -> Request:
            feeds = [Feed(symbol, PRICE) for symbol in group]
            return feeds, lambda: self._read_prices(group, give_up_at)

        return [request(group) for group in groups]

    def read_candles(self, feed: Feed, timeframe: Timeframe, give_up_at: float) -> Results:
        """One series: its newest candles if they join what is held, else all of it. A worker's
        job; it raises nothing."""
        held = self._store.held(feed)
        try:
            series = None
            whole = self._store.is_disputed(feed)
            if isinstance(held, Series) and boot_s() < held.reread_at and not whole:
                # A bad candle among so few refuses them all, but not the whole series.
                with suppress(BadRow):
                    series = self._read_newest(feed, held, timeframe, give_up_at)
            return {feed: series or self._read_whole(feed, held, timeframe, give_up_at)}
        except BinanceError as error:
            return {feed: _bare(error)}

    def _read_newest(
        self, feed: Feed, held: Series, timeframe: Timeframe, give_up_at: float
    ) -> Series | None:
        """`held` with its newest candles read again; None if they are too many, do not join, or
        contradict what is final."""
        asked_at, step_ms = boot_s(), TIMEFRAME_MS[timeframe.name]
        new_candles = int(time.time() * 1000) // step_ms - held.newest_ms // step_ms
        count = max(OVERLAP, OVERLAP - 1 + new_candles)
        limit = self._settings.candle_limit
        if count >= limit:
            return None
        read = self._client.klines(feed.symbol, timeframe.name, count, give_up_at)
        final_ms = held.final_ms(step_ms, timeframe.refresh_s)
        joined = join(held.candles, read, step_ms, limit)
        if joined is None or contradiction(held.candles, read, final_ms):
            return None
        expires_at = _expiry(asked_at, timeframe, joined)
        return Series(joined, asked_at, expires_at, held.reread_at)

    def _read_whole(
        self, feed: Feed, held: Series | Price | None, timeframe: Timeframe, give_up_at: float
    ) -> Series:
        asked_at, limit = boot_s(), self._settings.candle_limit
        read = self._client.klines(feed.symbol, timeframe.name, limit, give_up_at)
        # The first whole read is repeated after a random time, so that not all series are read
        # whole in one refresh.
        reread_in_s = WHOLE_EVERY_S * (1 if held else random.uniform(0.1, 1))
        candles = read.part(-limit)
        expires_at = _expiry(asked_at, timeframe, candles)
        return Series(candles, asked_at, expires_at, asked_at + reread_in_s)

    def _read_prices(self, symbols: Sequence[str], give_up_at: float) -> Results:
        asked_at = boot_s()
        try:
            tickers = self._client.tickers(symbols, give_up_at)
        except BinanceError as error:
            if not is_unknown(error) or len(symbols) == 1:
                return dict.fromkeys([Feed(symbol, PRICE) for symbol in symbols], _bare(error))
            half = len(symbols) // 2  # and so on, to learn which one it is
            first = self._read_prices(symbols[:half], give_up_at)
            return first | self._read_prices(symbols[half:], give_up_at)
        return {
            Feed(symbol, PRICE): Price(found, asked_at, asked_at + PRICE_TTL_S)
            if isinstance(found, Ticker)
            else _bare(found)
            for symbol, found in tickers.items()
        }


def _expiry(asked_at: float, timeframe: Timeframe, candles: Candles) -> float:
    """When `candles`, asked for at `asked_at`, must not be shown any more."""
    stale = stale_at(candles.times[-1], TIMEFRAME_MS[timeframe.name])
    return min(asked_at + timeframe.ttl_s, stale)


def _result(job: Future[Results], feeds: list[Feed]) -> Results:
    """What `job` has read of `feeds`. One that is not done by now has failed."""
    if job.cancelled():  # by stop()
        return dict.fromkeys(feeds, Stopped("stopping"))
    if job.cancel() or not job.done():
        return dict.fromkeys(feeds, Retryable("no answer before the next refresh"))
    try:
        return job.result()
    except Exception as error:  # a bug, which must not harm other symbols
        log_bug(error)
        return dict.fromkeys(feeds, BinanceError(f"bug: {error!r}"))


def _bare(error: BinanceError) -> BinanceError:
    """`error` without its traceback, whose variables hold answers of up to 5 MB."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
