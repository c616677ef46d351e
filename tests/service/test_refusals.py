"""A Redis that answers, but with errors: each kind is reported as what it is, and recovers."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.exchange import Exchange
from market_data import MarketData
from redis_log import connect
from settings import Settings
from tests.support import RedisServer, executable, free_port, until

USER = "market:secret"  # name and password of an account in Redis
Refusal = Callable[[RedisServer, Path], AbstractContextManager[None]]


def acl(client: Any, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", "market", "on", *rules)


@contextmanager
def loading(server: RedisServer, folder: Path) -> Iterator[None]:
    """Redis takes 4 s to load the 80 MB that it saved, and answers clients after every 2 MB."""
    client: Any = server.client
    client.config_set("rdbcompression", "no")
    client.config_set("dir", str(folder))
    client.execute_command("DEBUG", "POPULATE", "1600", "filler", "50000")
    client.save()
    server.kill()
    server.process = subprocess.Popen(
        [
            executable(),
            "--port",
            str(server.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
            "--key-load-delay",
            "2500",
        ],
        stdout=subprocess.DEVNULL,
    )

    def loads() -> bool:
        try:
            return not client.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False

    until(loads, 10, what="it loads")
    yield
    until(server.answers, 20, what="it has loaded")


@contextmanager
def full(server: RedisServer, _: Path) -> Iterator[None]:
    server.client.config_set("maxmemory", "1")
    yield
    server.client.config_set("maxmemory", "0")


@contextmanager
def not_saving(server: RedisServer, folder: Path) -> Iterator[None]:
    """Redis' folder is gone, so no snapshot can be saved."""
    client: Any = server.client
    gone = folder / "gone"
    gone.mkdir()
    client.config_set("dir", str(gone))
    client.config_set("save", "3600 1")
    gone.rmdir()
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 5)
    yield
    client.config_set("dir", str(folder))
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", 5)


@contextmanager
def read_only(server: RedisServer, _: Path) -> Iterator[None]:
    client: Any = server.client
    client.replicaof("127.0.0.1", str(free_port()))
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def without_master(server: RedisServer, folder: Path) -> Iterator[None]:
    server.client.config_set("replica-serve-stale-data", "no")
    with read_only(server, folder):
        yield


@contextmanager
def locked(server: RedisServer, _: Path) -> Iterator[None]:
    client: Any = server.client
    client.config_set("requirepass", "secret")
    client.client_kill_filter(_type="normal", skipme=True)
    yield
    client.config_set("requirepass", "")


@contextmanager
def another_password(server: RedisServer, _: Path) -> Iterator[None]:
    acl(server.client, "resetpass", ">another")
    server.client.client_kill_filter(_type="normal", skipme=True)
    yield
    acl(server.client, "resetpass", ">secret")


@contextmanager
def no_permission(server: RedisServer, _: Path) -> Iterator[None]:
    acl(server.client, "resetkeys", "~paper:*")
    yield
    acl(server.client, "allkeys")


@pytest.mark.parametrize(
    ("refusal", "said", "user"),
    [
        pytest.param(loading, "is loading the dataset", "", id="LOADING"),
        pytest.param(full, "command not allowed when used memory", "", id="OOM"),
        pytest.param(not_saving, "is configured to save RDB", "", id="MISCONF"),
        pytest.param(read_only, "You can't write against a read only", "", id="READONLY"),
        pytest.param(without_master, "Link with MASTER is down", "", id="MASTERDOWN"),
        pytest.param(locked, "Authentication required", "", id="NOAUTH"),
        pytest.param(another_password, "invalid username-password pair", USER, id="WRONGPASS"),
        pytest.param(no_permission, "permissions to access", USER, id="NOPERM"),
    ],
)
def test_a_refusal_shows_as_what_it_is_costs_no_data_and_mends(
    redis_server: RedisServer,
    exchange: Exchange,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    refusal: Refusal,
    said: str,
    user: str,
) -> None:
    caplog.set_level(logging.INFO, "coinex")
    acl(redis_server.client, "allkeys", "+@all", "allchannels", ">secret")
    environ = {
        "TIMEFRAMES": "5m:5:60,1h:7:60",
        "SYMBOLS": "BTCUSDT,ETHUSDT",
        "BINANCE_BASE_URL": exchange.url,
        "REQUEST_TIMEOUT": "1",
    }
    url = redis_server.url.replace("//", f"//{user}@" if user else "//")
    service = MarketData(Settings.from_env(environ), connect(url))

    def turn() -> None:
        for timeframe in service.settings.timeframes:
            service.refresh(timeframe)

    service.claim()
    turn()
    assert service.health()[1]["status"] == "ok"
    caplog.clear()
    with refusal(redis_server, tmp_path):
        service.maintain()
        assert said in service.health()[1]["problems"]["redis"]
        asked = len(exchange.requests)
        turn()  # its results are held, and served
        service.maintain()
        assert len(exchange.requests) > asked
        code, body = service.health()
        assert (code, body["status"], body["redis"]["up"]) == (503, "down", False)
        assert said.split()[-1] in body["problems"]["redis"]
        assert [part["fresh"] for part in (*body["timeframes"].values(), body["prices"])] == [2] * 3
        [line] = [message for message in caplog.messages if "what=redis" in message]
        assert line.startswith("event=problem what=redis reason=") and said in line
    service.maintain()
    assert service.health()[1]["status"] == "ok"
    lines = [message for message in caplog.messages if "what=redis" in message]
    assert lines[1:] == ["event=problem_over what=redis"]
    for feed, held in service.store.view().held.items():
        assert redis_server.client.get(feed.key) == held.json().decode()
    service.stop(until=time.monotonic() + 5)
