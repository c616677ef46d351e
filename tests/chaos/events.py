"""What a storm consists of: events at random times, which are shown and counted as they happen."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

BEGIN_WITHIN_S = 3.0  # all faults of a round begin in this time
LAST_S = (1.0, 5.0)  # the shortest and the longest fault

Event = tuple[float, Callable[[], None]]  # seconds into the round, and what to do then


class Deck:
    """Deals each card once in random order, then reshuffles."""

    def __init__(self, rng: random.Random, cards: tuple[str, ...]) -> None:
        self._rng, self._cards = rng, cards
        self._left: list[str] = []

    def deal(self) -> str:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


class Events:
    """Draws their times, shows them on stdout and counts them in `done`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._began = rng, time.monotonic()
        self.done: Counter[str] = Counter()

    def span(self) -> tuple[float, float]:
        """A random begin and end of a fault, in seconds into its round."""
        begin = self._rng.uniform(0, BEGIN_WITHIN_S)
        return begin, begin + self._rng.uniform(*LAST_S)

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {what}", flush=True)

    def doing(self, what: str, act: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            self.say(what)
            self.done[what.split(",")[0]] += 1
            act()

        return do
