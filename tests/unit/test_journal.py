"""Log lines."""

from __future__ import annotations

import logging

import pytest

from journal import Problems, event


def test_a_problem_is_short_however_much_an_error_says_and_never_empty() -> None:
    problems = Problems()
    problems.note("redis", ConnectionError("x" * 2000))
    problems.note("keys", TimeoutError())
    assert problems.now() == {"redis": "x" * 200, "keys": "TimeoutError"}
    problems.note("redis", "")
    assert list(problems.now()) == ["keys"]


class TestLogLines:
    def test_logfmt(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "coinex")
        event(logging.INFO, "refresh", timeframe="5m", updated=29, reason="")
        event(logging.INFO, "x", url="http://h/?a=1", text='say "no"\nnow', plain="a,b:c/d")
        assert caplog.messages == [
            'event=refresh timeframe=5m updated=29 reason=""',
            r'event=x url="http://h/?a=1" text="say \"no\"\nnow" plain=a,b:c/d',
        ]
