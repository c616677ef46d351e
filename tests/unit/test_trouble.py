"""What the banner of a page says of the service's /health."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.live import NOT_ASKED
from consumers.trouble import trouble

SYMBOLS = ("AUSDT", "BUSDT")
SINCE = "2026-11-24T03:07:30.571Z"


def service(status: str = "degraded", **fields: Any) -> dict[str, Any]:
    """The service as the dashboard sees it; `failing` is by part and symbol."""
    failing = fields.pop("failing", {})
    parts = {
        name: {
            "fresh": 2,
            "expected": 2,
            "failing": failing.get(name, {}),
            "failing_since": dict.fromkeys(failing.get(name, {}), SINCE),
        }
        for name in ("prices", "5m", "1h")
    }
    parts["5m"]["fresh"] = fields.pop("fresh", 2)
    problems = fields.pop("problems", {})
    health = {
        "status": status,
        "symbols": 2,
        "problems": problems,
        "problems_since": dict.fromkeys(problems, SINCE),
        "prices": parts.pop("prices"),
        "timeframes": parts,
        "exchange": {"hold_until": fields.pop("hold_until", None)},
    }
    assert not fields
    return {"up": True, "error": "", "health": health}


def said(state: dict[str, Any]) -> tuple[str, str]:
    found = trouble(state)
    assert found
    return found["text"], found["detail"]


@pytest.mark.parametrize("status", ["ok", "standby"])
def test_nothing_is_wrong(status: str) -> None:
    assert trouble(service(status)) is None


def test_what_is_not_known_yet_is_no_trouble() -> None:
    assert trouble({"up": False, "error": NOT_ASKED, "health": None}) is None


def test_a_service_that_does_not_answer() -> None:
    error = "http://127.0.0.1:8895/health does not answer: refused"
    found = trouble({"up": False, "error": error, "health": None})
    assert found and (found["status"], found["detail"]) == ("silent", error)


def test_a_hold_says_until_when_and_no_seconds_that_run_down() -> None:
    def held(seconds: int) -> dict[str, Any]:
        reason = f"on hold for {seconds} s after HTTP 429: Too many requests. (code -1003)"
        until = "2026-11-24T03:08:00.123Z"
        return service(problems={"exchange": reason, "AUSDT": "halted"}, hold_until=until)

    found = trouble(held(9))
    assert (
        found
        == trouble(held(8))
        == {
            "status": "degraded",
            "text": "The exchange refuses",
            "detail": "on hold after HTTP 429: Too many requests. (code -1003)",
            "since": SINCE,
            "until": "2026-11-24T03:08:00Z",
        }
    )


def test_a_page_of_html_instead_of_an_answer() -> None:
    reason = "the answer is not JSON: '<!DOCTYPE html><html>'"
    every = dict.fromkeys(SYMBOLS, reason)
    state = service("down", failing={"prices": every, "5m": every, "1h": every})
    detail = "the exchange answers with a page of HTML: '<!DOCTYPE html><html>'"
    assert said(state) == ("No read succeeds", detail)
    found = trouble(state)
    assert found and found["since"] == SINCE


def test_some_reads_fail_for_several_reasons() -> None:
    failing = {"prices": {"AUSDT": "HTTP 503"}, "5m": {"AUSDT": "HTTP 503", "BUSDT": "slow"}}
    assert said(service(failing=failing)) == ("3 reads fail", "2 of prices, 5m: HTTP 503")


def test_the_worst_problem_comes_first_and_others_after_failing_reads() -> None:
    problems = {"AUSDT": "is not traded but BREAK", "redis": "refused", "loops": "hanging: x"}
    assert said(service("down", problems=problems))[0] == "The service cannot write to Redis"
    halted = {"AUSDT": "is not traded but BREAK"}
    assert said(service(problems=halted))[0] == "AUSDT: is not traded but BREAK"
    failing = {"5m": {"BUSDT": "HTTP 500"}}
    assert said(service(problems=halted, failing=failing))[0] == "1 read fails"


def test_without_a_reason_it_says_what_is_missing() -> None:
    assert said(service("starting"))[0] == "The service is starting"
    assert said(service(fresh=1)) == ("Data is missing", "5m: 1 of 2 fresh")


def test_a_health_that_is_none_breaks_nothing() -> None:
    found = trouble({"up": True, "error": "", "health": {"status": "degraded", "problems": 7}})
    assert found and found["status"] == "silent"


def test_one_reason_for_some_reads_says_of_which() -> None:
    every = dict.fromkeys(SYMBOLS, "HTTP 503")
    state = service(failing={"prices": every, "5m": every})
    assert said(state) == ("4 reads fail", "prices, 5m: HTTP 503")
