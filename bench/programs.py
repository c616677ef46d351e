"""The contenders, and the programs that each consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.measure import Program, Stage
from bench.tls import PLAIN
from demo import market

SYMBOLS = 29
LIMIT = 500  # candles per series
DEFAULTS = {"5m": (30, 120), "1h": (120, 300), "4h": (300, 600)}  # refresh interval, TTL
SCANNER = {"1h": (30, 120)}  # the two programs of "before"
DASHBOARD = {"5m": (60, 120), "1h": (60, 120), "4h": (60, 120)}
Schedule = Mapping[str, tuple[int, int]]  # by timeframe: refresh interval, TTL


@dataclass(frozen=True)
class Run:
    """A program of a contender: what to run, when it refreshes, and the prefix of its keys."""

    module: str
    schedule: Schedule
    prefix: str
    option: str = ""

    def start(
        self, stage: Stage, *, transport: str = PLAIN, counted: bool = False, **environ: str
    ) -> Program:
        parts = [f"{name}:{every}:{ttl}" for name, (every, ttl) in self.schedule.items()]
        ours = self.module == "market_data.py"
        env = {
            "TIMEFRAMES": ",".join(parts),
            "CANDLE_LIMIT": str(LIMIT),
            "PREFIX": self.prefix,
            "OPTION": self.option,
            "SYMBOLS": ",".join(market.symbols(SYMBOLS)),
        }
        if ours:
            env["MALLOC_ARENA_MAX"] = "2"  # as the systemd unit sets it
        arguments = [self.module] if ours else ["-m", f"bench.contenders.{self.module}"]
        return stage.start(arguments, {**env, **environ}, transport=transport, counted=counted)

    def channels(self) -> set[str]:
        return {f"{self.prefix}:update:{name}" for name in self.schedule}


@dataclass(frozen=True)
class Contender:
    key: str
    title: str
    module: str
    option: str = ""

    def runs(self, schedule: Schedule = DEFAULTS) -> list[Run]:
        """Its programs; only those of "before" have schedules of their own."""
        if self.module == "before":
            return [Run("before", SCANNER, "scanner"), Run("before", DASHBOARD, "dashboard")]
        prefix = "market" if self.module == "market_data.py" else self.key
        return [Run(self.module, schedule, prefix, self.option)]


SERVICE = Contender("service", "this service", "market_data.py")
AIOHTTP = Contender("aiohttp", "aiohttp, 100 connections", "aiohttp_redis", "100")
BEFORE = Contender("before", "before: two programs", "before")
CONTENDERS = (
    SERVICE,
    AIOHTTP,
    Contender("aiohttp8", "aiohttp, 8 connections", "aiohttp_redis", "8"),
    Contender("ccxt", "ccxt, rate limiting on", "ccxt_sync"),
    Contender("ccxtasync", "ccxt async, rate limiting on", "ccxt_async", "on"),
    Contender("ccxtfree", "ccxt async, rate limiting off", "ccxt_async", "off"),
    Contender("pybinance", "python-binance async", "python_binance"),
    BEFORE,
)
QUICK = (SERVICE, AIOHTTP, BEFORE)
