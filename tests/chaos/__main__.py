"""python -m tests.chaos: a storm of faults on the real service, and a verdict on each promise."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import redis_log
from demo.exchange import Exchange
from tests.chaos.checker import Checker, Listener
from tests.chaos.fleet import SETTINGS, SYMBOLS, Fleet
from tests.chaos.judges import Verdicts, judge_heirs, judge_holds, judge_weight
from tests.chaos.record import Record
from tests.chaos.storm import Storm
from tests.chaos.transactions import TransactionJudge
from tests.support import RedisServer


def run(seconds: float, seed: int, folder: Path) -> int:
    print(f"a storm of {seconds:.0f} s from seed {seed}", flush=True)
    record, verdicts = Record(), Verdicts()
    names = [timeframe.name for timeframe in SETTINGS.timeframes]
    with ExitStack() as stack:
        # With latency, requests of one service are in flight when a second one takes over.
        exchange = stack.enter_context(Exchange(SYMBOLS, latency_ms=10, jitter_ms=5))
        server = RedisServer()
        stack.callback(server.kill)
        fleet = Fleet(folder, server.url, exchange, record, verdicts)
        stack.callback(fleet.end)
        checker = Checker(
            server.url,
            exchange,
            record,
            verdicts,
            SYMBOLS,
            SETTINGS.timeframes,
            SETTINGS.candle_limit,
            fleet.pids,
        )
        log_key = redis_log.DEFAULT_KEY
        judge = TransactionJudge(
            verdicts, names, log_key, lambda at: record.was_on("redis full", at)
        )
        listener = Listener(server.url, judge)
        storm = Storm(seed, seconds, server, exchange, fleet, record, checker)
        for thread in (checker, listener):
            thread.start()
            stack.callback(thread.stop)
        storm.run()
        checker.stop()
        listener.stop()
        checker.judge_lives()
        judge_holds(verdicts.holds, record.asked(), record.woken_at)
        judge_heirs(verdicts.heirs, record.asked(), record.woken_at, record.hides)
        judge_weight(verdicts.weight, record.asked())
        fleet.judge_logs()
    print("\ndone: " + ", ".join(f"{what} {n}" for what, n in sorted(storm.done.items())))
    print(
        f"requests {sum(exchange.totals['paths'].values())}, statuses "
        f"{dict(exchange.totals['statuses'])}, weight {exchange.totals['weight']}\n"
    )
    print(f"{'promise':<42}{'checks':>8}{'violations':>12}")
    for verdict in verdicts.all():
        unseen = "" if verdict.checks else "  never looked at"
        print(f"{verdict.promise:<42}{verdict.checks:>8}{verdict.broken:>12}{unseen}")
        for text in verdict.shown:
            print(f"    {text}")
    errors = [thread.error for thread in (checker, listener) if thread.error]
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
