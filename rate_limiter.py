"""How much may be asked: one limiter for all threads, over the exchange's limits and its refusals.

Knows nothing of HTTP and settings, and writes no log. Limits are from the exchange's public REST
documentation: https://docs.binance.us/
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from binance_answers import REQUESTS_LIMIT, WEIGHT_LIMIT, RateLimited, Stopped


class _Budget:
    """At most `limit` units in any `window_s` seconds. Has no lock: RateLimiter's guards it."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit, self.window_s, self.used = limit, window_s, 0
        self._spent: deque[tuple[float, int]] = deque()  # (free again at, units), oldest first

    def expire(self, now: float) -> None:
        while self._spent and self._spent[0][0] <= now:
            self.used -= self._spent.popleft()[1]

    def wait_s(self, units: int, now: float) -> float:
        """Seconds until `units` can be spent; 0.0 if they can now."""
        self.expire(now)
        used, wait_s = self.used, 0.0
        for free_at, spent in self._spent:
            if used + units <= self.limit:
                break
            used, wait_s = used - spent, free_at - now
        return wait_s

    def spend(self, units: int, now: float) -> None:
        self._spent.append((now + self.window_s, units))
        self.used += units


class RateLimiter:
    """Keeps all threads within the exchange's limits for an IP address: 1200 weight in any 60 s and
    5000 requests in any 300 s by all programs there, `weight_limit` weight by this one.

    `travel_s`, the longest that a request may take from `acquire` to the exchange, lengthens the
    windows, so that they hold by the exchange's count too. `clock` gives monotonic seconds;
    `wait(seconds)` sleeps, and returns True if the program is ending.
    """

    def __init__(
        self,
        weight_limit: int = WEIGHT_LIMIT,
        *,
        travel_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._wait = clock, wait
        # Guards the fields below. Workers spend, the main thread and HTTP threads look. Unlocked,
        # two workers would both spend the last unit. Nobody waits while holding it.
        self._lock = threading.Lock()
        self._own = _Budget(weight_limit, 60 + travel_s)
        self._address = _Budget(WEIGHT_LIMIT, 60 + travel_s)
        self._requests = _Budget(REQUESTS_LIMIT, 300 + travel_s)
        self._held_until, self._held_by = -math.inf, 0  # and by which HTTP status

    def acquire(self, weight: int, give_up_at: float = math.inf) -> None:
        """Wait until a request of `weight` may go out, and charge it.

        Raises RateLimited at once if that is not before `give_up_at` (of `clock`), and Stopped
        if the wait was interrupted; then nothing is charged.
        """
        if weight > self._own.limit:
            raise ValueError(f"weight {weight} never fits a limit of {self._own.limit}")
        costs = ((self._own, weight), (self._address, weight), (self._requests, 1))
        while True:
            with self._lock:
                now = self._clock()
                held_s, held_by = self._held_until - now, self._held_by
                budget_s = max(budget.wait_s(units, now) for budget, units in costs)
                if max(held_s, budget_s) <= 0:
                    for budget, units in costs:
                        budget.spend(units, now)
                    return
            wait_s = max(held_s, budget_s)
            if now + wait_s >= give_up_at:
                if held_s > 0:
                    raise RateLimited(f"on hold after HTTP {held_by}", wait_s, held_by)
                raise RateLimited("the request budget is spent", wait_s)
            if self._wait(wait_s):
                raise Stopped("stopping")

    def observe(self, used_weight: int) -> None:
        """Note the weight that the exchange counted in its current minute. What exceeds our own
        count was another program's, and is charged for a whole window.
        """
        with self._lock:
            now = self._clock()
            self._address.expire(now)
            if used_weight > self._address.used:
                self._address.spend(used_weight - self._address.used, now)

    def hold(self, seconds: float, status: int) -> None:
        """Let no request out for `seconds`: the exchange answered with HTTP `status`."""
        with self._lock:
            until = self._clock() + seconds
            if until > self._held_until:
                self._held_until, self._held_by = until, status

    def state(self) -> tuple[int, float, int]:
        """(weight used by all, seconds left of a hold or 0.0, the HTTP status behind it)."""
        with self._lock:
            now = self._clock()
            self._address.expire(now)
            return self._address.used, max(0.0, self._held_until - now), self._held_by
