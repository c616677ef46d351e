"""Installs the systemd user unit, for `make install` and `make uninstall`. Needs only Python."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent
UNITS = Path.home() / ".config/systemd/user"
SERVICE = "coinex-market-data.service"
REDUCED = "no-user-namespaces.conf"
# Exit codes of systemd itself, when it cannot set up the sandbox of a unit.
SANDBOX_FAILED = {"217": "USER", "218": "CAPABILITIES", "226": "NAMESPACE"}

INSTALLED = """\
Installed. See it with:
  systemctl --user status coinex-market-data
  journalctl --user -u coinex-market-data -f
  curl -s http://127.0.0.1:8895/health       (unless HEALTH_PORT is another)
Settings: ~/.config/coinex-market-data.env, then systemctl --user restart coinex-market-data"""


class Failed(Exception):
    """Why it cannot be done, for the user."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises Failed if there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is missing; systemd is needed") from None


def systemctl(*arguments: str) -> str:
    """The output of systemctl --user. Raises Failed."""
    done = run("systemctl", "--user", *arguments)
    if done.returncode:
        raise Failed(f"systemctl --user {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def show(unit: str, name: str) -> str:
    """A property of the unit."""
    return systemctl("show", "--value", f"--property={name}", unit)


def write_unit(unit: str) -> None:
    """The folder is written below the home folder as systemd names it, %h, so that the unit reads
    the same for everyone."""
    home = Path.home()
    folder = f"%h/{ROOT.relative_to(home)}" if ROOT.is_relative_to(home) else str(ROOT)
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / unit).write_text((ROOT / unit).read_text().replace("@DIR@", folder))


def start(unit: str) -> None:
    """Start it again, with all its hardening or, where user namespaces are forbidden, without what
    needs them. Returns when it has sent READY. Raises Failed."""
    remove_reduced(unit)
    systemctl("daemon-reload")
    with suppress(Failed):
        systemctl("restart", unit)
        return
    code = show(unit, "ExecMainStatus")
    if code not in SANDBOX_FAILED:
        raise Failed(f"{unit} does not start:\n{last_words(unit)}")
    print(f"This machine forbids user namespaces (status={code}/{SANDBOX_FAILED[code]}).")
    text = (ROOT / REDUCED).read_text()
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    print(f"Left out of the hardening: {' '.join(line.partition('=')[0] for line in lines)}")
    print("The rest is in effect; docs/operations.md: Without user namespaces")
    drop_ins = UNITS / f"{unit}.d"
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / REDUCED).write_text(text)
    systemctl("daemon-reload")
    try:
        systemctl("restart", unit)
    except Failed:
        raise Failed(f"{unit} does not start:\n{last_words(unit)}") from None


def remove_reduced(unit: str) -> None:
    drop_ins = UNITS / f"{unit}.d"
    (drop_ins / REDUCED).unlink(missing_ok=True)
    with suppress(OSError):  # absent, or with files of the user
        drop_ins.rmdir()


def last_words(unit: str) -> str:
    """What systemd and the journal say about it."""
    status = run("systemctl", "--user", "status", "--no-pager", "--lines=0", unit).stdout
    journal = run("journalctl", "--user", "--no-pager", "--lines=8", "--output=cat", "-u", unit)
    return status + journal.stdout.rstrip()


def install() -> None:
    write_unit(SERVICE)
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", SERVICE)
    print("Starting; up to a minute if Redis or the exchange does not answer", flush=True)
    start(SERVICE)
    print(show(SERVICE, "StatusText"))
    print(INSTALLED)
    if run("loginctl", "show-user", str(os.getuid()), "--property=Linger").stdout != "Linger=yes\n":
        print("It ends when you log out, unless you say: loginctl enable-linger")


def uninstall() -> None:
    run("systemctl", "--user", "disable", "--now", SERVICE)  # fails if there is none
    (UNITS / SERVICE).unlink(missing_ok=True)
    remove_reduced(SERVICE)
    systemctl("daemon-reload")
    run("systemctl", "--user", "reset-failed", SERVICE)
    print("Uninstalled.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Install or uninstall the systemd user unit.")
    parser.add_argument("command", choices=("install", "uninstall"))
    try:
        {"install": install, "uninstall": uninstall}[parser.parse_args().command]()
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
