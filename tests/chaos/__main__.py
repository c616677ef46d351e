"""python -m tests.chaos: a storm of faults on the real service, and a verdict on each promise."""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import journal
from tests.chaos.checker import Listener
from tests.chaos.environment import Environment
from tests.chaos.fleet import NEIGHBOUR_SYMBOLS, SYMBOLS
from tests.chaos.judges import Verdicts
from tests.chaos.storm import Storm
from tests.support import Line, RedisServer


def run(seconds: float, seed: int, folder: Path) -> int:
    print(f"a storm of {seconds:.0f} s from seed {seed}", flush=True)
    verdicts = Verdicts()
    with ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.kill)
        line = Line(server.port)
        stack.callback(line.close)
        environments = []
        for db, symbols in enumerate((SYMBOLS, NEIGHBOUR_SYMBOLS)):
            environments.append(Environment(db, symbols, server, line, folder, verdicts))
            stack.callback(environments[-1].end)
        listener = Listener(server.url, {each.db: each.judge for each in environments})
        storm = Storm(seed, seconds, server, line, *environments)
        watchers: list[Environment | Listener] = [*environments, listener]
        for watcher in watchers:
            watcher.start()
            stack.callback(watcher.stop)
        storm.run()
        for watcher in watchers:
            watcher.stop()
        for each in environments:
            each.judge_run()
    totals = environments[0].exchange.totals
    print("\ndone: " + ", ".join(f"{what} {n}" for what, n in sorted(storm.done.items())))
    print(
        f"requests {sum(totals['paths'].values())}, statuses "
        f"{dict(totals['statuses'])}, weight {totals['weight']}\n"
    )
    print(f"{'promise':<42}{'checks':>8}{'violations':>12}")
    for verdict in verdicts.all():
        unseen = "" if verdict.checks else "  never looked at"
        print(f"{verdict.promise:<42}{verdict.checks:>8}{verdict.broken:>12}{unseen}")
        for text in verdict.shown:
            print(f"    {text}")
    errors = [error for each in watchers if (error := each.error)]
    for error in errors:
        print(f"the checker itself failed: {error!r}")
    fine = not errors and all(verdict.fine for verdict in verdicts.all())
    print(f"\n{'every promise was kept' if fine else 'NOT every promise was kept'}: seed {seed}")
    return 0 if fine else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long, about (600)")
    parser.add_argument("--seed", type=int, help="of what goes wrong (any)")
    parser.add_argument("--logs", type=Path, help="a folder to leave the services' logs in")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    journal.write_to(None, logging.CRITICAL)  # the readers say each failure of Redis
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="coinex-chaos-") as folder:
            if arguments.logs:
                arguments.logs.mkdir(parents=True, exist_ok=True)
            return run(arguments.seconds, seed, arguments.logs or Path(folder))
    except KeyboardInterrupt:
        print("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
