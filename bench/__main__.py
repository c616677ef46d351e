"""`python -m bench`: all measurements, docs/benchmarks.md, and the bars; see bench/__init__.py.

`--quick` checks only counts (requests, bytes, round trips) in less than a minute; its exit code is
1 if one is much worse than before. Ctrl-C ends everything that was started.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from bench import local_api, phases, report
from bench.measure import ROOT, Stage
from bench.phases import say
from bench.programs import BEFORE, CONTENDERS, QUICK, SERVICE
from bench.tls import TRANSPORTS, issue
from embedded_redis import executable

RESULTS = ROOT / "docs" / "benchmarks.json"
GROWTH = (100, 350)
COMBINED_S = 600  # how often all three timeframes refresh at the same moment
EARLIEST_S, LATEST_S = 60, 240  # of that moment, after the start of the steady-state programs
PREPARE_S = 20  # until their exchanges are ready
WINDOW_S = 300.0  # of steady state; every timeframe refreshes in it
STEP_S = 45  # the longest step of `one_at_a_time`
# About half above the measured values, to catch gross regressions. Only counts, never times.
QUICK_LIMITS = {
    "requests an hour, of before": 0.7,
    "bytes an hour, of before": 0.03,
    "Redis round trips a refresh": 3.0,
    "Redis commands a refresh": 160.0,
}


def machine() -> str:
    """One sentence on the machine and the versions of the software."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("requests", "redis", "aiohttp", "ccxt", "python-binance")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores of {model[1] if model else 'a CPU'}, "
        f"{memory:.0f} GB, {platform.system()} {platform.release().partition('-')[0]}, Python "
        f"{platform.python_version()}, {redis_version()}, {libraries}."
    )


def redis_version() -> str:
    """The name and version of the server: "Valkey server v=9.1.2 ..." gives "Valkey 9.1.2"."""
    said = subprocess.run([executable(), "--version"], capture_output=True, text=True, check=True)
    found = re.match(r"(\w+) server v=(\S+)", said.stdout)
    return f"{found[1]} {found[2]}" if found else said.stdout.strip()


def steady_start(now_s: float) -> int:
    """The next half minute, in epoch seconds, at which the steady-state programs can be started so
    that all timeframes refresh at the same moment in their window."""
    at = math.ceil((now_s + PREPARE_S) / 30) * 30
    while not EARLIEST_S <= -at % COMBINED_S <= LATEST_S:
        at += 30
    return at


def one_at_a_time(stages: dict[str, Stage], runs: int, results: report.Results) -> Iterator[None]:
    """Measure cold fills, refreshes and the rest into `results`, one step per iteration."""
    yield from fills_and_refreshes(stages, runs, results)
    say("the local API")
    results["local_api"] = local_api.measure(stages[SERVICE.key])
    yield
    say("queries of a full message log")
    results["log_ms"], results["rare_log_ms"] = phases.log_queries_ms(stages[SERVICE.key])


def fills_and_refreshes(
    stages: dict[str, Stage], runs: int, results: report.Results
) -> Iterator[None]:
    """Measure these, with TLS and without, into `results["alone"]`, one step per iteration. The
    first run is discarded: it warms files and caches."""
    alone: dict[str, dict[str, Any]] = {
        transport: {contender.key: {"fill_s": [], "peak_mb": []} for contender in CONTENDERS}
        for transport in TRANSPORTS
    }
    results["alone"] = alone
    for run in range(runs + 1):
        say(f"cold fills, run {run} of {runs}" + " (thrown away)" * (run == 0))
        for contender in CONTENDERS:
            for transport in TRANSPORTS:  # in turn: the speed of a machine changes with the hour
                fill = phases.cold_fill(contender, stages[contender.key], transport)
                if run:
                    alone[transport][contender.key]["fill_s"].append(fill.seconds)
                    alone[transport][contender.key]["peak_mb"].append(fill.peak_mb)
            yield
    for contender, transport in product(CONTENDERS, TRANSPORTS):
        say(f"refreshes of {contender.title}, {transport}")
        found = phases.refreshes(contender, stages[contender.key], runs + 1, transport)
        alone[transport][contender.key] |= {
            "refresh_s": found.seconds[1:],
            "refresh_cpu_s": found.cpu_s,
        }
        yield


def whole(stack: ExitStack, folder: Path, runs: int) -> report.Results:
    """Measure everything; steps that fit in before the window of steady state run first."""
    say("preparing the exchanges")
    results: report.Results = {"machine": machine()}
    certificate = issue(folder)
    stages = {c.key: Stage(stack, folder, c.key, certificate=certificate) for c in CONTENDERS}
    for stage in stages.values():
        stage.wait()
    steps = one_at_a_time(stages, runs, results)
    while steady_start(time.time() + STEP_S) == steady_start(time.time()):
        if next(steps, "done"):
            break
    start_at = steady_start(time.time())
    say(f"steady state in {start_at - time.time():.0f} s, so that all timeframes refresh in it")
    with ExitStack() as window:
        together = phases.Together(window, folder, CONTENDERS, stages, GROWTH)
        results |= together.measure(start_at, WINDOW_S)
    for _ in steps:
        pass
    return results


def quick(stack: ExitStack, folder: Path) -> int:
    """Check counts of the service, of one contender and of "before"; 1 if one is much worse."""
    stages = {c.key: Stage(stack, folder, c.key) for c in QUICK}
    for stage in stages.values():
        stage.wait()
    steady = phases.quickly(stack, stages)
    ours, before = steady[SERVICE.key], steady[BEFORE.key]
    found = {
        "requests an hour, of before": ours["requests_h"] / before["requests_h"],
        "bytes an hour, of before": ours["bytes_h"] / before["bytes_h"],
        "Redis round trips a refresh": ours["turns"],
        "Redis commands a refresh": ours["commands"],
    }
    for key, figures in steady.items():
        print(
            f"{report.TITLES[key]:<26}{figures['requests_h']:>8,.0f} requests/h"
            f"{figures['bytes_h'] / 1e6:>8,.1f} MB/h{figures['turns']:>6.1f} round trips and"
            f"{figures['commands']:>6.1f} commands a refresh"
        )
    worse = [what for what, value in found.items() if not value <= QUICK_LIMITS[what]]
    for what, value in found.items():
        verdict = "GROSSLY WORSE" if what in worse else "ok"
        print(f"{verdict:<15}{what}: {value:.3g}, at most {QUICK_LIMITS[what]:g}")
    return int(bool(worse))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true", help="counts alone, and a verdict")
    parser.add_argument("--again", action="store_true", help="only write the page again")
    parser.add_argument("--runs", type=int, default=5, help="of each measurement of a time (5)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    if not args.again:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinex-bench-")))
            if args.quick:
                return quick(stack, folder)
            results = whole(stack, folder, args.runs)
        text = re.sub(r"(\.[0-9]{4})[0-9]+", r"\1", json.dumps(results))  # to a tenth of a ms
        RESULTS.write_text(text + "\n")
    results = json.loads(RESULTS.read_text())
    report.write(results)
    for bar in report.bars(results):
        _, wanted, measured, _ = bar.cells()
        print(f"{'met' if bar.met else 'NOT met':<9}{bar.what}: {measured}, wanted {wanted}")
    say(f"docs/benchmarks.md is written, after {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
