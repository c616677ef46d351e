"""`python market_data.py` itself, on a real Redis and the simulated exchange, over sockets."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from demo.exchange import Exchange
from redis_log import connect, read_log
from settings import VERSION
from tests.support import (
    ENVIRON,
    ROOT,
    Program,
    RedisServer,
    Service,
    free_port,
    quiet_interval,
    until,
)

Start = Callable[..., Service]
SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT,ADAUSDT,DOGEUSDT,AVAXUSDT,LINKUSDT,DOTUSDT,LTCUSDT"
FAST = {"TIMEFRAMES": "5m:2:6,1h:3:8,4h:4:10", "REQUEST_TIMEOUT": "1", "SYMBOLS": SYMBOLS}
HELD_S = 5
TTL_S = {"5m": 120, "1h": 300, "4h": 600}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "market_data.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**ENVIRON, "HEALTH_PORT": str(free_port()), **environ},
    )


def keys(client: redis.Redis, pattern: str = "market:*") -> list[str]:
    """All keys that match, except the lease."""
    found: Any = client.keys(pattern)
    return sorted(key for key in found if not key.startswith("market:leader"))


def expires_at(client: redis.Redis, key: str) -> float:
    """When a key expires, in epoch seconds."""
    at_ms: Any = client.pexpiretime(key)
    return float(at_ms / 1000)


def said_at(line: str) -> float:
    """When a line was logged, in epoch seconds."""
    return datetime.fromisoformat(line.split()[0].removeprefix("time=")).timestamp()


def heard_by(client: redis.Redis) -> Any:
    """A subscription to all refreshes that is known to be in place."""
    subscription: Any = client.pubsub()
    subscription.psubscribe("market:update:*")
    assert subscription.get_message(timeout=5)["type"] == "psubscribe"
    return subscription


def next_update(subscription: Any, within_s: float = 10) -> tuple[str, dict[str, Any]]:
    message = until(lambda: subscription.get_message(timeout=0.1), within_s, what="a publish")
    return message["channel"], json.loads(message["data"])


class TestFill:
    def test_everything_is_there_logged_heard_and_lean(
        self, start_service: Start, redis_server: RedisServer, exchange: Exchange
    ) -> None:
        client = redis_server.client
        heard = heard_by(redis_server.client)
        often, seldom, rarely = (
            quiet_interval(*each) for each in ((31, 59), (99, 299), (300, 599))
        )
        service = start_service(TIMEFRAMES=f"5m:{often}:120,1h:{seldom}:300,4h:{rarely}:600")
        body = service.wait_for("ok")
        channels = [next_update(heard)[0] for _ in range(4)]
        assert sorted(channels) == [f"market:update:{x}" for x in ("1h", "4h", "5m", "all")]
        assert channels[-1] == "market:update:all"

        ohlcv, prices = keys(client, "market:ohlcv:*"), keys(client, "market:price:*")
        assert (len(ohlcv), len(prices)) == (87, 29)
        for key in ohlcv:
            candles: Any = json.loads(str(client.get(key)))
            ttl_s, left_ms = TTL_S[key.split(":")[-1]], client.pttl(key)
            assert len(candles) == 500 and ttl_s - 30 < left_ms / 1000 <= ttl_s
        assert all(30_000 < client.pttl(key) <= 60_000 for key in prices)

        kinds = Counter(entry["type"] for entry in read_log(client, 1000))
        assert kinds == {"cache_write": 87 + 29, "publish": 4}
        logged = {e["channel"] for e in read_log(client, 1000) if e["type"] == "cache_write"}
        assert logged == {*ohlcv, *prices}

        assert body["problems"] == {} and body["unknown_symbols"] == []
        for name in ("5m", "1h", "4h"):
            part = body["timeframes"][name]
            assert (part["fresh"], part["candles"], part["failing"]) == (29, 14500, {})
        assert until(lambda: service.health()[1]["redis"]["message_log_length"] == 120, 5)
        memory = psutil.Process(service.process.pid)
        assert memory.memory_info().rss < 80e6
        assert service.stop() == 0

    def test_a_steady_refresh_is_one_transaction_and_three_candles(
        self, start_service: Start, redis_server: RedisServer, exchange: Exchange
    ) -> None:
        """Watches eight transactions in a row, of ten symbols that refresh every 2 s in 5m and
        every 3 s in 1h."""
        service = start_service(TIMEFRAMES="5m:2:60,1h:3:80", SYMBOLS=SYMBOLS)
        service.wait_for("ok")
        until(lambda: "/api/v3/exchangeInfo" in exchange.totals["paths"], 20)
        before = len(exchange.requests)
        commands: dict[str, list[str]] = {}  # by connection, since its last EXEC
        transactions: list[list[str]] = []
        others: set[str] = set()
        with redis_server.client.monitor() as monitor:
            while len(transactions) < 8:
                seen = monitor.next_command()
                client, name = seen["client_port"], seen["command"].split()[0]
                if name == "WATCH":
                    commands[client] = [name]
                elif client in commands:
                    commands[client].append(name)
                    if name == "EXEC":
                        transactions.append(commands.pop(client))
                # Before the first WATCH, it may belong to a transaction that had begun; within a
                # script, it renews the lease.
                elif (commands or transactions) and seen["client_type"] != "lua":
                    others.add(name)
        assert service.stop() == 0
        for names in transactions:
            assert names[:3] == ["WATCH", "GET", "MULTI"]  # the fence
            count = Counter(names[3:-1])
            refreshes = count["PUBLISH"] - (count["PUBLISH"] > 1)  # the last of several is "all"
            assert 1 <= refreshes <= 2 and 10 <= count["SET"] <= 10 * (refreshes + 1)
            assert count["SET"] % 10 == 0 and count["XADD"] == count["SET"] + count["PUBLISH"]
            order = ["SET"] * count["SET"] + ["XADD"] * count["XADD"]
            assert names[3:-1] == [*order, *["PUBLISH"] * count["PUBLISH"]]
        assert others <= {"EVAL", "EXISTS", "TIME", "XLEN", "HELLO", "CLIENT", "MONITOR"}
        requests = exchange.requests[before:]
        assert {request.weight for request in requests} == {1}
        limits = Counter(request.limit for request in requests if "klines" in request.path)
        assert set(limits) <= {3, 4}  # 4 if a candle has just opened
        refreshes = len(service.lines("event=refresh")) - 2
        assert refreshes >= 8 and sum(limits.values()) <= 10 * (refreshes + 2)  # or cut off by stop


class TestFreshness:
    @pytest.mark.slow
    def test_a_close_is_in_redis_within_1500_ms_of_a_real_boundary(
        self, start_service: Start, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """Waits for the next full minute; the exchange answers after 50 ms."""
        with Exchange(latency_ms=50) as exchange:
            service = start_service(TIMEFRAMES="1m:10:60,5m:30:120", BINANCE_BASE_URL=exchange.url)
            service.wait_for("ok")
            heard = heard_by(redis_server.client)
            boundary = (time.time() // 60 + 1) * 60
            while time.time() < boundary:
                heard.get_message(timeout=0.05)
            name, update = next_update(heard)
            while name != "market:update:1m":
                name, update = next_update(heard)
            assert time.time() - boundary < 1.5
            assert len(update["symbols"]) == 29
            for symbol in update["symbols"]:
                candles = json.loads(str(redis_server.client.get(f"market:ohlcv:{symbol}:1m")))
                closed = [c for c in candles if c["timestamp"] == (boundary - 60) * 1000]
                [truth] = [
                    r for r in exchange.klines(symbol, "1m", 3) if r[0] == (boundary - 60) * 1000
                ]
                assert list(closed[0].values())[1:] == [float(text) for text in truth[1:6]]


class TestExchangeGone:
    @pytest.mark.slow
    def test_keys_expire_and_health_says_so_and_all_comes_back(
        self, start_service: Start, redis_server: RedisServer, exchange: Exchange
    ) -> None:
        client = redis_server.client
        service = start_service(**FAST, LOG_LEVEL="DEBUG")
        service.wait_for("ok")
        exchange.stop()
        gone_at = time.time()
        service.wait_for("degraded", 6)
        for key in keys(client, "market:ohlcv:*"):  # those that have not expired yet
            assert expires_at(client, key) < gone_at + 10
        service.wait_for("down", 10)
        until(lambda: not keys(client, "market:ohlcv:*"), 12, what="candles expire at their TTL")
        assert service.health()[0] == 503
        lines = service.lines("fetch_failing")
        assert 4 <= len(lines) <= 8  # 3 timeframes and prices; the first reasons may differ
        tried = len(service.lines("event=refresh"))
        until(lambda: len(service.lines("event=refresh")) > tried + 3, 15)
        assert len(service.lines("fetch_failing")) == len(lines)  # no further line per refresh
        exchange.start()
        body = service.wait_for("ok", 8)
        assert all(part["fresh"] == 10 for part in body["timeframes"].values())
        # The status is "ok" a moment before the data is written.
        until(lambda: len(keys(client, "market:ohlcv:*")) == 30, 2)
        assert service.lines("fetch_mended")


class TestRedisGone:
    @pytest.mark.slow
    def test_killed_and_restarted_empty(
        self, start_service: Start, redis_server: RedisServer, exchange: Exchange
    ) -> None:
        service = start_service()
        service.wait_for("ok")
        before = {key: expires_at(redis_server.client, key) for key in keys(redis_server.client)}
        redis_server.kill()
        body = service.wait_for("down", 5)
        assert "redis" in body["problems"] and not body["redis"]["up"]
        fetched = len(exchange.requests)
        until(lambda: len(exchange.requests) > fetched + 29, 35, what="fetching goes on")
        until(lambda: len(service.lines("event=refresh timeframe=5m")) >= 2, 35)
        redis_server.start()
        heard = heard_by(redis_server.client)
        until(lambda: len(keys(redis_server.client)) == 116, 5, what="all keys are back")
        for key, expired_at in before.items():
            if key.endswith(":4h"):  # not refreshed meanwhile
                assert expires_at(redis_server.client, key) == pytest.approx(expired_at, abs=0.01)
        updates = []
        while message := heard.get_message(timeout=1.5):
            updates.append(message["channel"])
        assert updates.count("market:update:5m") <= 1  # none if it came before we subscribed
        published = [e["channel"] for e in read_log(redis_server.client, 500, "publish")]
        assert published.count("market:update:5m") == 1
        service.wait_for("ok")
        assert len(service.lines("event=problem what=redis")) == 1
        assert len(service.lines("event=problem_over what=redis")) == 1

    def test_emptied_while_it_runs(self, start_service: Start, redis_server: RedisServer) -> None:
        service = start_service()
        service.wait_for("ok")
        redis_server.client.flushall()
        until(lambda: len(keys(redis_server.client)) == 116, 5, what="all keys are back")
        assert service.lines("event=problem what=keys")

    def test_a_start_without_redis_fills_it_when_it_comes(
        self, start_service: Start, redis_server: RedisServer
    ) -> None:
        redis_server.kill()
        service = start_service()
        service.wait_for("down")
        redis_server.start()
        service.wait_for("ok", 5)
        assert len(keys(redis_server.client)) == 116


class TestLimits:
    @pytest.mark.parametrize(("kind", "status"), [("hold", 429), ("ban", 418)])
    def test_not_one_request_while_held(
        self,
        start_service: Start,
        redis_server: RedisServer,
        exchange: Exchange,
        kind: str,
        status: int,
    ) -> None:
        service = start_service(TIMEFRAMES="5m:4:30,1h:5:40,4h:6:50", SYMBOLS=SYMBOLS)
        service.wait_for("ok")
        exchange.fault(kind, seconds=HELD_S)
        began = until(
            lambda: [r.at for r in exchange.requests if r.status == status], 12, what="the limit"
        )[0]
        until(lambda: "exchange" in service.health()[1]["problems"], 3, what="it is in /health")
        _, body = service.health()
        assert body["status"] == "degraded" and body["exchange"]["hold_until"]
        assert f"after HTTP {status}" in body["problems"]["exchange"]
        over = began + HELD_S
        until(lambda: [r for r in exchange.requests if r.at > over], 15, what="requests again")
        # Each worker may have had a request in flight when the first refusal was sent.
        late = [r.at for r in exchange.requests if began < r.at < over]
        assert len(late) < 32 and all(at < began + HELD_S / 2 for at in late)
        service.wait_for("ok")
        lines = service.lines("what=exchange")
        assert len(lines) == 2 and f"after HTTP {status}" in lines[0] and "_over" in lines[1]


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("after_s", [0.6, 1.0, 3.0])
    def test_signals_end_it_cleanly_at_any_moment(
        self, start_service: Start, number: int, after_s: float
    ) -> None:
        service = start_service()
        time.sleep(after_s)
        until(lambda: service.lines("event=start"), 10)
        assert service.stop(number) == 0
        assert not service.lines("Traceback")

    def test_within_5_s_from_a_silent_exchange_and_a_hold(
        self, start_service: Start, exchange: Exchange
    ) -> None:
        exchange.fault("silent")
        service = start_service()
        until(lambda: exchange.requests, 10)
        assert service.stop() == 0
        exchange.clear()
        exchange.fault("ban", seconds=600)
        service = start_service()
        until(lambda: service.lines("event=problem what=exchange"), 10)
        assert service.stop() == 0

    def test_at_once_where_the_signal_interrupts_no_wait(
        self, redis_server: RedisServer, exchange: Exchange, tmp_path: Path
    ) -> None:
        """A signal just before the wait, a moment that cannot be hit at will, interrupts nothing;
        nor does one that another thread receives. Here the wait would last an hour."""
        script = "import os, market_data as m; m.MAINTAIN_EVERY_S = 3600.0; os._exit(m.main([]))"
        settings = {"REDIS_URL": redis_server.url, "BINANCE_BASE_URL": exchange.url, **FAST}
        service = Program(tmp_path / "log", ["-c", script], {"HEALTH_PORT": "0", **settings})
        until(lambda: service.lines("event=refresh timeframe=4h"), 10)
        pid = service.process.pid
        other = next(t.id for t in psutil.Process(pid).threads() if t.id != pid)
        assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
        assert service.process.wait(20) == 0

    def test_within_5_s_from_a_paused_redis(
        self, start_service: Start, redis_server: RedisServer
    ) -> None:
        service = start_service()
        service.wait_for("ok")
        redis_server.pause()
        service.wait_for("down", 10)
        assert service.stop() == 0
        redis_server.resume()


class TestOutput:
    @pytest.mark.parametrize("to", [">&-", "| head -1", ">/dev/full"])
    def test_a_log_that_nobody_can_read_ends_nothing(
        self, redis_server: RedisServer, exchange: Exchange, tmp_path: Path, to: str
    ) -> None:
        environ = {
            **ENVIRON,
            "REDIS_URL": redis_server.url,
            "HEALTH_PORT": "0",
            "BINANCE_BASE_URL": exchange.url,
            **FAST,
        }
        errors = tmp_path / "errors"
        start = f"{sys.executable} {ROOT / 'market_data.py'} & echo $! >&3; wait"
        with errors.open("w") as file:
            shell = subprocess.Popen(
                f"exec 3>&2; {{ {start}; }} {to}",
                shell=True,
                executable="/bin/bash",
                stderr=file,
                env=environ,
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
            )
        until(lambda: len(keys(redis_server.client)) == 40, 20, what="the fill")
        asked = len(exchange.requests)
        until(lambda: len(exchange.requests) > asked + 40, 15, what="a refresh or two more")
        service = psutil.Process(int(errors.read_text().split()[0]))
        service.terminate()
        service.wait(20)
        shell.wait(20)
        assert "Traceback" not in errors.read_text()


class TestSystemd:
    def test_ready_status_watchdog_and_stopping(self, start_service: Start, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "notify"))
            listener.settimeout(10)
            service = start_service(NOTIFY_SOCKET=str(tmp_path / "notify"))
            said: list[str] = []
            while "READY=1" not in said:
                said = listener.recv(1000).decode().split("\n")
            assert "WATCHDOG=1" in said
            url = f"http://127.0.0.1:{service.port}"
            assert f"STATUS=ok: of 29 symbols fresh 5m=29 1h=29 4h=29 at {url}" in said
            service.process.terminate()
            while said != ["STOPPING=1"]:
                said = listener.recv(1000).decode().split("\n")

    def test_not_ready_before_the_first_fill(
        self, start_service: Start, exchange: Exchange, tmp_path: Path
    ) -> None:
        exchange.fault("silent")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "notify"))
            listener.settimeout(10)
            start_service(NOTIFY_SOCKET=str(tmp_path / "notify"))
            for _ in range(3):
                said = listener.recv(1000).decode()
                assert "READY" not in said and "WATCHDOG=1" in said and "STATUS=starting" in said

    def test_no_watchdog_once_a_loop_hangs(
        self, redis_server: RedisServer, exchange: Exchange, tmp_path: Path
    ) -> None:
        """The program itself, except that a refresh of 1h never returns."""
        script = """
import threading, market_data
refresh = market_data.MarketData.refresh
def hangs(self, timeframe):
    threading.Event().wait() if timeframe.name == "1h" else refresh(self, timeframe)
market_data.MarketData.refresh = hangs
market_data.HANG_S = 2.0
market_data.main([])
"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "notify"))
            listener.settimeout(10)
            process = subprocess.Popen(
                [sys.executable, "-c", script],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                env={
                    **ENVIRON,
                    "REDIS_URL": redis_server.url,
                    "HEALTH_PORT": "0",
                    "BINANCE_BASE_URL": exchange.url,
                    "TIMEFRAMES": "5m:5:10,1h:5:10",
                    "SYMBOLS": SYMBOLS,
                    "NOTIFY_SOCKET": str(tmp_path / "notify"),
                },
            )
            try:
                said = ""
                while "WATCHDOG=1" not in said:
                    said = listener.recv(1000).decode()
                while "WATCHDOG=1" in said:
                    said = listener.recv(1000).decode()
                for _ in range(3):
                    assert "WATCHDOG=1" not in listener.recv(1000).decode()
            finally:
                process.kill()
                output, _ = process.communicate()
        assert 'event=problem what=loops reason="hanging: refresh-1h"' in output

    def test_a_syslog_priority_in_front_where_stdout_is_the_journal(self, tmp_path: Path) -> None:
        log = tmp_path / "journal"
        with log.open("w") as file:
            stat = os.fstat(file.fileno())
            environ = {
                "JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}",
                "HEALTH_PORT": "0",
                "BINANCE_BASE_URL": "http://127.0.0.1:1",
                "REDIS_URL": "redis://127.0.0.1:1/0",
            }
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "market_data.py")], stdout=file, env=environ
            )
        until(lambda: "event=problem what=redis" in log.read_text(), 10)
        process.terminate()
        assert process.wait(20) == 0
        lines = log.read_text().splitlines()
        assert lines[0].startswith("<6>event=start ")
        assert any(line.startswith("<4>event=problem what=redis ") for line in lines)


class TestCommandLine:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BINANCE_BASE_URL", "https://api.binance.com"),
            ("SYMBOLS", ","),
            ("HEALTH_PORT", "http"),
            ("CANDLE_LIMIT", "5000"),
            ("TIMEFRAMES", "7m:30:120"),
            ("REDIS_URL", "localhost"),
        ],
    )
    def test_a_bad_setting_is_exit_2_and_one_line(self, name: str, value: str) -> None:
        done = run(**{name: value})
        assert done.returncode == 2 and done.stdout == ""
        assert re.fullmatch(rf"market_data: {name}='{value}': must be .+\n", done.stderr)

    def test_a_port_in_use_is_one_line(self, redis_server: RedisServer) -> None:
        done = run(HEALTH_PORT=str(redis_server.port), REDIS_URL=redis_server.url)
        assert done.returncode == 1
        assert re.fullmatch(r"market_data: .*HEALTH_PORT.*in use\n", done.stderr)

    def test_once(self, redis_server: RedisServer, exchange: Exchange) -> None:
        environ = {"REDIS_URL": redis_server.url, "BINANCE_BASE_URL": exchange.url}
        done = run("--once", **environ)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^4h +29 of 29 +14500$", done.stdout, re.MULTILINE)
        assert len(keys(redis_server.client)) == 116
        exchange.fault("html", symbol="ETHUSDT", path="klines")
        done = run("--once", **environ)
        assert done.returncode == 1
        assert re.search(r"^5m +28 of 29 +14000  ETHUSDT: .*not JSON", done.stdout, re.MULTILINE)

    def test_once_ends_by_sigterm(
        self, start_service: Callable[..., Service], exchange: Exchange
    ) -> None:
        exchange.fault("hold", seconds=20)
        service = start_service("--once")
        until(lambda: exchange.requests, 10)
        assert service.stop(within_s=3) == 143

    def test_once_without_redis(self, exchange: Exchange) -> None:
        done = run("--once", BINANCE_BASE_URL=exchange.url, REDIS_URL="redis://127.0.0.1:1/0")
        assert done.returncode == 1 and "NOT in Redis" in done.stdout
        assert "Traceback" not in done.stderr

    def test_version_and_help(self) -> None:
        assert run("--version").stdout == f"coinex-market-data {VERSION}\n"
        assert "--embedded-redis" in run("--help").stdout
        assert run("--once", "--check").returncode == 2


class TestEmbeddedRedis:
    def test_starts_says_so_and_leaves_nothing(self, start_service: Start, tmp_path: Path) -> None:
        port = free_port()
        url = f"redis://:s3cret@127.0.0.1:{port}/0"
        service = start_service("--embedded-redis", REDIS_URL=url, TMPDIR=str(tmp_path))
        service.wait_for("ok")
        [server] = psutil.Process(service.process.pid).children()
        assert len(keys(connect(url))) == 116
        with pytest.raises(redis.AuthenticationError):
            connect(f"redis://127.0.0.1:{port}/0").ping()
        assert not any("s3cret" in word for word in server.cmdline())
        [line] = service.lines("event=embedded_redis ")
        assert "lost on exit" in line and "s3cret" not in service.log.read_text()
        assert service.stop(signal.SIGINT) == 0
        assert not server.is_running()
        assert not list(tmp_path.glob("coinex-redis-*"))

    def test_does_not_outlive_a_killed_service(self, start_service: Start) -> None:
        url = f"redis://127.0.0.1:{free_port()}/0"
        service = start_service("--embedded-redis", REDIS_URL=url)
        service.wait_for("ok")
        [server] = psutil.Process(service.process.pid).children()
        service.process.kill()
        service.process.wait()
        until(lambda: not server.is_running() or server.status() == "zombie", 5)

    def test_uses_what_listens_already(
        self, start_service: Start, redis_server: RedisServer
    ) -> None:
        service = start_service("--embedded-redis")
        service.wait_for("ok")
        assert service.lines("embedded_redis_not_needed")
        assert psutil.Process(service.process.pid).children() == []

    def test_only_on_loopback(self) -> None:
        done = run("--embedded-redis", REDIS_URL="redis://10.1.2.3:6379/0")
        assert done.returncode == 1 and "127.0.0.1" in done.stderr
