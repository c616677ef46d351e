"""The consumers as processes: the whole system, a Redis that restarts, and clean exits."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from consumers.market_cache import ALIVE_KEY
from demo.exchange import Exchange
from settings import VERSION
from tests.candles import put_candles, put_price, update, walk
from tests.support import (
    ENVIRON,
    PATIENCE,
    ROOT,
    Program,
    RedisServer,
    Service,
    free_port,
    until,
)

Start = Callable[..., Any]
NAMES = ("scanner", "ta_service", "paper_trader", "dashboard")


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def log_of(port: int, kind: str, source: str) -> list[dict[str, str]]:
    """The newest entries of a type and source, as the dashboard's API returns them."""
    path = f"/api/redis/log?limit=1000&type={kind}&source={source}"
    return get(port, path)["entries"]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_from_the_exchange_to_a_paper_trade(
    start_service: Callable[..., Service],
    start_consumer: Start,
    exchange: Exchange,
    redis_server: RedisServer,
) -> None:
    """Candles, refreshes, scores, indicators, a signal at a real close, the trade it causes; and
    all of it in the message log. With 29 coins, few minutes close without an up signal."""
    service = start_service(TIMEFRAMES="1m:5:30,1h:20:60")
    port = free_port()
    consumers = [
        start_consumer("ta_service"),
        start_consumer("paper_trader"),
        start_consumer("dashboard", DASHBOARD_PORT=str(port), HEALTH_PORT=str(service.port)),
    ]
    service.wait_for("ok")
    until(lambda: "event=start" in consumers[2].log.read_text(), 10)

    def complete() -> Any:
        rows = get(port, "/api/scanner")["symbols"]
        whole = [row for row in rows if row["price"] and row["scan"] and all(row["ta"].values())]
        return len(whole) == 29 and rows

    rows = until(complete, 20, what="a row of everything for each coin")
    assert all(-100 <= row["scan"]["score"] <= 100 for row in rows if row["scan"]["score"])
    assert all(row["ta"]["1m"]["ribbon"]["state"] in ("up", "down", "mixed") for row in rows)
    until(lambda: redis_server.client.exists("paper:positions"), 240, 0.2, "a signal, and a trade")

    [*_, trade] = log_of(port, "trade", "trader-bot")
    assert trade["channel"] == "paper:trades" and trade["summary"].startswith("buy ")
    symbol, reason = trade["summary"].split()[2], trade["summary"].split()[-1]
    signals = log_of(port, "signal", "ta-service")
    # At a full hour the signal may come from the 1h candles.
    [signal_] = [
        s
        for s in signals
        if s["summary"].startswith(f"{symbol} ")
        and f" {reason} " in s["summary"]
        and s["timestamp"] <= trade["timestamp"]
    ][:1]
    assert signal_["channel"] == "ta:signals" and reason.endswith("_up")
    book = json.loads(str(redis_server.client.get("paper:positions")))
    assert book["trades"] >= 1

    expected = {
        ("cache_write", "market-data"): f"market:ohlcv:{symbol}:1m",
        ("publish", "market-data"): "market:update:1m",
        ("cache_read", "ta-service"): "market:ohlcv:*:1m",
        ("cache_write", "ta-service"): f"ta:indicators:{symbol}:1m",
        ("publish", "ta-service"): "ta:update:1m",
        ("cache_read", "dashboard"): "market:ohlcv:*:1h",
        ("cache_write", "dashboard"): f"scanner:score:{symbol}",
        ("cache_read", "trader-bot"): f"market:price:{symbol}",
    }
    for (kind, source), channel in expected.items():
        assert channel in {entry["channel"] for entry in log_of(port, kind, source)}, channel

    status = get(port, "/api/status")
    assert status["service"]["health"]["status"] == "ok"
    assert all(life["alive"] for life in status["consumers"].values())
    assert list(exchange.totals["clients"]) == [f"coinex-market-data/{VERSION}"]
    exchange_port = int(exchange.url.rsplit(":", 1)[1])
    for consumer in consumers:
        for connection in psutil.Process(consumer.process.pid).net_connections():
            assert not connection.raddr or connection.raddr.port != exchange_port
        assert consumer.stop() == 0
        assert not consumer.lines("Traceback")


class TestRedisRestarts:
    @pytest.mark.slow
    def test_each_goes_on_by_itself_and_none_spins(
        self, start_consumer: Start, redis_server: RedisServer
    ) -> None:
        port = free_port()
        programs: dict[str, Program] = {
            name: start_consumer(name, DASHBOARD_PORT=str(port)) for name in NAMES
        }

        def refill() -> None:
            put_candles(redis_server.client, "AUSDT", "1h", walk(100))
            put_price(redis_server.client, "AUSDT", 50.0)
            redis_server.client.publish("market:update:1h", update(["AUSDT"]))

        def all_at_work() -> bool:
            written = redis_server.client.exists("scanner:score:AUSDT", "ta:indicators:AUSDT:1h")
            lives: Any = redis_server.client.hgetall(ALIVE_KEY)
            return written == 2 and len(lives) == 4

        until(lambda: all_at_work() or refill(), 20, 0.5)
        for outage in (redis_server.kill, redis_server.pause):
            outage()
            processes = [psutil.Process(each.process.pid) for each in programs.values()]
            before = [sum(process.cpu_times()[:2]) for process in processes]
            time.sleep(6)
            after = [sum(process.cpu_times()[:2]) for process in processes]
            assert all(b - a < 0.6 for a, b in zip(before, after, strict=True)), (before, after)
            if outage == redis_server.pause:
                redis_server.resume()
                redis_server.client.flushall()
            else:
                redis_server.start()
            until(lambda: all_at_work() or refill(), 25, 0.5, f"work goes on after {outage}")
            assert get(port, "/api/scanner")["symbols"][0]["price"]
        for name, program in programs.items():
            assert program.process.poll() is None, name
            assert not program.lines("Traceback"), name
            assert len(program.lines("event=redis_lost")) <= 4, name

    def test_a_start_without_redis_waits_for_it(
        self, start_consumer: Start, redis_server: RedisServer
    ) -> None:
        redis_server.kill()
        program = start_consumer("ta_service")
        until(lambda: program.lines("event=redis_lost"), 10)
        redis_server.start()
        put_candles(redis_server.client, "AUSDT", "1h", walk(100))
        until(lambda: redis_server.client.exists("ta:indicators:AUSDT:1h"), 10)


class TestPrograms:
    @pytest.mark.parametrize("name", NAMES)
    def test_no_more_signals_break_off_a_clean_end(
        self, start_consumer: Start, redis_server: RedisServer, name: str
    ) -> None:
        program = start_consumer(name, DASHBOARD_PORT="0")
        until(lambda: redis_server.client.hlen(ALIVE_KEY), 10, what="it is at work")
        program.process.send_signal(signal.SIGINT)

        def terminate() -> bool:
            program.process.terminate()
            return program.process.poll() is not None

        until(terminate, 5, every_s=0.001)
        assert program.process.wait() == 0 and not program.lines("Traceback")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_cleanly(
        self, start_consumer: Start, redis_server: RedisServer, name: str, number: int
    ) -> None:
        port = {"DASHBOARD_PORT": str(free_port())}
        program = start_consumer(name, **port)
        until(lambda: redis_server.client.hlen(ALIVE_KEY), 10, what="it is at work")
        assert program.stop(number, within_s=4) == 0
        assert not program.lines("Traceback")

    def test_a_signal_whose_exception_is_lost_ends_it_all_the_same(self) -> None:
        script = """
import argparse, signal, threading
from consumers.program import run
class Lost:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        len("here the handler runs, and Python only prints what is raised in a finalizer")
def main(env, arguments):
    Lost()
    threading.Event().wait()
run(main, argparse.ArgumentParser())
"""
        command = [sys.executable, "-c", script]
        assert subprocess.run(command, cwd=ROOT, timeout=5 * PATIENCE).returncode == 0

    @staticmethod
    def run(name: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"consumers.{name}", *arguments],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=20,
            env={**ENVIRON, **environ},
        )

    @pytest.mark.parametrize("name", NAMES)
    def test_help_names_the_settings(self, name: str) -> None:
        done = self.run(name, "--help")
        assert done.returncode == 0
        assert f"usage: {name} " in done.stdout and "REDIS_URL" in done.stdout

    @pytest.mark.parametrize(
        ("name", "variable", "value"),
        [(name, "REDIS_URL", "localhost") for name in NAMES]
        + [
            ("ta_service", "MESSAGE_LOG_MAXLEN", "many"),
            ("scanner", "MESSAGE_LOG_MAXLEN", "500.5"),
            ("paper_trader", "PAPER_STAKE", "0"),
            ("paper_trader", "PAPER_STAKE", "-5"),
            ("paper_trader", "PAPER_STAKE", "1e3"),
            ("paper_trader", "PAPER_FEE_PCT", "-0.1"),
            ("paper_trader", "PAPER_SLIPPAGE_PCT", "100"),
            ("dashboard", "DASHBOARD_HOST", "a b"),
            ("dashboard", "DASHBOARD_PORT", "70000"),
            ("dashboard", "HEALTH_URL", "ftp://x"),
            ("dashboard", "MESSAGE_LOG_KEY", "market:log"),
        ],
    )
    def test_a_bad_setting_is_exit_2_and_one_line(
        self, name: str, variable: str, value: str
    ) -> None:
        done = self.run(name, **{variable: value})
        assert done.returncode == 2
        assert re.fullmatch(rf"{name}: {variable}='{value}': must be .+\n", done.stderr)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("ta_service", {"REDIS_URL": ":s3cret@h", "MESSAGE_LOG_KEY": "a b"}),
            ("scanner", {"REDIS_URL": "redis://:s3cret/x@h/0", "MESSAGE_LOG_MAXLEN": "1"}),
            ("paper_trader", {"REDIS_URL": "http://u:s3cret@h/0", "PAPER_STAKE": "much"}),
            (
                "dashboard",
                {
                    "REDIS_URL": "redis://u:s3cret@h:port/0?password=s3cret",
                    "DASHBOARD_HOST": "a b",
                    "DASHBOARD_PORT": "http",
                    "HEALTH_URL": "ftp://u:s3cret@h/health?token=s3cret",
                },
            ),
        ],
    )
    def test_all_bad_settings_are_named_and_no_password(
        self, name: str, settings: dict[str, str]
    ) -> None:
        done = self.run(name, **settings)
        assert done.returncode == 2 and done.stdout == ""
        lines = done.stderr.splitlines()
        assert [line.partition("=")[0] for line in lines] == [
            f"{name}: {each}" for each in settings
        ]
        assert all(re.fullmatch(r"\w+: [A-Z_]+='.*': must be .+", line) for line in lines)
        assert "s3cret" not in done.stderr

    def test_log_lines_are_logfmt_with_time_and_level(self, start_consumer: Start) -> None:
        program = start_consumer(
            "paper_trader", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", PAPER_STAKE="2.50"
        )
        lines = until(lambda: len(program.lines()) >= 2 and program.lines(), 10)
        time_ = r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
        said = r"event=start stake=2\.5 fee_pct=0\.1 slippage_pct=0\.05"
        assert re.fullmatch(rf"{time_} level=info {said}", lines[0])
        lost = r'event=redis_lost consumer=trader-bot reason=".*Connection refused.*"'
        assert re.fullmatch(rf"{time_} level=warning {lost}", lines[1])

    def test_no_password_is_printed(self) -> None:
        done = self.run("ta_service", REDIS_URL="redis://:s3cret/x@127.0.0.1:1/0")
        assert done.returncode == 2 and "s3cret" not in done.stdout + done.stderr

    def test_a_port_in_use_is_one_line(self, redis_server: RedisServer) -> None:
        done = self.run("dashboard", DASHBOARD_PORT=str(redis_server.port))
        assert done.returncode == 1
        assert re.fullmatch(r"dashboard: cannot listen on .*DASHBOARD_PORT.*in use\n", done.stderr)

    def test_a_broken_book_ends_the_trader_with_one_line(self, redis_server: RedisServer) -> None:
        redis_server.client.set("paper:positions", "nonsense")
        done = self.run("paper_trader", REDIS_URL=redis_server.url)
        assert done.returncode == 1 and "redis-cli rename" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_no_consumer_knows_an_address_of_the_exchange() -> None:
    for path in (ROOT / "consumers").rglob("*"):
        if path.suffix in (".py", ".js", ".html", ".css", ".txt"):
            text = path.read_text().lower()
            assert "api.binance" not in text and "binance.us" not in text, path
            assert "binance_client" not in text and "market_data" not in text, path
