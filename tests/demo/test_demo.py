"""`python -m demo`: everything comes up, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis

from redis_log import connect
from tests.support import ENVIRON, PATIENCE, ROOT, until


@pytest.fixture(autouse=True)
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two demos that start in the same moment would choose the same ports."""
    with (tmp_path_factory.getbasetemp().parent / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def scored(page_url: str) -> int:
    """How many coins the scanner page has a score for."""
    try:
        with urllib.request.urlopen(f"{page_url}api/scanner", timeout=5) as answer:
            return sum(bool(row["scan"]) for row in json.load(answer)["symbols"])
    except OSError:  # it does not listen yet
        return 0


def is_ok(health_url: str) -> bool:
    try:
        with urllib.request.urlopen(health_url, timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ok")
    except OSError:  # a 503 while it fills Redis
        return False


def start(output: Path) -> subprocess.Popen[bytes]:
    """Start the demo as a process group of its own, as a shell does."""
    with output.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**ENVIRON, "TMPDIR": str(output.parent)},
        )


def end_with(demo: subprocess.Popen[bytes], signals: Iterable[int]) -> int:
    """Send `signals` to the whole process group, 0.1 s apart, and return the exit code."""
    for number in signals:
        with suppress(ProcessLookupError):
            os.killpg(demo.pid, number)
        with suppress(subprocess.TimeoutExpired):
            return demo.wait(0.1)
    return demo.wait(10 * PATIENCE)


ENDS = {
    "ctrl-c": [signal.SIGINT],
    "ctrl-c twice": [signal.SIGINT] * 2,
    "ctrl-c, then sigterm until it ends": [signal.SIGINT, *[signal.SIGTERM] * 400],
    "the terminal is closed": [signal.SIGHUP],
}


@pytest.mark.parametrize(
    ("after", "end"),
    [
        ("simulated", "ctrl-c twice"),
        ("open http", "ctrl-c"),
        ("open http", "ctrl-c, then sigterm until it ends"),
        ("event=refresh", "ctrl-c, then sigterm until it ends"),
        ("event=refresh", "the terminal is closed"),
    ],
)
def test_it_ends_cleanly_at_any_moment(tmp_path: Path, after: str, end: str) -> None:
    demo = start(output := tmp_path / "output")
    try:
        until(lambda: after in output.read_text(), 10)
        code = end_with(demo, ENDS[end])
        assert (code, output.read_text().count("[demo    ] all has ended")) == (0, 1)
        assert "Traceback" not in output.read_text()
        assert [path.name for path in tmp_path.iterdir()] == ["output"]
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()


def test_it_shows_the_whole_system_and_cleans_up(tmp_path: Path) -> None:
    demo = start(output := tmp_path / "output")
    try:
        until(lambda: "event=refresh" in output.read_text(), 30, what="the first refresh")
        text = output.read_text()
        [health_url] = re.findall(r"http://127\.0\.0\.1:\d+/health", text)[:1]
        [redis_url] = re.findall(r"REDIS_URL=(\S+)", text)[:1]
        [page_url] = re.findall(r"open (http://127\.0\.0\.1:\d+/) ", text)
        until(lambda: is_ok(health_url), 30, what="the first fill")
        assert len(connect(redis_url).keys("market:*")) == 147  # type: ignore[arg-type]
        until(lambda: scored(page_url) == 29, 20, what="a score for each coin")
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) == 5  # the service, its Redis, and three consumers
        demo.terminate()
        assert demo.wait(10 * PATIENCE) == 0
        assert "[demo    ] all has ended" in output.read_text()
        assert "Traceback" not in output.read_text()
        assert not any(child.is_running() for child in children)
        assert [path.name for path in tmp_path.iterdir()] == ["output"]
        with pytest.raises(redis.ConnectionError):
            connect(redis_url).ping()
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
