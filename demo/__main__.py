"""The whole system in one terminal: a simulated exchange, a private Redis, and the service.

`python -m demo` (or `make demo`) needs no network and no Redis, touches no other Redis that may
run here, and leaves nothing behind. Ctrl-C ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from demo.exchange import Exchange

ROOT = Path(__file__).parent.parent
LATENCY_MS, JITTER_MS = 50, 10
REPORT_S = 30


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


def start_service(exchange: Exchange, redis_url: str, health_port: int) -> subprocess.Popen[str]:
    """The real service as a subprocess; a thread passes its lines on."""
    settings = {"BINANCE_BASE_URL": exchange.url, "REDIS_URL": redis_url,
                "HEALTH_PORT": str(health_port), "PYTHONUNBUFFERED": "1"}  # fmt: skip
    service = subprocess.Popen(
        [sys.executable, "market_data.py", "--embedded-redis"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | settings,
    )  # fmt: skip

    def pass_on() -> None:
        assert service.stdout
        for line in service.stdout:
            say("service", line.rstrip())

    threading.Thread(target=pass_on, daemon=True).start()
    return service


def explain(exchange: Exchange, redis_url: str, health_port: int) -> None:
    redis_port = redis_url.split(":")[2].split("/")[0]
    say("demo", "look at it from another terminal, in this folder:")
    for command in (
        f"curl -s http://127.0.0.1:{health_port}/health",
        f".venv/bin/redis-cli -p {redis_port} get market:price:BTCUSDT",
        f".venv/bin/redis-cli -p {redis_port} psubscribe 'market:update:*'",
        f"REDIS_URL={redis_url} .venv/bin/python redis_log.py --follow",
    ):
        say("demo", f"    {command}")
    say("demo", "make the exchange refuse everybody for 7 s, or answer nonsense; then mend it:")
    for fault in ('-d \'{"kind":"hold","seconds":7}\'', '-d \'{"kind":"html"}\'', "-X DELETE"):
        say("demo", f"    curl -s {exchange.url}/sim/fault {fault}")
    say("demo", "Ctrl-C ends all of it")


def watch(exchange: Exchange, service: subprocess.Popen[str]) -> None:
    """Tell what the exchange was asked, until the service ends."""
    while service.poll() is None:
        since = time.time()
        try:
            service.wait(REPORT_S)
        except subprocess.TimeoutExpired:
            asked = [request for request in exchange.requests if request.at > since]
            weight = sum(request.weight for request in asked)
            say("exchange", f"{len(asked)} requests in {REPORT_S} s, weight {weight}")


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT may be ignored from the start
        signal.signal(number, _interrupt)
    redis_url = f"redis://127.0.0.1:{port_near(16379)}/0"
    health_port = port_near(8895)
    with Exchange(port=port_near(18080), latency_ms=LATENCY_MS, jitter_ms=JITTER_MS) as exchange:
        say("exchange", f"simulated Binance.US on {exchange.url}, {LATENCY_MS} ms away")
        service = start_service(exchange, redis_url, health_port)
        try:
            explain(exchange, redis_url, health_port)
            watch(exchange, service)
        except KeyboardInterrupt:
            service.terminate()  # a Ctrl-C has reached it already; anything else has not
        finally:
            code = _end(service)
        say("demo", "all has ended" if code == 0 else f"the service ended with exit code {code}")
    return code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(service: subprocess.Popen[str]) -> int:
    try:
        return service.wait(10)
    except subprocess.TimeoutExpired:
        service.kill()
        return service.wait()


if __name__ == "__main__":
    sys.exit(main())
