"""`make upgrade` to code that works and to code that does not; `make rollback`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.systemd.box import PROJECT, Box
from tests.systemd.conftest import CONSUMERS, UNIT, Unit

Pull = Callable[[str, str], None]
# Of a coin that nothing is published of, so the paper trader keeps it whatever else it trades.
POSITION = {
    "timeframe": "5m",
    "signal": "ribbon_up",
    "quantity": 200.0,
    "price": 0.5,
    "opened": 1795000000000,
    "exit_signal": "",
}
BOOK = {"positions": {"XRPUSDT": POSITION}, "profit": 12.5, "trades": 4, "revision": 4}
# Code that passes --check, at the end of a file.
LEASE_FAILS = "def _fail(self):\n    raise SystemExit(1)\n\nLease.claim = _fail"
NEVER_HEALTHY = """\
_report = report
def report(view):
    return 503, {**_report(view)[1], "status": "down"}"""


@pytest.fixture
def pull(box: Box, everything: Unit) -> Iterator[Pull]:
    """pull(file, code): the owner pulls a change that adds `code` to the end of the file."""

    def add(file: str, code: str) -> None:
        everything.run("sh", "-c", 'echo "$CODE" >> "$0"', f"{PROJECT}/{file}", CODE=code)

    yield add
    box.copy_project()  # as it was


def version(unit: Unit) -> str:
    health = unit.run("curl", "-sS", "http://127.0.0.1:8895/health")
    return re.findall(r'"version": "(.+)"', health)[0]


def pids(unit: Unit) -> list[int]:
    return [unit.pid(each) for each in [UNIT, *CONSUMERS]]


def test_to_code_that_works_and_back(everything: Unit, pull: Pull) -> None:
    before, running = pids(everything), version(everything)
    pull("settings.py", 'VERSION = "9.9.9"')
    everything.systemctl("restart", *CONSUMERS, UNIT)
    everything.wait_until_all_ok()
    assert version(everything) == running, "a pull changes nothing that runs"

    said = everything.make("upgrade")
    assert "The service will work here." in said, "it was checked"
    everything.wait_until_all_ok()
    assert version(everything) == "9.9.9"
    assert not {*before} & {*pids(everything)}
    began = [
        int(everything.show("ExecMainStartTimestampMonotonic", unit)) for unit in [UNIT, *CONSUMERS]
    ]
    assert min(began) == began[0], "the service first"

    everything.make("rollback")
    everything.wait_until_all_ok()
    assert version(everything) == running


@pytest.mark.parametrize(
    ("file", "code", "why"),
    [
        ("lease.py", LEASE_FAILS, f"restart {UNIT}: "),
        ("health.py", NEVER_HEALTHY, "not done within 60 s"),
        ("consumers/indicators.py", "del ema_ribbon", "restart coinex-consumer@dashboard.service"),
        ("consumers/live.py", "Board.run = None", "dashboard has a bug"),
    ],
    ids=["the service ends", "never healthy", "a consumer ends", "a loop of a consumer fails"],
)
def test_it_goes_back_by_itself_and_nothing_is_lost(
    everything: Unit, pull: Pull, file: str, code: str, why: str
) -> None:
    trader = "coinex-consumer@paper_trader.service"
    everything.systemctl("stop", trader)
    everything.redis("set", "paper:positions", json.dumps(BOOK))
    everything.systemctl("start", trader)
    release = everything.make("status").splitlines()[-1]
    running = version(everything)
    pull(file, code)
    pull("settings.py", 'VERSION = "9.9.9"')
    said = everything.make("upgrade", code=2)
    assert why in said and "Going back to " in said and "does not work" in said
    everything.wait_until_all_ok()
    assert everything.make("status").splitlines()[-1] == release
    assert version(everything) == running
    book = json.loads(everything.redis("get", "paper:positions"))
    assert book["positions"]["XRPUSDT"] == POSITION
    assert book["revision"] >= BOOK["revision"], "it went on"


def test_code_that_fails_the_check_touches_nothing(everything: Unit, pull: Pull) -> None:
    before = pids(everything)
    pull("settings.py", "raise ValueError")
    assert "nothing was changed" in everything.make("upgrade", code=2)
    assert pids(everything) == before
    pull("consumers/scanner.py", "this is no Python")
    assert "SyntaxError" in everything.make("upgrade", code=2)
    assert pids(everything) == before
