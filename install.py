"""Installs, upgrades and shows the systemd user units. Run by `make install`, `make upgrade`, ...

The units run from a release: a copy of the code with an environment of its own, in .releases/. So
`git pull` changes nothing that runs, and an upgrade that does not work is taken back whole: code,
packages and units. Needs only Python and systemd.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent
RELEASES = ROOT / ".releases"
SETTINGS = Path.home() / ".config/coinex-market-data.env"
UNITS = Path.home() / ".config/systemd/user"
SERVICE, TEMPLATE, TARGET = (
    "coinex-market-data.service",
    "coinex-consumer@.service",
    "coinex.target",
)
CONSUMERS = [TEMPLATE.replace("@", f"@{n}") for n in ("dashboard", "ta_service", "paper_trader")]
# The files of a release.
CODE = ("*.py", "*.service", "*.target", "*.conf", "requirements.lock", "consumers/**/*")
RAN = "ran"  # an empty file in a release that has worked

REDUCED = "no-user-namespaces.conf"
# Exit codes of systemd itself, when it cannot set up the sandbox of a unit.
SANDBOX_FAILED = {"217": "USER", "218": "CAPABILITIES", "226": "NAMESPACE"}
START_WITHIN_S = 120.0  # more than TimeoutStartSec and TimeoutStopSec of the units
HEALTHY_WITHIN_S = 60.0  # after an upgrade
A_BUG = "has a bug"  # in the STATUS of a consumer that goes on all the same
HEALTHY = ("ok", "degraded", "standby")


class Failed(Exception):
    """Why it cannot be done, for the user."""


def run(*command: str, within_s: float = START_WITHIN_S) -> subprocess.CompletedProcess[str]:
    """Raises Failed if there is no such command, or if it does not end within that time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=within_s)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is missing; systemd is needed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: not done within {within_s:.0f} s") from None


def run_aloud(*command: str | Path) -> None:
    """Run a command whose output the user sees. Raises Failed."""
    if code := subprocess.run(command).returncode:
        raise Failed(f"{' '.join(map(str, command))}: exit code {code}")


def systemctl(*arguments: str, within_s: float = START_WITHIN_S) -> str:
    """The output of systemctl --user. Raises Failed."""
    done = run("systemctl", "--user", *arguments, within_s=within_s)
    if done.returncode:
        raise Failed(f"systemctl --user {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def show(unit: str) -> dict[str, str]:
    """The properties of a unit."""
    lines = systemctl("show", unit).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


# --- releases ---


def make_release(consumers: bool) -> Path:
    """The release of the code that is in this folder now, with its environment. The same code is
    the same release. Raises Failed."""
    files = sorted({path for pattern in CODE for path in ROOT.glob(pattern) if path.is_file()})
    files = [path for path in files if "__pycache__" not in path.parts]
    digest = hashlib.sha256(str(sys.version_info[:2]).encode())
    for path in files:
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    revision = ""
    with suppress(Failed):  # without git
        revision = run("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD").stdout.strip()
    release = RELEASES / "-".join(filter(None, [revision, digest.hexdigest()[:8]]))
    if not release.exists():
        unfinished = RELEASES / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for path in files:
            copy = unfinished / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        unfinished.rename(release)
    build_environment(release, consumers)
    return release


def build_environment(release: Path, consumers: bool) -> None:
    """Install what the release needs, unless that was done. Raises Failed."""
    environment = release / ".venv"
    python = environment / "bin/python"
    needs = ["requirements.lock"] + ["consumers/requirements.lock"] * consumers
    for lock in needs:
        done = environment / f"has-{lock.replace('/', '-')}"
        if done.exists():
            continue
        print(f"Installing {lock} into {environment.relative_to(ROOT)}", flush=True)
        if lock == "requirements.lock":
            run_aloud(sys.executable, "-m", "venv", "--clear", "--without-pip", environment)
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        run_aloud(*pip, "--python", python, "install", "--require-hashes", "-r", release / lock)
        done.touch()
    # Units cannot write below the home folder. Here a syntax error shows, too.
    run_aloud(python, "-m", "compileall", "-q", "-x", r"\.venv", release)


def running_release() -> Path | None:
    """The release that the installed units are of."""
    with suppress(FileNotFoundError):
        text = (UNITS / SERVICE).read_text()
        if found := re.search(rf"^WorkingDirectory=.*/{RELEASES.name}/(.+)$", text, re.MULTILINE):
            release = RELEASES / found[1]
            return release if release.exists() else None
    return None


def release_before(release: Path) -> Path | None:
    """The other release that has worked last."""
    ran = [mark for mark in RELEASES.glob(f"*/{RAN}") if mark.parent != release]
    return max(ran, key=lambda mark: mark.stat().st_mtime).parent if ran else None


def remove_old_releases(release: Path) -> None:
    """Keep `release` and the one before it."""
    kept = (release, release_before(release))
    for other in RELEASES.iterdir():
        if other not in kept:
            shutil.rmtree(other)


# --- units ---


def installed_consumers() -> list[str]:
    """Those that start with the target, also others than CONSUMERS."""
    links = (UNITS / f"{TARGET}.wants").glob(TEMPLATE.replace("@", "@*"))
    return sorted(link.name for link in links)


def write_units(release: Path, names: Iterable[str]) -> None:
    """Folders are written below the home folder as systemd names it, %h, so that units read the
    same for everyone."""
    home = Path.home()
    UNITS.mkdir(parents=True, exist_ok=True)
    for name in names:
        text = (release / name).read_text()
        for word, folder in {"@RELEASE@": release, "@DIR@": ROOT}.items():
            below = folder.is_relative_to(home)
            text = text.replace(word, f"%h/{folder.relative_to(home)}" if below else str(folder))
        (UNITS / name).write_text(text)


def run_from(release: Path, consumers: list[str], careful: bool = False) -> None:
    """Let the service and the `consumers` run from `release`. Returns when all are ready; if
    `careful`, when the service is healthy as well. Raises Failed."""
    write_units(release, [SERVICE, *([TEMPLATE, TARGET] if consumers else [])])
    set_reduced("")
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", SERVICE, *([TARGET, *consumers] if consumers else []))
    give_up_at = time.monotonic() + (HEALTHY_WITHIN_S if careful else START_WITHIN_S)
    start(SERVICE, give_up_at, release)
    if careful:
        wait_until_healthy(give_up_at)
    for unit in consumers:
        start(unit, time.monotonic() + HEALTHY_WITHIN_S, release)
        if careful and A_BUG in (says := show(unit)["StatusText"]):
            raise Failed(f"{unit}: {says}")
    if consumers:
        systemctl("start", TARGET)
    (release / RAN).touch()


def start(unit: str, give_up_at: float, release: Path) -> None:
    """Start it again, with all its hardening or, where user namespaces are forbidden, without what
    needs them. Returns when it has sent READY. Raises Failed."""
    for attempt in (1, 2):
        try:
            systemctl("restart", unit, within_s=max(1.0, give_up_at - time.monotonic()))
            return
        except Failed as error:
            code = show(unit)["ExecMainStatus"]
            if attempt == 2 or code not in SANDBOX_FAILED:
                raise Failed(f"{error}\n{last_words(unit)}") from None
        text = (release / REDUCED).read_text()
        left_out = " ".join(re.findall(r"^(\w+)=", text, re.MULTILINE))
        print(f"This machine forbids user namespaces (status={code}/{SANDBOX_FAILED[code]}).")
        print(f"Left out of the hardening: {left_out}")
        print("The rest is in effect; docs/operations.md: Without user namespaces", flush=True)
        set_reduced(text)
        systemctl("daemon-reload")


def set_reduced(text: str) -> None:
    """Let this be the drop-in that leaves hardening out; "" for none."""
    for unit in (SERVICE, TEMPLATE):
        drop_ins = UNITS / f"{unit}.d"
        if text:
            drop_ins.mkdir(exist_ok=True)
            (drop_ins / REDUCED).write_text(text)
        else:
            (drop_ins / REDUCED).unlink(missing_ok=True)
            with suppress(OSError):  # absent, or with files of the user
                drop_ins.rmdir()


def last_words(unit: str) -> str:
    """What systemd and the journal say about it."""
    status = run("systemctl", "--user", "status", "--no-pager", "--lines=0", unit).stdout
    journal = run("journalctl", "--user", "--no-pager", "--lines=8", "--output=cat", "-u", unit)
    return status + journal.stdout.rstrip()


def wait_until_healthy(give_up_at: float) -> None:
    """Raises Failed unless /health of the service says so in time."""
    said = "nothing"
    # No proxy is for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while said not in HEALTHY:
        time.sleep(0.5)
        if time.monotonic() > give_up_at:
            raise Failed(f"/health says {said} after {HEALTHY_WITHIN_S:.0f} s")
        with suppress(OSError, ValueError, LookupError):  # also a 503
            [url] = re.findall(r" at (http://\S+)$", show(SERVICE)["StatusText"])
            with opener.open(f"{url}/health", timeout=5) as answer:
                said = str(json.load(answer)["status"])


# --- commands ---


def install(everything: bool = False) -> None:
    """The service, and with it the consumers if `everything`, or if they are installed already."""
    consumers = sorted({*installed_consumers(), *(CONSUMERS if everything else [])})
    release = make_release(bool(consumers))
    print("Starting; up to a minute if Redis or the exchange does not answer", flush=True)
    run_from(release, consumers)
    remove_old_releases(release)
    status()
    print(f"Settings: {SETTINGS}, then systemctl --user restart coinex-market-data")
    print("The journal: journalctl --user -u 'coinex-*' -f")
    if run("loginctl", "show-user", str(os.getuid()), "--property=Linger").stdout != "Linger=yes\n":
        print("It ends when you log out, unless you say: loginctl enable-linger")


def upgrade() -> None:
    """Go on from the code that is in this folder now, or go back to the release that runs."""
    if not (UNITS / SERVICE).exists():
        raise Failed("Nothing is installed: make install")
    before, consumers = running_release(), installed_consumers()
    release = make_release(bool(consumers))
    check = ("--user", "--pipe", "--wait", "--collect", "--quiet", "--service-type=exec")
    settings = (f"--property=EnvironmentFile=-{SETTINGS}", f"--working-directory={release}")
    python = release / ".venv/bin/python"
    try:
        run_aloud("systemd-run", *check, *settings, python, "market_data.py", "--check")
    except Failed:
        raise Failed("--check of the new code fails: nothing was changed.") from None
    print(f"Upgrading to {release.name}", flush=True)
    try:
        run_from(release, consumers, careful=True)
    except (Failed, OSError, KeyboardInterrupt) as error:
        print(error or "Interrupted", flush=True)
        go_back(before, consumers)
        raise Failed(f"{release.name} does not work.") from None
    remove_old_releases(release)
    status()


def go_back(release: Path | None, consumers: list[str]) -> None:
    """Raises Failed."""
    if not release:
        raise Failed("There is no earlier release to go back to.")
    build_environment(release, bool(consumers))
    print(f"Going back to {release.name}", flush=True)
    run_from(release, consumers)
    status()


def rollback() -> None:
    """Go back to the release before the one that runs."""
    running = running_release()
    if not running:
        raise Failed("No release is installed: make install")
    go_back(release_before(running), installed_consumers())


def status() -> None:
    """A line for each unit: its state, and what it says of its health and address."""
    if not (UNITS / SERVICE).exists():
        print("Nothing is installed: make install")
        return
    for unit in [SERVICE, *installed_consumers()]:
        state = show(unit)
        says = state["StatusText"]
        if state["SubState"] not in ("running", "start"):  # what it said before is out of date
            says = f"{state['Result']}, exit code {state['ExecMainStatus']}"
        print(f"{unit.removesuffix('.service'):<30}{state['ActiveState']:<12}{says}")
    if running := running_release():
        before = release_before(running)
        print(f"{'release':<30}{running.name}{f', before it {before.name}' if before else ''}")


def uninstall() -> None:
    units = [SERVICE, TARGET, TEMPLATE.replace("@", "@*")]
    run("systemctl", "--user", "stop", *units)  # fails for what is not there
    for name in filter(lambda name: (UNITS / name).exists(), (SERVICE, TARGET, TEMPLATE)):
        systemctl("disable", "--quiet", name)
        (UNITS / name).unlink()
    set_reduced("")
    systemctl("daemon-reload")
    run("systemctl", "--user", "reset-failed", *units)
    print("Uninstalled. Settings, .venv, .releases and Redis are as they were.")


def main() -> int:
    commands = {
        "install": install,
        "install-all": lambda: install(everything=True),
        "upgrade": upgrade,
        "rollback": rollback,
        "status": status,
        "uninstall": uninstall,
    }
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=commands)
    try:
        commands[parser.parse_args().command]()
    except (Failed, OSError) as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
