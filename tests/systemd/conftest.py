"""Fixtures for the tests of the unit: a box in which each test gets a fresh installation."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import until
from tests.systemd import box as boxes
from tests.systemd.box import HOME, PROJECT, WHEELS, Box
from tests.systemd.debian import UID, USER, NoBox

USER_MANAGER = f"user@{UID}.service"
UNIT = "coinex-market-data.service"
SETTINGS = f"{HOME}/.config/coinex-market-data.env"
CONSUMERS = [f"coinex-consumer@{n}.service" for n in ("dashboard", "ta_service", "paper_trader")]
DROP_IN = f"{HOME}/.config/systemd/user/{UNIT}.d"
SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
SERIES = {f"market:ohlcv:{symbol}:{name}" for symbol in SYMBOLS for name in ("5m", "1h")}
# Short intervals, so that a hang shows soon. All other settings have their defaults.
GOOD = f"""\
BINANCE_BASE_URL=http://127.0.0.1:18080
SYMBOLS={",".join(SYMBOLS)}
TIMEFRAMES=5m:5:20,1h:10:40
"""
# The simulated exchange, also after a reboot.
EXCHANGE = f"""\
[Service]
User={USER}
WorkingDirectory={PROJECT}
ExecStart=python3 -B -m demo.exchange --latency-ms=5
[Install]
WantedBy=multi-user.target
"""
FILLED_S = 60  # from a start to the end of the first fill, including the wait for an old lease


class Unit:
    """The installed service, observed and controlled as its user would."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self._cursor = ""
        self.forget()

    def forget(self) -> None:
        """Let `journal` begin here."""
        said = self._journalctl(UNIT, "--lines=1", "-o", "json")
        self._cursor = json.loads(said)["__CURSOR"] if said else ""

    def run(self, *command: str, code: int | None = 0, **environ: str) -> str:
        """Run a command as the user and return its output; the test fails if the exit code is not
        `code`, unless that is None."""
        done = self.box.run(*command, **environ)
        if code not in (done.returncode, None):
            pytest.fail(f"{done.args}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout.strip()

    def systemctl(self, *arguments: str, code: int | None = 0) -> str:
        return self.run("systemctl", "--user", *arguments, code=code)

    def make(self, target: str, code: int = 0) -> str:
        make = ["make", "--no-print-directory", "-C", PROJECT, target]
        return self.run(*make, code=code, PIP_NO_INDEX="1", PIP_FIND_LINKS=WHEELS)

    def write(self, path: str, text: str) -> None:
        self.run("mkdir", "-p", os.path.dirname(path))  # noqa: PTH120 - a path in the box
        self.run("sh", "-c", 'printf %s "$TEXT" > "$0"', path, TEXT=textwrap.dedent(text))

    def show(self, name: str, unit: str = UNIT) -> str:
        """A property of the unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def kill(self, name: str, pid: int) -> None:
        self.run("sh", "-c", f"kill -{name} {pid}")

    def pid(self, unit: str = UNIT) -> int:
        return int(self.show("MainPID", unit))

    def is_ok(self) -> bool:
        """Whether it is active and leads, with every series fresh."""
        fresh = f"5m={len(SYMBOLS)} 1h={len(SYMBOLS)} at http://127.0.0.1:8895"
        status = f"ok: of {len(SYMBOLS)} symbols fresh {fresh}"
        return self.show("ActiveState") == "active" and self.show("StatusText") == status

    def wait_until_ok(self) -> None:
        until(self.is_ok, FILLED_S, 0.2, what=f"{UNIT} is ok")

    def wait_for_another(self, pid: int, within_s: float, unit: str = UNIT) -> None:
        what = f"another than {pid} of {unit}"
        until(lambda: self.pid(unit) not in (0, pid), within_s, 0.2, what)

    def wait_until_all_ok(self) -> None:
        """The service and the consumers."""
        self.wait_until_ok()
        for consumer in CONSUMERS:
            until(lambda: self.is_at_work(consumer), FILLED_S, 0.2, what=f"{consumer} is ok")  # noqa: B023

    def is_at_work(self, consumer: str) -> bool:
        status = self.show("StatusText", consumer)
        at = " at http://127.0.0.1:8896" if "dashboard" in consumer else ""
        return self.show("SubState", consumer) == "running" and status == f"ok{at}"

    def redis(self, *command: str) -> str:
        return self.run("redis-cli", *command)

    def series(self) -> set[str]:
        return set(self.redis("--scan", "--pattern", "market:ohlcv:*").splitlines())

    def fault(self, **fault: object) -> None:
        """Begin a fault of the exchange; without arguments, end all faults."""
        post = ["-X", "POST", "-d", json.dumps(fault)] if fault else ["-X", "DELETE"]
        self.run("curl", "-sS", "--fail", *post, "http://127.0.0.1:18080/sim/fault")

    def _journalctl(self, unit: str, *options: str) -> str:
        after = [f"--after-cursor={self._cursor}"] if self._cursor else []
        return self.run("journalctl", "--user", "-u", unit, "--quiet", *after, *options)

    def journal(self, containing: str = "", unit: str = UNIT) -> list[dict[str, Any]]:
        """The entries of the unit, and those of systemd about it, since `forget`."""
        entries = [json.loads(line) for line in self._journalctl(unit, "-o", "json").splitlines()]
        return [entry for entry in entries if containing in entry["MESSAGE"]]

    def wait_for_journal(
        self, containing: str, within_s: float, unit: str = UNIT
    ) -> list[dict[str, Any]]:
        what = f"{containing} in the journal of {unit}"
        found: list[dict[str, Any]] = until(
            lambda: self.journal(containing, unit), within_s, 0.5, what
        )
        return found


@pytest.fixture
def no_user_namespaces(box: Box) -> Iterator[Callable[[], None]]:
    """The user manager may create no user namespace, as on Ubuntu with
    kernel.apparmor_restrict_unprivileged_userns=1, until the test calls this or ends."""
    folder = f"/run/systemd/system/{USER_MANAGER}.d"

    def restart(script: str) -> None:
        both = f"{script} && systemctl daemon-reload && systemctl restart {USER_MANAGER}"
        box.root("sh", "-c", both).check_returncode()

    def allow() -> None:
        restart(f"rm -rf {folder}")

    forbid = r"[Service]\nRestrictNamespaces=~user\n"
    restart(f"mkdir -p {folder} && printf '{forbid}' > {folder}/no-user-namespaces.conf")
    yield allow
    allow()


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    """A box with the project, a Redis and the simulated exchange, which outlive the user
    manager."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the box like a Ctrl-C
    try:
        with boxes.booted() as running:
            running.copy_project()
            running.fetch_wheels()
            unit = f"printf '%s' '{EXCHANGE}' > /etc/systemd/system/exchange.service"
            start = "systemctl enable --now exchange"
            running.root("sh", "-c", f"{unit} && {start}").check_returncode()
            yield running
    except NoBox as error:
        pytest.exit(f"make test-systemd: {error}", returncode=1)


@pytest.fixture
def unit(box: Box) -> Iterator[Unit]:
    """The unit after `make install`; prints its journal, which pytest shows for a failed test."""
    unit = Unit(box)
    unit.run("rm", "-rf", DROP_IN)
    unit.write(SETTINGS, GOOD)
    until(lambda: box.run("curl", "-s", "http://127.0.0.1:18080/").returncode == 0, 20, 0.2)
    unit.fault()
    unit.make("install")
    unit.wait_until_ok()
    unit.forget()
    yield unit
    print("\n".join(entry["MESSAGE"] for entry in unit.journal()))


@pytest.fixture
def everything(unit: Unit) -> Iterator[Unit]:
    """All four programs after `make install-all`; prints the journal of the consumers, too."""
    unit.make("install-all")
    unit.wait_until_all_ok()
    unit.forget()
    yield unit
    for consumer in CONSUMERS:
        print("\n".join(entry["MESSAGE"] for entry in unit.journal(unit=consumer)))
    unit.make("uninstall")
