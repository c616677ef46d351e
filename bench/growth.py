"""How many symbols fit: the service's own rate limiter on its own schedule, in simulated time."""

from __future__ import annotations

import math

from binance_answers import RateLimited
from binance_client import MAX_TICKER_SYMBOLS, RateLimiter
from market_data import GIVE_UP_SHARE
from settings import SPARE_WEIGHT

SECONDS = 1800  # three times the longest combination of the intervals
SETTLED_S = 600  # by then nothing of the first fill is left in any window
REQUESTS_A_SECOND = 500.0  # 32 workers at 50 to 60 ms


class MustWait(Exception):
    """The limiter has nothing left for so many `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def worst_share(symbols: int, intervals_s: tuple[int, ...] = (30, 120, 300)) -> float:
    """The longest part of its interval that a settled refresh takes; inf if requests are left out.

    Requests go out one after the other, those of the refresh with the shortest interval first, as
    the service does it. The first interval is also that of the prices.
    """
    now = 0.0

    def wait(seconds: float) -> bool:
        raise MustWait(seconds)

    # 5 s: the longest that a request may be on its way, which lengthens the limiter's windows.
    limiter = RateLimiter(travel_s=5.0, clock=lambda: now, wait=wait)
    prices = math.ceil(symbols / MAX_TICKER_SYMBOLS)
    ticks = sorted((at, every) for every in intervals_s for at in range(0, SECONDS, every))
    asking: dict[int, tuple[int, int]] = {}  # by interval: when it began, requests to come
    worst = 0.0
    while ticks or asking:
        next_tick = ticks[0][0] if ticks else math.inf
        if now >= next_tick or not asking:
            at, every_s = ticks.pop(0)
            now = max(now, at)
            asking[every_s] = (at, symbols + (prices if every_s == intervals_s[0] else 0))
            continue
        every_s = min(asking)
        at, left = asking.pop(every_s)
        try:
            spare = 0 if every_s == intervals_s[0] else SPARE_WEIGHT
            limiter.acquire(1, at + GIVE_UP_SHARE * every_s, spare)
        except MustWait as must:
            asking[every_s] = (at, left)
            now = min(now + must.seconds, next_tick)
        except RateLimited:
            if at >= SETTLED_S:
                return math.inf
        else:
            now += 1 / REQUESTS_A_SECOND
            if left > 1:
                asking[every_s] = (at, left - 1)
            elif at >= SETTLED_S:
                worst = max(worst, (now - at) / every_s)
    return worst


def most_symbols(low: int = 29, high: int = 500) -> int:
    """The most symbols of which no settled refresh leaves any out."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if worst_share(middle) < 1 else (low, middle)
    return low
