"""The refresh loop under a fake clock."""

from __future__ import annotations

import re
import threading
import time
from itertools import pairwise

import pytest

from market_data import WAKE_S, RefreshLoop
from settings import Timeframe


class MovedLoop(RefreshLoop):
    """A loop whose waits advance its wall clock; it ends after `turns` refreshes."""

    brings = True

    def __init__(self, interval_s: int, turns: int, takes_s: float = 0.0, now: float = 1000.2):
        self.now, self.turns, self.takes_s, self.fired = now, turns, takes_s, list[float]()
        super().__init__(Timeframe("5m", interval_s, 120), 0.5, self.turn, lambda: self.now)
        self.finished.wait = self.pass_time  # type: ignore[method-assign, assignment]

    def turn(self, _: Timeframe) -> bool:
        self.fired.append(self.now)
        self.now += self.takes_s
        if len(self.fired) == self.turns:
            self.cancel()
        return self.brings

    def pass_time(self, seconds: float) -> bool:
        self.now += seconds
        return self.finished.is_set()


class SteppedLoop(MovedLoop):
    """A loop whose wall clock steps by `step_s` when `at_s` real seconds have passed."""

    def __init__(self, step_s: float, at_s: float, turns: int) -> None:
        self.passed_s, self._step_s, self._at_s = 0.0, step_s, at_s
        self.fired_s: list[float] = []  # in real seconds
        super().__init__(30, turns, takes_s=0.2, now=self.now)

    @property
    def now(self) -> float:
        return 1000.2 + self.passed_s + self._step_s * (self.passed_s >= self._at_s)

    @now.setter
    def now(self, now: float) -> None:
        self.passed_s += now - self.now

    def turn(self, timeframe: Timeframe) -> bool:
        self.fired_s.append(self.passed_s)
        return super().turn(timeframe)


class TestRefreshLoop:
    def test_fires_at_once_then_on_aligned_ticks_without_drift(self) -> None:
        loop = MovedLoop(30, turns=5, takes_s=3.7)
        loop.run()
        assert loop.fired == pytest.approx([1000.2, 1020.5, 1050.5, 1080.5, 1110.5])

    def test_a_tick_missed_is_skipped(self) -> None:
        loop = MovedLoop(30, turns=3, takes_s=70)
        loop.run()
        assert loop.fired == pytest.approx([1000.2, 1080.5, 1170.5])

    def test_after_one_that_brought_nothing_the_next_comes_within_30_s(self) -> None:
        loop = MovedLoop(300, turns=4)
        loop.brings = False
        loop.run()
        assert loop.fired == pytest.approx([1000.2, 1020.5, 1050.5, 1080.5])

    @pytest.mark.parametrize("step_s", [-3600.0, -29.9, -10.0, -0.3, 0.3, 10.0, 29.9, 3600.0])
    @pytest.mark.parametrize("at_s", [19.0, 20.2, 20.35, 20.6, 35.0, 50.1])
    def test_a_clock_that_steps_makes_no_storm_and_no_hole(
        self, monkeypatch: pytest.MonkeyPatch, step_s: float, at_s: float
    ) -> None:
        """Refreshes are due after 20.3 s and 50.3 s and take 0.2 s: the clock steps before, during
        and after one."""
        loop = SteppedLoop(step_s, at_s, turns=8)
        monkeypatch.setattr(time, "monotonic", lambda: loop.passed_s)
        loop.run()
        between = [b - a for a, b in pairwise(loop.fired_s)]
        assert max(between) < 30 + 2 * WAKE_S + 0.01
        assert sum(gap < 20 for gap in between[1:]) <= 2  # an early one, and one that realigns
        assert loop.fired[-3:] == pytest.approx(
            [loop.fired[-1] - 60, loop.fired[-1] - 30, loop.fired[-1]]
        )
        assert [fired % 30 for fired in loop.fired[-3:]] == pytest.approx([0.5] * 3)

    def test_an_error_is_logged_with_its_place_and_ends_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = MovedLoop(30, turns=2)
        turn = loop.function

        def broken(timeframe: Timeframe) -> bool:
            turn(timeframe)
            raise KeyError("oops")

        loop.function = broken
        loop.run()
        assert len(loop.fired) == 2
        assert re.search(r"event=bug .*oops.* where=test_market_data.py:\d+", caplog.messages[0])

    def test_cancel_wakes_a_real_loop_at_once(self) -> None:
        turned = threading.Event()
        loop = RefreshLoop(Timeframe("5m", 3600, 7200), 0.5, lambda _: turned.set() or True)
        loop.start()
        assert turned.wait(5)
        assert loop.hangs_at > time.monotonic()
        loop.cancel()
        loop.join(60)
        assert not loop.is_alive()
