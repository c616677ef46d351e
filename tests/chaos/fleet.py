"""The services of a storm, and the settings of each."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from demo.exchange import Exchange
from settings import Settings
from tests.chaos.judges import Verdicts
from tests.chaos.record import Door, Record
from tests.support import Service, free_port

SYMBOLS = (
    "BTCUSDT",
    "ETHUSDT",
    "SOLUSDT",
    "XRPUSDT",
    "ADAUSDT",
    "DOGEUSDT",
    "AVAXUSDT",
    "LINKUSDT",
    "DOTUSDT",
    "LTCUSDT",
)
# Of the second environment. No symbol is of both, so what is in the wrong place is seen.
NEIGHBOUR_SYMBOLS = ("BCHUSDT", "UNIUSDT", "ATOMUSDT")
# Short intervals, so that much happens in little time. Eight workers, so that two services have
# fewer requests in flight than REFUSALS_TO_BAN. Of 100 candles or more, a bad one is left out.
ENVIRON = {
    "SYMBOLS": ",".join(SYMBOLS),
    "TIMEFRAMES": "1m:2:10,5m:3:15,1h:4:20",
    "CANDLE_LIMIT": "120",
    "LEADER_TTL": "3",
    "REQUEST_TIMEOUT": "1",
    "MAX_WORKERS": "8",
}
SETTINGS = Settings.from_env(ENVIRON)

START_S = 5.0  # for a new process to get to work, on a busy machine
EXIT_S = 15.0  # the service takes up to 4 s to end; the rest allows for a busy machine


class Fleet:
    """The services of one database: one that should always run, and at times a second. Each process
    has its own name and its own door to the exchange."""

    def __init__(
        self,
        folder: Path,
        url: str,
        db: int,
        symbols: Sequence[str],
        exchange: Exchange,
        record: Record,
        verdicts: Verdicts,
    ) -> None:
        self._folder, self._url, self._db, self._symbols = folder, url, db, symbols
        self._exchange, self._record, self._verdicts = exchange, record, verdicts
        self._running: dict[str, Service] = {}  # by name; replaced, not mutated: others read it
        self._all: list[Service] = []
        self._doors: list[Door] = []

    def start(self) -> str:
        name = f"service{self._db}.{len(self._all)}"
        door = Door(self._exchange, self._record, name).start()
        self._doors.append(door)
        environ = {
            **ENVIRON,
            "SYMBOLS": ",".join(self._symbols),
            "REDIS_URL": self._url,
            "BINANCE_BASE_URL": door.url,
            "HEALTH_PORT": str(free_port()),
            "MALLOC_ARENA_MAX": "2",  # as the systemd unit sets it
        }
        service = Service(self._folder / f"{name}.log", [], environ)
        self._all.append(service)
        self._running = {**self._running, name: service}
        return name

    def names(self) -> list[str]:
        return list(self._running)

    def pids(self) -> dict[str, int]:
        return {name: service.process.pid for name, service in self._running.items()}

    def kill(self, name: str) -> None:
        service = self._leave(name)
        self._record.stop(name)
        service.process.kill()
        service.process.wait()

    def pause(self, name: str) -> None:
        self._record.stop(name)
        self._running[name].process.send_signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        if name in self._running:
            self._running[name].process.send_signal(signal.SIGCONT)
            self._record.wake(name)

    def terminate(self, name: str) -> None:
        """Send SIGTERM as soon as the service has started, and judge its exit code."""
        service = self._leave(name)
        give_up_at = time.monotonic() + START_S
        while not service.lines("event=start ") and time.monotonic() < give_up_at:
            time.sleep(0.05)
        service.process.send_signal(signal.SIGTERM)
        try:
            code: int | None = service.process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            code = None
        self._verdicts.exits.check(code == 0, f"{name}: {code} within {EXIT_S:.0f} s")

    def _leave(self, name: str) -> Service:
        service = self._running[name]
        self._running = {n: other for n, other in self._running.items() if n != name}
        return service

    def close_doors(self) -> None:
        """Cut all services off from the exchange."""
        for door in self._doors:
            door.stop()

    def open_doors(self) -> None:
        for door in self._doors:
            door.start()

    def judge_logs(self) -> None:
        for service in self._all:
            bad = service.lines("event=bug") + service.lines("Traceback")
            self._verdicts.bugs.check(not bad, f"{service.log.name}: {bad[:1]}")

    def end(self) -> None:
        """Kill the processes that still run."""
        for service in self._all:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
        self.close_doors()
