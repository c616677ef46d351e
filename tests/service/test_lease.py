"""One leader at any time: two services on one Redis, and a Redis that fails over."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import redis

import redis_log
from consumers.market_cache import MarketCache
from demo.exchange import Exchange
from lease import Lease
from market_data import MarketData
from redis_log import Batch, Fenced, LoggedRedis, connect, read_log
from settings import DEFAULT_LEADER_KEY, Settings
from store import Pending
from tests.chaos.checker import Listener
from tests.chaos.record import Door, Record
from tests.support import RedisServer, Service, executable, free_port, until

Start = Callable[..., Service]
SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
FAST = {
    "TIMEFRAMES": "5m:2:20,1h:3:30",
    "SYMBOLS": SYMBOLS,
    "LEADER_TTL": "3",
    "REQUEST_TIMEOUT": "1",
}


class TestFence:
    def test_no_failure_costs_a_connection(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_log, "SOCKET_TIMEOUT_S", 0.1)
        admin: Any = redis_server.client
        rules = ("on", ">x", "~*", "&*", "+@all", "-unwatch")
        admin.execute_command("ACL", "SETUSER", "plain", *rules)
        client = connect(redis_server.url.replace("//", "//plain:x@"))
        logged = LoggedRedis(client, "market-data")
        batch = logged.batch()
        batch.cache_write("key", "value")
        admin.set("fence", "mine")
        for _ in range(3):
            redis_server.pause()
            with pytest.raises(redis.TimeoutError):
                logged.send(batch, fence=("fence", "mine"))
            redis_server.resume()
            with pytest.raises(Fenced):
                logged.send(batch, fence=("fence", "another's"))
            logged.send(logged.batch(), fence=("fence", "mine"))  # nothing to send
            logged.send(batch, fence=("fence", "mine"))
        pool: Any = client.connection_pool
        assert not pool._in_use_connections and len(pool._available_connections) <= 2

    @pytest.fixture
    def logged(self, redis_server: RedisServer) -> LoggedRedis:
        return LoggedRedis(redis_server.client, "market-data")

    def test_sends_while_the_key_has_the_value(
        self, logged: LoggedRedis, redis_server: RedisServer
    ) -> None:
        redis_server.client.set("fence", "mine")
        batch = logged.batch()
        batch.cache_write("k", "v", 5)
        logged.send(batch, fence=("fence", "mine"))
        assert redis_server.client.get("k") == "v" and len(read_log(redis_server.client)) == 1

    @pytest.mark.parametrize("value", [None, "another's"])
    def test_sends_nothing_else(
        self, logged: LoggedRedis, redis_server: RedisServer, value: str | None
    ) -> None:
        if value:
            redis_server.client.set("fence", value)
        batch = logged.batch()
        batch.cache_write("k", "v", 5)
        with pytest.raises(Fenced):
            logged.send(batch, fence=("fence", "mine"))
        assert not redis_server.client.exists("k", redis_log.DEFAULT_KEY)

    @pytest.mark.parametrize("change", ["taken", "expired", "deleted"])
    def test_sends_nothing_if_it_changes_between_the_look_and_the_transaction(
        self,
        logged: LoggedRedis,
        redis_server: RedisServer,
        change: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As when a process is stopped there and resumed after another one has taken the lease."""
        client = redis_server.client
        client.set("fence", "mine", px=10_000)
        watch = redis_log._watch

        def stopped_here(pipeline: Any, key: str) -> Any:
            value = watch(pipeline, key)
            other = connect(redis_server.url)
            if change == "taken":
                other.set("fence", "another's")
            elif change == "expired":
                other.pexpire("fence", 1)
                until(lambda: not other.exists("fence"), 2)
            else:
                other.delete("fence")
            return value

        monkeypatch.setattr(redis_log, "_watch", stopped_here)
        batch = logged.batch()
        batch.cache_write("k", "v", 5)
        batch.publish("channel", "x")
        with pytest.raises(Fenced):
            logged.send(batch, fence=("fence", "mine"))
        assert not client.exists("k", redis_log.DEFAULT_KEY)

    def test_holds_where_the_log_cannot_be_written_too(
        self, logged: LoggedRedis, redis_server: RedisServer
    ) -> None:
        redis_server.client.set(redis_log.DEFAULT_KEY, "no stream")
        redis_server.client.set("fence", "mine")
        batch = logged.batch()
        batch.cache_write("k", "v", 5)
        logged.send(batch, fence=("fence", "mine"))
        assert redis_server.client.get("k") == "v" and "WRONGTYPE" in logged.log_error


@pytest.fixture
def make(exchange: Exchange, redis_server: RedisServer) -> Iterator[Callable[[], MarketData]]:
    """A service whose loops do not run."""
    made: list[MarketData] = []

    def start() -> MarketData:
        settings = Settings.from_env(FAST | {"BINANCE_BASE_URL": exchange.url})
        made.append(MarketData(settings, connect(redis_server.url)))
        return made[-1]

    yield start
    for service in made:
        service.stop(until=time.monotonic() + 5)


def turn(service: MarketData) -> None:
    for timeframe in service.settings.timeframes:
        service.refresh(timeframe)


class TestTerm:
    """The fence: a key that only a change of leader touches."""

    def test_a_renewal_touches_it_not(self, redis_server: RedisServer) -> None:
        lease = Lease(redis_server.client, "leader", 10)
        lease.claim()
        fence = lease.fence()
        logged = LoggedRedis(redis_server.client, "market-data")
        batch = logged.batch()
        batch.cache_write("k", "v", 5)

        def renewed_here(pipeline: Any, key: str) -> Any:
            value = watch(pipeline, key)
            lease.claim()
            return value

        watch = redis_log._watch
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redis_log, "_watch", renewed_here)
            logged.send(batch, fence=fence)
        assert redis_server.client.get("k") == "v" and lease.fence() == fence

    def test_a_lease_that_expired_unclaimed_goes_on_in_its_term(
        self, redis_server: RedisServer
    ) -> None:
        passed: list[str] = []
        lease = Lease(redis_server.client, "leader", 10, on_passed=lambda: passed.append("passed"))
        lease.claim()
        fence = lease.fence()
        redis_server.client.delete("leader")
        lease.claim()
        assert lease.fence() == fence and passed == []

    def test_who_takes_over_begins_a_term_that_never_was(self, redis_server: RedisServer) -> None:
        client: Any = redis_server.client
        terms: list[int] = []
        for _ in range(3):
            lease = Lease(client, "leader", 10)
            lease.claim()
            terms.append(int(lease.fence()[1]))
            client.flushall() if len(terms) == 1 else lease.release()
        assert terms == sorted(set(terms))
        client.set("leader:term", terms[-1] + 10**9)  # as if Redis' clock had been set back
        lease = Lease(client, "leader", 10)
        lease.claim()
        assert int(lease.fence()[1]) == terms[-1] + 10**9 + 1

    def test_what_is_outdated_is_dropped_before_the_new_leader_is_visible(
        self, redis_server: RedisServer
    ) -> None:
        seen: list[tuple[str, str]] = []
        mine = Lease(
            redis_server.client,
            "leader",
            10,
            on_passed=lambda: seen.append(("passed", mine.leader)),
            on_change=lambda: seen.append(("change", mine.leader)),
        )
        mine.claim()
        assert seen == [("change", mine.token)]
        redis_server.client.delete("leader")
        other = Lease(redis_server.client, "leader", 10)
        other.claim()
        seen.clear()
        mine.claim()
        assert seen == [("passed", mine.token), ("change", other.token)] and mine.stands_by()
        other.release()
        seen.clear()
        mine.claim()
        assert seen == [("passed", other.token), ("change", mine.token)] and not mine.stands_by()

    def test_a_redis_that_lost_its_data_is_no_reason_to_forget(
        self, redis_server: RedisServer
    ) -> None:
        passed: list[str] = []
        lease = Lease(redis_server.client, "leader", 10, on_passed=lambda: passed.append("passed"))
        lease.claim()
        fence = lease.fence()
        redis_server.client.flushall()
        lease.claim()
        assert lease.fence() != fence and passed == []

    def test_who_slept_while_another_one_led_learns_of_it(self, redis_server: RedisServer) -> None:
        passed: list[str] = []
        sleeper = Lease(
            redis_server.client, "leader", 10, on_passed=lambda: passed.append("passed")
        )
        sleeper.claim()
        redis_server.client.delete("leader")
        other = Lease(redis_server.client, "leader", 10)
        other.claim()
        other.release()
        sleeper.claim()
        assert passed == ["passed"] and sleeper.leader == sleeper.token


class TestLease:
    def test_the_first_leads_and_the_other_stands_by(
        self, make: Callable[[], MarketData], exchange: Exchange, redis_server: RedisServer
    ) -> None:
        first, second = make(), make()
        first.claim()
        second.claim()
        assert redis_server.client.get(DEFAULT_LEADER_KEY) == first.lease.token
        turn(second)
        assert exchange.requests == []
        turn(first)
        asked = len(exchange.requests)
        turn(second)
        second.maintain()
        assert len(exchange.requests) == asked
        code, body = second.health()
        assert (code, body["status"], body["leader"]) == (200, "standby", first.lease.token)
        assert first.health()[1]["status"] == "ok" and body["instance"] == second.lease.token

    def test_what_was_in_memory_before_a_sleep_is_not_written_after_it(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        """Another instance may have led meanwhile, and its data is newer."""
        sleeper, other = make(), make()
        sleeper.claim()
        turn(sleeper)
        redis_server.client.delete(DEFAULT_LEADER_KEY)  # it expired
        other.claim()
        turn(other)
        other.lease.release()
        redis_server.client.delete("market:ohlcv:BTCUSDT:1h")
        sleeper.maintain()
        assert redis_server.client.get(DEFAULT_LEADER_KEY) == sleeper.lease.token
        assert not redis_server.client.exists("market:ohlcv:BTCUSDT:1h")
        turn(sleeper)
        assert redis_server.client.exists("market:ohlcv:BTCUSDT:1h")

    def test_what_was_on_its_way_when_the_lease_passed_on_is_not_written_later(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        first, second = make(), make()
        first.claim()
        timeframe = first.settings.timeframes[0]
        results = first.fetcher.read(timeframe)
        redis_server.client.delete(DEFAULT_LEADER_KEY)
        second.claim()
        first.claim()
        first.store.take(timeframe, results, time.monotonic())  # a loop that was in the middle
        second.lease.release()
        first.maintain()
        assert first.lease.leader == first.lease.token
        assert not redis_server.client.keys("market:ohlcv:*")

    def test_data_from_before_is_not_written_in_a_new_term(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        """A thread is stopped between collecting the data and sending it, while another instance
        leads; when it resumes, the main thread has claimed a new term."""
        first, second = make(), make()
        first.claim()
        batch_of = first.writer._batch

        def stopped_here(pending: Pending) -> Batch:
            batch = batch_of(pending)
            if not second.lease.leader:
                redis_server.client.delete(DEFAULT_LEADER_KEY)
                second.claim()
                second.lease.release()
                first.claim()
            return batch

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first.writer, "_batch", stopped_here)
            first.refresh(first.settings.timeframes[0])
        assert first.lease.leader == first.lease.token
        assert not redis_server.client.keys("market:ohlcv:*")

    def test_a_leader_that_lost_the_lease_writes_nothing(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        first, second = make(), make()
        first.claim()
        turn(first)
        redis_server.client.delete(DEFAULT_LEADER_KEY)  # as if it had slept past its lease
        second.claim()
        redis_server.client.flushall()
        redis_server.client.set(DEFAULT_LEADER_KEY, second.lease.token)
        turn(first)
        assert redis_server.client.keys("*") == [DEFAULT_LEADER_KEY]
        assert first.health()[1]["status"] == "standby"

    def test_a_lease_that_went_with_what_redis_had_is_taken_again(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        service = make()
        service.claim()
        turn(service)
        redis_server.client.flushall()
        turn(service)
        assert redis_server.client.get(DEFAULT_LEADER_KEY) == service.lease.token
        assert len(redis_server.client.keys("market:ohlcv:*")) == 6

    def test_redis_away_is_no_reason_to_fetch_less(
        self, make: Callable[[], MarketData], exchange: Exchange, redis_server: RedisServer
    ) -> None:
        service = make()
        service.claim()
        turn(service)
        asked = len(exchange.requests)
        redis_server.kill()
        service.maintain()
        turn(service)
        assert len(exchange.requests) > asked
        redis_server.start()
        service.maintain()
        assert len(redis_server.client.keys("market:ohlcv:*")) == 6

    def test_a_clock_of_redis_that_is_off_is_a_problem(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        service, off_s = make(), [-90]
        client = service.writer._client
        client.set_response_callback("TIME", lambda r, **_: (int(r[0]) + off_s[0], int(r[1])))
        service.claim()
        service.maintain()
        assert "90 s behind" in service.health()[1]["problems"]["redis_clock"]
        off_s[0] = 0
        service.maintain()
        assert service.health()[1]["problems"] == {}

    def test_a_redis_that_hangs_is_no_sleep(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        service = make()
        service.claim()
        turn(service)
        redis_server.pause()
        service.maintain()
        time.sleep(1.1)
        redis_server.resume()
        redis_server.client.flushall()
        service.maintain()
        assert len(redis_server.client.keys("market:ohlcv:*")) == 6  # written from memory

    def test_a_stopped_one_takes_no_lease(
        self, make: Callable[[], MarketData], redis_server: RedisServer
    ) -> None:
        service = make()
        service.claim()
        service.stop(until=time.monotonic() + 5)
        service.claim()
        service.writer.commit()
        assert not redis_server.client.exists(DEFAULT_LEADER_KEY)


class TestTwoServices:
    @pytest.mark.slow
    def test_takes_over_from_one_that_stops_dies_or_sleeps(
        self, start_service: Start, exchange: Exchange, redis_server: RedisServer
    ) -> None:
        client: Any = redis_server.client
        first = start_service(**FAST)
        first.wait_for("ok")
        second = start_service(**FAST)
        body = second.wait_for("standby")
        assert body["leader"] == first.health()[1]["instance"]
        assert second.health()[0] == 200

        body = first.health()[1]
        assert first.stop() == 0
        assert client.get(DEFAULT_LEADER_KEY) != body["instance"]  # the lease is released
        second.wait_for("ok", 5)

        third = start_service(**FAST)
        third.wait_for("standby")
        second.process.kill()
        third.wait_for("ok", 3 + 1 + 3)  # LEADER_TTL, a renewal, the fill

        fourth = start_service(**FAST)
        fourth.wait_for("standby")
        third.process.send_signal(signal.SIGSTOP)
        fourth.wait_for("ok", 10)
        third.process.send_signal(signal.SIGCONT)
        third.wait_for("standby", 5)
        before = len(read_log(client, 10_000, "publish"))
        refreshes = len(fourth.lines("event=refresh"))
        time.sleep(6)
        with redis_server.client.pipeline() as pipeline:
            pipeline.get(DEFAULT_LEADER_KEY)
            assert pipeline.execute() == [fourth.health()[1]["instance"]]
        published = len(read_log(client, 10_000, "publish")) - before
        done = len(fourth.lines("event=refresh")) - refreshes
        assert done - 1 <= published - published // 3 <= done + 1  # "all" comes with every third
        assert len(third.lines("event=standby")) == 2  # before it led, and after its sleep

    def test_once_leaves_a_running_one_alone(
        self, start_service: Start, exchange: Exchange, redis_server: RedisServer
    ) -> None:
        running = start_service(**FAST)
        running.wait_for("ok")
        once = start_service("--once", **FAST)
        assert once.process.wait(20) == 1
        assert "keeps Redis filled" in once.log.read_text()


class Writers:
    """Which instance wrote and which held the lease then, in the order of Redis, as MONITOR shows
    it. Each instance has its own message log, which identifies its transactions."""

    def __init__(self) -> None:
        self.lines, self.gaps = 0, -1  # the first call of `missed` is the start
        self.wrote: list[tuple[str, str]] = []  # by transaction: its log, the leader's token
        self._logs: dict[str, str] = {}  # by client address: the log of its transaction
        self._holder, self._held_until = "", 0.0  # epoch seconds

    def missed(self) -> None:
        self.gaps += 1

    def feed(self, line: str) -> None:
        self.lines += 1
        client = line.partition("]")[0].rpartition(" ")[2]
        at, words = float(line.split()[0]), re.findall(r'"((?:[^"\\]|\\.)*)"', line)
        match words:
            case ["SET", key, token, "PX", ttl_ms] if key == DEFAULT_LEADER_KEY:
                self._holder, self._held_until = token, at + int(ttl_ms) / 1000
            case ["XADD", log, *_]:
                self._logs[client] = log
            case ["EXEC"]:
                self.wrote.append((self._logs[client], self._holder * (at <= self._held_until)))


class Lookout(threading.Thread):
    """Checks `keys` ten times a second, and notes which were missing at any time."""

    def __init__(self, url: str, keys: list[str]) -> None:
        super().__init__(name="lookout", daemon=True)
        self._client, self._keys = connect(url), keys
        self.over = threading.Event()
        self.looks = 0
        self.missing: set[str] = set()

    def run(self) -> None:
        while not self.over.wait(0.1):
            found: Any = self._client.mget(self._keys)
            self.missing.update(
                key for key, value in zip(self._keys, found, strict=True) if value is None
            )
            self.looks += 1


@pytest.mark.slow
def test_of_two_only_one_writes_and_no_key_expires_while_leaders_are_killed(
    start_service: Start, exchange: Exchange, redis_server: RedisServer
) -> None:
    """Kills 20 leaders, alternately at a random moment and after the first fill, and starts another
    instance each time. Takes 90 s, most of it waiting for the leases of killed leaders."""
    rng, client = random.Random(1), redis_server.client
    record, writers = Record(), Writers()
    kinds = ("ohlcv:{}:5m", "ohlcv:{}:1h", "price:{}")
    keys = [f"market:{kind}".format(symbol) for symbol in SYMBOLS.split(",") for kind in kinds]
    lookout, listener = Lookout(redis_server.url, keys), Listener(redis_server.url, {0: writers})
    running: dict[str, Service] = {}  # by name
    tokens: dict[str, str] = {}  # by name: the unique part of its token
    led: list[str] = []

    def start(stack: ExitStack) -> None:
        name = f"instance{len(led) + len(running)}"
        door = stack.enter_context(Door(exchange, record, name))
        running[name] = start_service(**FAST, BINANCE_BASE_URL=door.url, MESSAGE_LOG_KEY=name)
        tokens[name] = f":{running[name].process.pid}:"

    def leader() -> str:
        """The running instance that holds the lease, or an empty string."""
        token = str(client.get(DEFAULT_LEADER_KEY))
        return next((name for name in running if tokens[name] in token), "")

    with ExitStack() as stack:
        stack.callback(listener.stop)
        listener.start()
        until(lambda: client.ping() and writers.lines, 5)
        start(stack)
        start(stack)
        until(lambda: client.exists(*keys) == len(keys), 10, what="the first fill")
        stack.callback(lookout.over.set)
        lookout.start()
        while len(led) < 20:
            led.append(until(leader, 10, what="one that leads"))
            if len(led) % 2:
                time.sleep(rng.uniform(0, 1.5))  # before, during or after its first refreshes
            else:
                running[led[-1]].wait_for("ok")
            running.pop(led[-1]).process.kill()
            start(stack)
        led.append(until(leader, 10, what="one that leads"))
        running[led[-1]].wait_for("ok")
        assert not lookout.missing and lookout.is_alive() and lookout.looks > 300
    assert not writers.gaps and not listener.error
    assert [(name, held) for name, held in writers.wrote if tokens[name] not in held] == []
    wrote = [name for name, _ in groupby(name for name, _ in writers.wrote)]
    asked = [name for name, _ in groupby(each.service for each in sorted(record.asked()))]
    assert wrote == [name for name in led if name in wrote] and len(wrote) >= 10  # one at a time
    assert asked == [name for name in led if name in asked] and len(asked) >= len(wrote)


class Sentinel:
    """A master, a replica, and a sentinel that fails over within about 2 s."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.master_port, self.replica_port, self.port = free_port(), free_port(), free_port()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.start(self.master_port)
        self.start(self.replica_port, "--replicaof", "127.0.0.1", str(self.master_port))
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master_port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        self._run(self.port, str(config), "--sentinel")
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/mymaster/0"
        until(self._knows_the_replica, 20, what="the sentinel knows the replica")

    def start(self, port: int, *arguments: str) -> None:
        self._run(
            port,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
            "--dir",
            str(self.folder),
            *arguments,
        )

    def _run(self, port: int, *arguments: str) -> None:
        self.processes[port] = subprocess.Popen(
            [executable(), *arguments], stdout=subprocess.DEVNULL
        )

        def listens() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        until(listens, 10, what=f"port {port}")

    def _knows_the_replica(self) -> bool:
        client: Any = redis.Redis(port=self.port, decode_responses=True)
        return any("ok" in replica.values() for replica in client.sentinel_slaves("mymaster"))

    def kill(self, port: int) -> None:
        self.processes[port].kill()
        self.processes[port].wait()

    def stop(self) -> None:
        for port in self.processes:
            self.kill(port)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Sentinel]:
    running = Sentinel(tmp_path)
    yield running
    running.stop()


class TestSentinel:
    @pytest.mark.slow
    def test_a_fail_over_loses_no_candle(
        self, start_service: Start, exchange: Exchange, sentinel: Sentinel
    ) -> None:
        """Not even one that had not reached the replica when the master died."""
        service = start_service(
            **FAST | {"TIMEFRAMES": "5m:2:60,1h:30:300"}, REDIS_URL=sentinel.url
        )
        service.wait_for("ok")
        master: Any = redis.Redis(port=sentinel.master_port, decode_responses=True)
        replica: Any = redis.Redis(port=sentinel.replica_port, decode_responses=True)
        until(lambda: len(replica.keys("market:ohlcv:*")) == 6, 10)
        updates = MarketCache(connect(sentinel.url), "ta-service").updates("5m")
        assert next(updates) is None and next(updates)

        key = "market:ohlcv:BTCUSDT:1h"
        time.sleep(max(0.0, 4 - time.time() % 30))  # well away from a tick of 1h
        refreshes = len(service.lines("timeframe=1h"))
        older = replica.get(key)
        until(lambda: len(service.lines("timeframe=1h")) > refreshes, 35, what="a refresh of 1h")
        written = master.get(key)
        sentinel.kill(sentinel.master_port)
        replica.config_set("replica-read-only", "no")
        replica.set(key, older, ex=300)
        assert older != written
        until(lambda: replica.get(key) == written, 27, what="it is written again")
        assert len(service.lines("timeframe=1h")) == refreshes + 1  # and not fetched again
        assert replica.info("replication")["role"] == "master"
        service.wait_for("ok", 10)
        assert replica.get(DEFAULT_LEADER_KEY) == service.health()[1]["instance"]
        assert next(updates) is None and next(updates).symbols  # type: ignore[union-attr]
        assert service.lines("event=problem what=redis")
        assert service.lines("event=problem_over what=redis")
