"""Log lines."""

from __future__ import annotations

import logging
import time

import pytest

from journal import Problem, Problems, event


def test_a_problem_is_short_however_much_an_error_says_and_never_empty() -> None:
    problems = Problems()
    problems.note("redis", ConnectionError("x" * 2000))
    problems.note("keys", TimeoutError())
    reasons = {what: problem.reason for what, problem in problems.now().items()}
    assert reasons == {"redis": "x" * 200, "keys": "TimeoutError"}
    problems.note("redis", "")
    assert list(problems.now()) == ["keys"]


def test_a_problem_is_as_old_as_its_first_reason() -> None:
    problems = Problems()
    before = time.time()
    problems.note("exchange", "on hold for 9 s")
    [first] = problems.now().values()
    assert before <= first.since <= time.time()
    problems.note("exchange", "on hold for 8 s")
    assert problems.now() == {"exchange": Problem("on hold for 8 s", first.since)}
    problems.note("exchange", "")
    problems.note("exchange", "on hold for 60 s")
    assert problems.now()["exchange"].since > first.since


class TestLogLines:
    def test_logfmt(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "coinex")
        event(logging.INFO, "refresh", timeframe="5m", updated=29, reason="")
        event(logging.INFO, "x", url="http://h/?a=1", text='say "no"\nnow', plain="a,b:c/d")
        assert caplog.messages == [
            'event=refresh timeframe=5m updated=29 reason=""',
            r'event=x url="http://h/?a=1" text="say \"no\"\nnow" plain=a,b:c/d',
        ]
