"""The whole system in one terminal: a simulated exchange, a private Redis, the service, and the
consumers.

`python -m demo` (or `make demo`) needs no network and no Redis, touches no other Redis on this
machine, and leaves nothing behind. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from demo.exchange import DELISTED, Exchange

ROOT = Path(__file__).parent.parent
LATENCY_MS, JITTER_MS = 50, 10
REPORT_S = 30
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# One more than the service's own: with short candles, trades open and close within minutes.
TIMEFRAMES = "1m:20:60,5m:30:120,1h:120:300,4h:300:600"
CONSUMERS = {
    "ta": "consumers.ta_service",
    "trader": "consumers.paper_trader",
    "dash": "consumers.dashboard",
}
Program = subprocess.Popen[str]
Signals = queue.SimpleQueue[int]  # END_SIGNALS received; the handlers only queue them


def port_near(wanted: int) -> int:
    """`wanted` if nothing listens there, else any free port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", wanted))
        except OSError:
            sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def say(label: str, text: str) -> None:
    print(f"[{label:<8}] {text}", flush=True)


def start(label: str, *arguments: str, settings: dict[str, str]) -> Program:
    """Start a program of the project as a subprocess; a thread prints its output lines.

    It has its own session, so that Ctrl-C reaches only the demo, which then ends all in order.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        text=True,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def pass_on() -> None:
        assert process.stdout
        for line in process.stdout:
            say(label, line.rstrip())

    threading.Thread(target=pass_on, daemon=True).start()
    return process


def start_all(settings: dict[str, str], programs: dict[str, Program], signals: Signals) -> None:
    """Start the service and, once its Redis listens, the consumers; add them to `programs`."""
    programs["service"] = start("service", "market_data.py", "--embedded-redis", settings=settings)
    while signals.empty() and programs["service"].poll() is None:
        if _listens(_redis_port(settings)):
            break
        time.sleep(0.05)
    for label, module in CONSUMERS.items():
        programs[label] = start(label, "-m", module, settings=settings)


def _redis_port(settings: dict[str, str]) -> int:
    return int(settings["REDIS_URL"].split(":")[2].split("/")[0])


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def explain(exchange: Exchange, settings: dict[str, str]) -> None:
    redis_url, dashboard = settings["REDIS_URL"], f"http://127.0.0.1:{settings['DASHBOARD_PORT']}"
    redis_cli = f"redis-cli -p {_redis_port(settings)}"
    say("demo", f"open {dashboard}/ in a browser, then {dashboard}/trades and {dashboard}/status")
    say("demo", "look at it from another terminal, in this folder:")
    if not shutil.which("redis-cli"):
        say("demo", "(redis-cli comes with Debian's redis-tools, among others)")
    for command in (
        f"curl -s http://127.0.0.1:{settings['HEALTH_PORT']}/health",
        f"{redis_cli} get market:price:BTCUSDT",
        f"{redis_cli} psubscribe 'market:update:*' ta:signals paper:trades",
        f"REDIS_URL={redis_url} .venv/bin/python redis_log.py --follow --type signal",
    ):
        say("demo", f"    {command}")
    say("demo", "make the exchange refuse everybody for 7 s, or answer nonsense; then mend it:")
    for fault in ('-d \'{"kind":"hold","seconds":7}\'', '-d \'{"kind":"html"}\'', "-X DELETE"):
        say("demo", f"    curl -s {exchange.url}/sim/fault {fault}")
    say("demo", "Ctrl-C ends all of it")


def watch(exchange: Exchange, service: Program, signals: Signals) -> None:
    """Report the requests to the exchange until the service ends or a signal arrives."""
    since = time.time()
    while signals.empty() and service.poll() is None:
        time.sleep(0.1)
        if time.time() - since >= REPORT_S:
            asked = [request for request in exchange.requests if request.at > since]
            weight = sum(request.weight for request in asked)
            say("exchange", f"{len(asked)} requests in {REPORT_S} s, weight {weight}")
            since = time.time()


def main() -> int:
    argparse.ArgumentParser("python -m demo", description=__doc__).parse_args()
    signals: Signals = queue.SimpleQueue()
    for number in END_SIGNALS:  # SIGINT may have been inherited as ignored
        signal.signal(number, lambda number, _: signals.put(number))
    with Exchange(
        port=port_near(18080), latency_ms=LATENCY_MS, jitter_ms=JITTER_MS, delisted=DELISTED
    ) as exchange:
        say("exchange", f"simulated Binance.US on {exchange.url}, {LATENCY_MS} ms away")
        health_port = str(port_near(8895))
        settings = {
            "BINANCE_BASE_URL": exchange.url,
            "REDIS_URL": f"redis://127.0.0.1:{port_near(16379)}/0",
            "HEALTH_PORT": health_port,
            "HEALTH_URL": f"http://127.0.0.1:{health_port}/health",
            "DASHBOARD_PORT": str(port_near(8896)),
            "TIMEFRAMES": os.environ.get("TIMEFRAMES", TIMEFRAMES),
            "PYTHONUNBUFFERED": "1",
        }
        programs: dict[str, Program] = {}
        try:
            start_all(settings, programs, signals)
            explain(exchange, settings)
            watch(exchange, programs["service"], signals)
        finally:
            failed = _end(programs)
        say("demo", "; ".join(failed) or "all has ended")
    return 1 if failed else 0


def _end(programs: dict[str, Program]) -> list[str]:
    """End the programs that still run, consumers first. Returns a message for each failure."""
    for process in reversed(programs.values()):
        process.terminate()
    codes = {label: _wait(process) for label, process in programs.items()}
    return [
        f"{label} ended with exit code {code}"
        for label, code in codes.items()
        # A program that is just starting has no handler yet, and until it has its own session the
        # terminal's Ctrl-C reaches it, too.
        if code and -code not in END_SIGNALS
    ]


def _wait(process: Program) -> int:
    try:
        return process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


if __name__ == "__main__":
    exit_code = main()
    for number in END_SIGNALS:  # else they could kill Python while it exits
        signal.signal(number, signal.SIG_IGN)
    sys.exit(exit_code)
