"""All units together: install-all, status, reboot, death, hangs, stop, uninstall."""

from __future__ import annotations

import time

from tests.support import until
from tests.systemd.box import HOME, Box
from tests.systemd.conftest import CONSUMERS, UNIT, Unit

UNITS = f"{HOME}/.config/systemd/user"
TA_SERVICE = "coinex-consumer@ta_service.service"
RESTART_S, WATCHDOG_S, STOP_S = 5, 30, 5  # as the unit and the consumers promise
SLOW_S = 20  # extra time for a busy machine

# Imported before everything else: once the file is there, the process whose pid it has reads no
# message to its end.
HANG = f"""\
import json, os, pathlib, threading

loads = json.loads


def hang(*arguments, **options):
    named = pathlib.Path("{HOME}/hang-consumer/pid")
    if named.exists() and named.read_text().strip() == str(os.getpid()):
        threading.Event().wait()
    return loads(*arguments, **options)


json.loads = hang
"""


def test_all_four_are_installed_hardened_and_shown(everything: Unit) -> None:
    for consumer in CONSUMERS:
        assert everything.show("UnitFileState", consumer) == "enabled"
        assert everything.show("NRestarts", consumer) == "0"
        status = everything.run("cat", f"/proc/{everything.pid(consumer)}/status")
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
        mounts = everything.run("cat", f"/proc/{everything.pid(consumer)}/mountinfo").split("\n")
        options = {mount.split()[4]: mount.split()[5].split(",") for mount in mounts}
        assert "ro" in options["/"] and "rw" in options["/tmp"]
    status_lines = everything.make("status").splitlines()
    assert [line.split()[:3] for line in status_lines[:4]] == [
        ["coinex-market-data", "active", "ok:"],
        ["coinex-consumer@dashboard", "active", "ok"],
        ["coinex-consumer@paper_trader", "active", "ok"],
        ["coinex-consumer@ta_service", "active", "ok"],
    ]
    assert status_lines[0].endswith("5m=3 1h=3 at http://127.0.0.1:8895")
    assert status_lines[1].endswith("at http://127.0.0.1:8896")
    assert status_lines[4].startswith("release") and len(status_lines) == 5
    assert "<title>" in everything.run("curl", "-sS", "http://127.0.0.1:8896/")
    for unit in [UNIT, "coinex.target", *CONSUMERS]:
        assert everything.systemctl("cat", unit)
        verified = everything.run("systemd-analyze", "--user", "verify", unit)
        assert verified == "", "systemd has nothing to say about it"


def test_a_reboot_brings_all_four_back(box: Box, everything: Unit) -> None:
    everything.redis("set", "before", "the reboot")
    box.reboot()
    until(lambda: everything.run("redis-cli", "ping", code=None) == "PONG", SLOW_S, 0.2)
    everything.wait_until_all_ok()
    assert everything.redis("get", "before") == "the reboot"
    assert everything.make("status").count(" active ") == 4


def test_killed_each_is_started_again(everything: Unit) -> None:
    pids = {consumer: everything.pid(consumer) for consumer in CONSUMERS}
    for pid in pids.values():
        everything.kill("KILL", pid)
    for consumer, pid in pids.items():
        everything.wait_for_another(pid, RESTART_S + SLOW_S, consumer)
        assert everything.show("NRestarts", consumer) == "1"
    everything.wait_until_all_ok()


def test_each_that_stands_still_is_started_again(everything: Unit) -> None:
    pids = {consumer: everything.pid(consumer) for consumer in CONSUMERS}
    for pid in pids.values():
        everything.kill("STOP", pid)
    for consumer, pid in pids.items():
        everything.wait_for_journal("Watchdog timeout", WATCHDOG_S + SLOW_S, consumer)
        everything.wait_for_another(pid, RESTART_S + SLOW_S, consumer)
    everything.wait_until_all_ok()


def test_a_hung_loop_leads_to_a_restart(everything: Unit) -> None:
    everything.write(f"{HOME}/hang-consumer/sitecustomize.py", HANG)
    drop_in = f"{UNITS}/{TA_SERVICE}.d"
    path = f"[Service]\nEnvironment=PYTHONPATH={HOME}/hang-consumer\n"
    everything.write(f"{drop_in}/hang.conf", path)
    everything.systemctl("daemon-reload")
    everything.systemctl("restart", TA_SERVICE)
    everything.wait_until_all_ok()
    pid = everything.pid(TA_SERVICE)
    everything.write(f"{HOME}/hang-consumer/pid", str(pid))
    everything.wait_for_journal("Watchdog timeout", WATCHDOG_S + 2 * SLOW_S, TA_SERVICE)
    assert everything.wait_for_journal("Fatal Python error: Aborted", SLOW_S, TA_SERVICE)
    everything.wait_for_another(pid, RESTART_S + SLOW_S, TA_SERVICE)
    everything.wait_until_all_ok()
    everything.run("rm", "-r", drop_in)


def test_stopped_each_ends_in_time_with_redis_and_without(box: Box, everything: Unit) -> None:
    everything.systemctl("stop", CONSUMERS[0])
    assert everything.show("Result", CONSUMERS[0]) == "success"
    assert "inactive    success, exit code 0" in everything.make("status")
    everything.systemctl("start", "coinex.target")
    everything.wait_until_all_ok()
    box.root("systemctl", "kill", "--signal=STOP", "redis-server").check_returncode()
    for consumer in CONSUMERS:
        until(
            lambda: everything.show("StatusText", consumer).startswith("waiting for Redis"),  # noqa: B023
            SLOW_S,
            0.2,
        )
    started = time.monotonic()
    everything.systemctl("stop", *CONSUMERS)
    took_s = time.monotonic() - started
    box.root("systemctl", "kill", "--signal=CONT", "redis-server").check_returncode()
    assert took_s < STOP_S
    assert {everything.show("Result", consumer) for consumer in CONSUMERS} == {"success"}


def test_uninstall_takes_all_away_and_leaves_settings_packages_and_redis(everything: Unit) -> None:
    everything.redis("set", "paper:positions:old", "kept")
    settings = everything.run("cat", f"{HOME}/.config/coinex-market-data.env")
    everything.make("uninstall")
    assert everything.systemctl("list-units", "--all", "--plain", "--no-legend", "coinex*") == ""
    assert everything.run("find", UNITS, "-name", "coinex*") == ""
    assert everything.run("cat", f"{HOME}/.config/coinex-market-data.env") == settings
    everything.run("test", "-x", f"{HOME}/coinex-market-data/.venv/bin/python")
    assert everything.redis("get", "paper:positions:old") == "kept"
    assert everything.make("status") == "Nothing is installed: make install"
