"""The unit in a real systemd: install, death, hangs, stop, journal, bad settings, uninstall."""

from __future__ import annotations

import time

import pytest

from tests.support import until
from tests.systemd.box import HOME, Box
from tests.systemd.conftest import (
    DROP_IN,
    GOOD,
    SERIES,
    SETTINGS,
    SYMBOLS,
    UNIT,
    USER_MANAGER,
    Unit,
)

UNIT_FILE = f"{HOME}/.config/systemd/user/{UNIT}"
WANTED = f"{HOME}/.config/systemd/user/default.target.wants/{UNIT}"
RESTART_S, WATCHDOG_S, STOP_S = 5, 30, 5  # as the unit and the service promise
SLOW_S = 20  # extra time for a busy machine
HANG_SHOWS_S = 0.8 * 5 + 15  # GIVE_UP_SHARE of a 5 s interval, plus HANG_S

# Imported before everything else: the refreshes of the process whose pid is in a file never end.
HANG = f"""\
import concurrent.futures, os, pathlib, threading

wait = concurrent.futures.wait


def hang(*arguments, **options):
    named = pathlib.Path("{HOME}/hang/pid")
    if named.exists() and named.read_text().strip() == str(os.getpid()):
        threading.Event().wait()
    return wait(*arguments, **options)


concurrent.futures.wait = hang
"""


def test_installed(unit: Unit) -> None:
    assert unit.show("UnitFileState") == "enabled"
    assert unit.show("SubState") == "running"
    assert (unit.show("Type"), unit.show("NotifyAccess")) == ("notify", "main")
    assert unit.show("NRestarts") == "0"
    assert unit.series() == SERIES
    for key in sorted(SERIES):
        assert 0 < int(unit.redis("ttl", key)) <= 40, key
    assert '"status": "ok"' in unit.run("curl", "-sS", "http://127.0.0.1:8895/health")


def test_systemd_has_nothing_to_say_about_it(unit: Unit) -> None:
    assert unit.run("systemd-analyze", "--user", "verify", UNIT_FILE) == ""
    assert unit.make("verify-unit") == ""


def test_hardening_takes_effect(unit: Unit) -> None:
    status = unit.run("cat", f"/proc/{unit.pid()}/status").replace("\t", " ")
    assert "NoNewPrivs: 1" in status
    assert "Seccomp: 2" in status
    mounts = [line.split() for line in unit.run("cat", f"/proc/{unit.pid()}/mountinfo").split("\n")]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    assert "ro" in options["/"]
    assert "rw" in options["/tmp"]


def test_ready_comes_with_the_first_fill_and_not_before(unit: Unit) -> None:
    unit.systemctl("stop", UNIT)
    unit.redis("flushall")
    unit.fault(kind="status", status=500, path="klines")
    unit.systemctl("start", "--no-block", UNIT)
    until(lambda: unit.show("StatusText").startswith("starting"), SLOW_S, 0.2)
    unit.wait_for_journal("event=fetch_failing", SLOW_S)
    assert unit.show("ActiveState") == "activating"
    assert unit.series() == set()
    unit.fault()
    until(lambda: unit.show("ActiveState") == "active", SLOW_S, 0.2)
    assert unit.series() == SERIES


def test_killed_it_is_started_again(unit: Unit) -> None:
    pid = unit.pid()
    unit.kill("KILL", pid)
    unit.wait_for_another(pid, RESTART_S + SLOW_S)
    assert unit.show("NRestarts") == "1"
    unit.wait_until_ok()
    assert unit.redis("get", "market:leader").split(":")[1] == str(unit.pid())
    scheduled = int(unit.journal("Scheduled restart")[0]["__REALTIME_TIMESTAMP"])
    died = int(unit.journal("Main process exited, code=killed")[0]["__REALTIME_TIMESTAMP"])
    assert RESTART_S - 0.1 < (scheduled - died) / 1e6 < RESTART_S + 3


def ended_by_watchdog(unit: Unit, pid: int) -> None:
    """Wait until the watchdog has ended the service and systemd has restarted it."""
    unit.wait_for_journal("Watchdog timeout (limit 30s)!", HANG_SHOWS_S + WATCHDOG_S + SLOW_S)
    unit.wait_for_journal("Failed with result 'watchdog'", SLOW_S)
    unit.wait_for_another(pid, RESTART_S + SLOW_S)
    assert unit.journal("signal SIGABRT")
    assert unit.journal("code=dumped, status=6/ABRT") or unit.journal("code=killed, status=6/ABRT")
    assert unit.journal("Fatal Python error: Aborted"), "the log says where each thread was"
    assert unit.show("NRestarts") == "1"
    unit.wait_until_ok()


def test_a_process_that_stands_still_is_started_again(unit: Unit) -> None:
    pid = unit.pid()
    unit.kill("STOP", pid)
    ended_by_watchdog(unit, pid)


def test_a_hung_loop_leads_to_a_restart(unit: Unit) -> None:
    unit.write(f"{HOME}/hang/sitecustomize.py", HANG)
    unit.write(f"{DROP_IN}/hang.conf", f"[Service]\nEnvironment=PYTHONPATH={HOME}/hang\n")
    unit.systemctl("daemon-reload")
    unit.systemctl("restart", UNIT)
    unit.wait_until_ok()
    pid = unit.pid()
    unit.write(f"{HOME}/hang/pid", str(pid))
    said = unit.wait_for_journal("event=problem what=loops", HANG_SHOWS_S + SLOW_S)
    assert "refresh-5m" in said[0]["MESSAGE"]
    assert unit.pid() == pid
    assert "hanging" in unit.run("curl", "-sS", "http://127.0.0.1:8895/health"), "it lives"
    ended_by_watchdog(unit, pid)


def test_stopped_it_leaves_nothing_behind(unit: Unit) -> None:
    assert unit.redis("exists", "market:leader") == "1"
    started = time.monotonic()
    unit.systemctl("stop", UNIT)
    took_s = time.monotonic() - started
    assert took_s < STOP_S
    assert unit.show("ActiveState") == "inactive"
    assert unit.show("Result") == "success"
    assert (unit.show("ExecMainCode"), unit.show("ExecMainStatus")) == ("1", "0")  # exited, 0
    assert unit.redis("exists", "market:leader") == "0"
    unit.run("python3", "-c", "import socket; socket.create_server(('127.0.0.1', 8895))")
    assert unit.journal("event=stopped")


def test_a_line_has_the_priority_of_its_level(unit: Unit) -> None:
    unit.fault(kind="status", status=500, path="klines", symbol=SYMBOLS[0])
    failing = unit.wait_for_journal("event=fetch_failing", SLOW_S)
    unit.fault()
    mended = unit.wait_for_journal("event=fetch_mended", SLOW_S)
    refreshed = unit.journal("event=refresh")
    assert {entry["PRIORITY"] for entry in failing} == {"4"}
    assert {entry["PRIORITY"] for entry in mended + refreshed} == {"6"}
    own = unit.journal("event=")
    assert {entry["SYSLOG_IDENTIFIER"] for entry in own} == {"coinex-market-data"}
    assert all(entry["MESSAGE"].startswith("event=") for entry in own)


def test_a_bad_setting_is_said_once(unit: Unit) -> None:
    unit.write(SETTINGS, GOOD + "MAX_WORKERS=many\n")
    said = unit.make("install", code=2)
    assert "MAX_WORKERS='many'" in said, "who installs it sees why"
    over = time.monotonic() + RESTART_S + 3
    while time.monotonic() < over:
        assert unit.show("ActiveState") == "failed"
        time.sleep(0.2)
    assert unit.show("Result") == "exit-code"
    assert (unit.show("ExecMainStatus"), unit.show("NRestarts")) == ("2", "0")
    complaints = unit.journal("MAX_WORKERS")
    assert [entry["PRIORITY"] for entry in complaints] == ["3"]
    assert complaints[0]["MESSAGE"].startswith("market_data: MAX_WORKERS='many': must be")


def test_what_may_pass_is_tried_again(unit: Unit) -> None:
    unit.systemctl("stop", UNIT)
    unit.write(SETTINGS, GOOD + "HEALTH_PORT=6379\n")  # where Redis listens
    said = unit.make("install", code=2)
    assert "cannot listen" in said, "who installs it sees why"
    unit.wait_for_journal("Scheduled restart", RESTART_S + SLOW_S)
    unit.write(SETTINGS, GOOD)
    unit.wait_until_ok()


@pytest.mark.parametrize("settings", [GOOD, GOOD + "MAX_WORKERS=many\n"], ids=["active", "failed"])
def test_uninstalled(unit: Unit, settings: str) -> None:
    unit.write(SETTINGS, settings)
    unit.systemctl("restart", UNIT, code=None)
    unit.make("uninstall")
    assert unit.show("LoadState") == "not-found"
    assert unit.show("ActiveState") == "inactive"
    assert UNIT not in unit.systemctl("list-units", "--all", "--plain", "--no-legend")
    for path in (UNIT_FILE, WANTED):
        unit.run("test", "-L", path, "-o", "-e", path, code=1)
    assert unit.run("cat", SETTINGS) == settings.strip()
    assert unit.redis("exists", "market:leader") == "0"


def test_it_comes_back_with_the_users_manager(box: Box, unit: Unit) -> None:
    pid = unit.pid()
    box.root("systemctl", "restart", USER_MANAGER).check_returncode()
    unit.wait_for_another(pid, SLOW_S)
    unit.wait_until_ok()
