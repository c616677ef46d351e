"""`python -m demo`: everything comes up, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
import redis

from redis_log import connect
from tests.conftest import ROOT, until


def scored(page_url: str) -> int:
    """How many coins the scanner page has a score for."""
    try:
        with urllib.request.urlopen(f"{page_url}api/scanner", timeout=5) as answer:
            return sum(bool(row["scan"]) for row in json.load(answer)["symbols"])
    except OSError:  # it does not listen yet
        return 0


@pytest.mark.parametrize("to_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_demo_shows_the_whole_system_and_cleans_up(tmp_path: Path, to_group: bool) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        demo = subprocess.Popen(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        )
    try:
        until(lambda: output.read_text().count("event=refresh") >= 3, 30, what="the first fill")
        text = output.read_text()
        [health_url] = re.findall(r"http://127\.0\.0\.1:\d+/health", text)[:1]
        [redis_url] = re.findall(r"REDIS_URL=(\S+)", text)[:1]
        [page_url] = re.findall(r"open (http://127\.0\.0\.1:\d+/) ", text)
        with urllib.request.urlopen(health_url, timeout=5) as answer:
            assert json.load(answer)["status"] == "ok"
        assert len(connect(redis_url).keys("market:*")) == 117  # type: ignore[arg-type]
        until(lambda: scored(page_url) == 29, 20, what="a score for each coin")
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) == 5  # the service, its Redis, and three consumers
        if to_group:
            os.killpg(demo.pid, signal.SIGINT)
        else:
            demo.terminate()
        assert demo.wait(10) == 0
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
