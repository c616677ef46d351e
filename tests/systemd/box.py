"""A throw-away Debian booted by systemd, with a user manager.

Its only network is its own loopback, so its ports cannot clash with any others.
"""

from __future__ import annotations

import ast
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.systemd import debian
from tests.systemd.debian import UID, USER, NoBox

ROOT = Path(__file__).parents[2]
HOME = f"/home/{USER}"
PROJECT = f"{HOME}/coinex-market-data"
WHEELS = f"{HOME}/wheels"
# Containers lack these. With them a user manager refuses, as on a real machine, a unit that drops
# one of them without PrivateUsers=.
CAPABILITIES = "CAP_SYS_MODULE,CAP_SYS_RAWIO,CAP_SYS_TIME,CAP_SYSLOG,CAP_WAKE_ALARM"
NETWORK = r"(?i)(https?|all|no)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE"
BOOT_S, STOP_S, RUN_S = 120, 60, 600


def pip_environ() -> dict[str, str]:
    """This machine's pip settings, proxies and certificates, as environment variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"^(\S+)=(.+)$", said, re.MULTILINE))
    environ = {k: v for k, v in os.environ.items() if re.fullmatch(NETWORK, k)}
    for section in ("global", "install", ":env:"):  # later ones take precedence
        for name, value in found.items():
            where, _, key = name.rpartition(".")
            if where == section:
                environ[f"PIP_{key.upper().replace('-', '_')}"] = ast.literal_eval(value)
    return environ


def local_paths(environ: dict[str, str]) -> set[Path]:
    """The local paths in `environ`; for a file:// index also its folder, which it may link to."""
    words = [word for value in environ.values() for word in value.split()]
    paths = {Path(word) for word in words if word.startswith("/")}
    links = {Path(word.removeprefix("file://")) for word in words if word.startswith("file:///")}
    paths |= links | {link.parent for link in links}
    return {path for path in paths if path.exists() and path != Path("/")}


Done = subprocess.CompletedProcess[str]


class Box:
    """A running box, and commands to run in it."""

    def __init__(self, root: Path, folder: Path) -> None:
        name = f"coinex-{os.getpid()}"
        layer, self._log = folder / "layer", folder / "log"
        layer.mkdir()
        self._init = 0
        self._pip = pip_environ()
        binds = [f"--bind-ro={path}" for path in sorted(local_paths(self._pip))]
        libc = ctypes.CDLL(None)
        with self._log.open("w") as output:
            self._boot = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    Path(__file__).with_name("boot"),
                    name,
                    root,
                    layer,
                    "--boot",
                    "--quiet",
                    "--register=no",
                    "--keep-unit",
                    "--link-journal=no",
                    "--private-network",
                    "--console=read-only",
                    "--resolv-conf=copy-host",
                    f"--capability={CAPABILITIES}",
                    *binds,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches only the tests, which end the box
                preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # PR_SET_PDEATHSIG: if killed
            )

    def wait(self) -> None:
        """Wait until it has booted and the user manager runs. Raises NoBox."""
        self._until(self._find_init)
        self._until(lambda: not self.root("systemctl", "is-active", f"user@{UID}").returncode)
        # nspawn covers it with a FIFO, which ProtectKernelLogs= cannot mount over.
        self.root("umount", "/proc/kmsg")

    def reboot(self) -> None:
        """Reboot it as its owner would, and wait until it is up again."""
        before = self._init
        self.root("systemctl", "reboot")  # whose end it may not live to see
        self._until(lambda: self._find_init() != before)
        self.wait()

    def _until(self, condition: Callable[[], object]) -> None:
        give_up_at = time.monotonic() + BOOT_S
        while not condition():
            if self._boot.poll() is not None or time.monotonic() > give_up_at:
                raise NoBox(f"the box did not boot:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _find_init(self) -> int:
        """The pid of the systemd that is process 1 in its namespace; 0 until there is one."""
        for process in psutil.Process(self._boot.pid).children(recursive=True):
            with suppress(OSError, psutil.Error):
                status = Path(f"/proc/{process.pid}/status").read_text()
                numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
                if process.name() == "systemd" and len(numbers) > 1 and numbers[-1] == "1":
                    self._init = process.pid
        return self._init

    def root(self, *command: str) -> Done:
        return self._enter(command, {}, "--net")

    def run(self, *command: str, **environ: str) -> Done:
        """Run a command as the user, in the home folder."""
        return self._enter(_as_user(command), environ, "--net")

    def fetch_wheels(self) -> None:
        """Fetch to WHEELS, with this machine's network and pip settings, what the project needs:
        inside there is no network."""
        pip = f"python3 -m venv {HOME}/pip && {HOME}/pip/bin/python -m pip"
        fetch = f"download --quiet --dest {WHEELS} --require-hashes"
        fetch += f" -r {PROJECT}/consumers/requirements.lock"
        done = self._enter(_as_user(["sh", "-c", f"{pip} {fetch}"]), self._pip)
        if done.returncode:
            raise NoBox(f"no packages:\n{done.stdout}")

    def _enter(
        self, command: Sequence[str], environ: dict[str, str], *options: str, given: bytes = b""
    ) -> Done:
        """Run `command`; the result has its exit code, and both output streams in `stdout`."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._init}",
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--cgroup",
                *options,
                "--",
                *command,
            ],
            env={"PATH": path, "LANG": "C.UTF-8", **environ},
            timeout=RUN_S,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Done(done.args, done.returncode, done.stdout.decode())

    def copy_project(self) -> None:
        """Copy this folder as it is now to PROJECT, without installed or built files."""
        built = [".git", ".venv", ".releases", "__pycache__", ".*_cache", ".hypothesis"]
        pack = ["tar", "-c", "-C", str(ROOT), *(f"--exclude={name}" for name in built), "."]
        tar = subprocess.run(pack, check=True, stdout=subprocess.PIPE).stdout
        self.run("mkdir", "-p", PROJECT).check_returncode()
        unpack = _as_user(["tar", "-x", "--no-same-owner", "-C", PROJECT])
        self._enter(unpack, {}, given=tar).check_returncode()

    def stop(self) -> None:
        """Shut the box down in order; if that takes too long, a second SIGTERM kills it."""
        for within_s in (STOP_S, STOP_S):
            if self._boot.poll() is None:
                self._boot.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._boot.wait(within_s)


def _as_user(command: Sequence[str]) -> list[str]:
    return [
        "setpriv",
        f"--reuid={UID}",
        f"--regid={UID}",
        "--init-groups",
        "--",
        "env",
        f"--chdir={HOME}",
        f"HOME={HOME}",
        f"USER={USER}",
        f"XDG_RUNTIME_DIR=/run/user/{UID}",
        *command,
    ]


@contextmanager
def booted() -> Iterator[Box]:
    """A box; all its processes and mounts are gone at the end. Raises NoBox."""
    debian.needs()
    root = debian.build()
    with tempfile.TemporaryDirectory(prefix="coinex-box-") as folder:
        box = Box(root, Path(folder))
        try:
            box.wait()
            yield box
        finally:
            box.stop()
