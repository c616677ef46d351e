"""The Debian that boxes run on: built once by debootstrap, and kept in `cache()`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

SUITE = "bookworm"
PACKAGES = """systemd systemd-sysv dbus dbus-user-session libpam-systemd
    python3 python3-venv make curl redis-server"""
USER, UID = "user", 1000
BUILD_S = 900


class NoBox(Exception):
    """There can be no box; the message says why, and how to fix that."""


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "coinex-market-data-systemd"


def mirror() -> str:
    """SYSTEMD_TEST_MIRROR, or the mirror of this machine's own packages of the release."""
    if given := os.environ.get("SYSTEMD_TEST_MIRROR"):
        return given
    policy = ""
    if shutil.which("apt-cache"):
        policy = subprocess.run(["apt-cache", "policy"], capture_output=True, text=True).stdout
    for line in policy.splitlines():
        match line.split():
            case [_, url, archive, *_] if archive == f"{SUITE}/main":
                return url
    raise NoBox(f"no apt source of Debian {SUITE} here: set SYSTEMD_TEST_MIRROR to a mirror")


def needs() -> None:
    """Raises NoBox if a requirement is missing."""
    if os.geteuid() != 0:
        raise NoBox("root is needed, for namespaces and mounts: sudo make test-systemd")
    tools = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
    if missing := [package for tool, package in tools.items() if not shutil.which(tool)]:
        raise NoBox(f"missing: apt-get install {' '.join(missing)}")


def build() -> Path:
    """The root folder of the Debian, which is built if it is missing."""
    packages = PACKAGES.split()
    target = cache() / f"{SUITE}-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]}"
    if target.exists():
        return target
    url = mirror()
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"building {target} from {url}, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        new, log = Path(folder, "root"), Path(folder, "log")
        # unshare: debootstrap's mounts vanish with it, however it ends.
        with log.open("w") as output:
            done = subprocess.run(
                [
                    "unshare",
                    "--mount",
                    "debootstrap",
                    "--variant=minbase",
                    f"--include={','.join(packages)}",
                    SUITE,
                    new,
                    url,
                ],
                stdout=output,
                stderr=output,
                timeout=BUILD_S,
            )
        if done.returncode:
            raise NoBox(f"debootstrap failed:\n{log.read_text()[-2000:]}")
        _configure(new)
        with suppress(OSError):  # another run was faster
            new.rename(target)
    return target


def _configure(root: Path) -> None:
    def inside(*command: str) -> None:
        subprocess.run(["chroot", root, *command], check=True, env={"PATH": os.environ["PATH"]})

    inside("useradd", "--create-home", "--uid", str(UID), "--shell", "/bin/bash", USER)
    for name, text in {"hostname": "box\n", "hosts": "127.0.0.1 localhost box\n"}.items():
        Path(root, "etc", name).write_text(text)
        Path(root, "etc", name).chmod(0o644)
    # Only a journal on disk has a file per user, which `journalctl --user` reads.
    Path(root, "var/log/journal").mkdir(exist_ok=True)
    linger = Path(root, "var/lib/systemd/linger")
    linger.mkdir(parents=True, exist_ok=True)
    (linger / USER).touch()
