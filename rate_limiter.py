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
from typing import NamedTuple

from binance_answers import LIMITS, Limits, RateLimited, Stopped

# Statuses that mean "not now", and how long to hold at first where Retry-After is missing. 403 and
# 451, "not from there", come from the network before the exchange.
HOLD_S = {403: 60, 418: 120, 429: 60, 451: 60}
LONGEST_HOLD_S = 1800  # where Retry-After is missing
# How soon others look whether the one request that may go out after a hold was answered, and how
# long they leave it.
PROBE_POLL_S, PROBE_S = 0.1, 15.0


class _Budget:
    """At most `limit` units in any `window_s` seconds. Has no lock: RateLimiter's guards it."""

    def __init__(self, name: str, limit: int = 0, window_s: float = 0.0) -> None:
        self.name, self.limit, self.window_s, self.used = name, limit, window_s, 0
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


class LimiterState(NamedTuple):
    used_weight: int  # by all programs on this address
    hold_s: float  # left of a hold, 0.0 if there is none
    status: int  # the HTTP status behind the last hold, 0 if there was none
    limits: Limits  # of this address


class RateLimiter:
    """Keeps all threads within `weight_limit` weight a minute, and all programs on this IP address,
    as far as the exchange tells of them, within the address's limits.

    After a hold one request goes first: the others follow once the exchange has answered it.

    `travel_s`, the longest that a request may take from `acquire` to the exchange, lengthens the
    windows, so that they hold by the exchange's count too. `clock` gives monotonic seconds;
    `wait(seconds)` sleeps, and returns True if the program is ending.
    """

    def __init__(
        self,
        weight_limit: int = LIMITS.weight.units,
        *,
        travel_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._wait = clock, wait
        # Guards the fields below. Workers spend, the main thread and HTTP threads look. Unlocked,
        # two workers would both spend the last unit. Nobody waits while holding it.
        self._lock = threading.Lock()
        self._travel_s = travel_s
        self._own = _Budget("WEIGHT_LIMIT", weight_limit, 60 + travel_s)
        self._address = _Budget("the weight of this address")
        self._requests = _Budget("the requests of this address")
        self._set_limits_locked(LIMITS)
        self._held_until, self._held_by = -math.inf, 0  # and by which HTTP status
        self._era = 0  # how many holds began; a request of an earlier era says nothing of this one
        self._in_doubt = False  # nothing was answered since the last hold
        self._refused = 0  # holds in a row, with nothing answered between them
        self._probe_until = -math.inf  # while in doubt: one request is out

    def set_limits(self, limits: Limits) -> None:
        """What the address may use, as the exchange has said."""
        with self._lock:
            self._set_limits_locked(limits)

    def _set_limits_locked(self, limits: Limits) -> None:
        self._limits = limits
        for budget, limit in zip((self._address, self._requests), limits, strict=True):
            budget.limit, budget.window_s = limit.units, limit.window_s + self._travel_s

    def acquire(self, weight: int, give_up_at: float = math.inf) -> int:
        """Wait until a request of `weight` may go out, and charge it. Returns its era, for
        `answered`, `unanswered` or `refused`.

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
                if self._in_doubt and now < self._probe_until:
                    held_s = max(held_s, PROBE_POLL_S)
                budget_s, spent = max((b.wait_s(units, now), b.name) for b, units in costs)
                if max(held_s, budget_s) <= 0:
                    for budget, units in costs:
                        budget.spend(units, now)
                    self._probe_until = now + PROBE_S
                    return self._era
            wait_s = max(held_s, budget_s)
            if now + wait_s >= give_up_at:
                if held_s > 0:
                    raise RateLimited(f"on hold after HTTP {held_by}", wait_s, held_by)
                raise RateLimited(f"the request budget is spent: {spent}", wait_s)
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

    def answered(self, era: int) -> None:
        """The exchange answered a request, so it refuses no more."""
        with self._lock:
            if era == self._era:
                self._in_doubt, self._refused = False, 0

    def unanswered(self, era: int) -> None:
        """A request got no answer: after a hold, the next one may try."""
        with self._lock:
            if era == self._era:
                self._probe_until = -math.inf

    def refused(self, era: int, status: int, retry_after_s: float | None) -> float:
        """A request was refused with HTTP `status`. Returns for how many seconds to hold: without
        Retry-After twice as long as the last time, if nothing was answered since."""
        with self._lock:
            if era == self._era:  # others that were out at the same time tell nothing new
                self._era += 1
                self._refused += 1
            seconds = retry_after_s
            if seconds is None:
                doubled = HOLD_S[status] * 2 ** max(0, min(self._refused - 1, 10))
                seconds = min(doubled, LONGEST_HOLD_S)
            self._hold_locked(seconds, status)
            return seconds

    def hold(self, seconds: float, status: int) -> None:
        """Let no request out for `seconds`: the exchange answered with HTTP `status`."""
        with self._lock:
            self._era += 1
            self._hold_locked(seconds, status)

    def _hold_locked(self, seconds: float, status: int) -> None:
        self._in_doubt, self._probe_until = True, -math.inf
        until = self._clock() + seconds
        if until > self._held_until:
            self._held_until, self._held_by = until, status

    def state(self) -> LimiterState:
        with self._lock:
            now = self._clock()
            self._address.expire(now)
            hold_s = max(0.0, self._held_until - now)
            return LimiterState(self._address.used, hold_s, self._held_by, self._limits)
