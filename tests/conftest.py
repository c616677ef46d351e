"""Fixtures for all tests, whose classes are in `support`, and the profiles of Hypothesis.

`quick` (`make test`) and `deep` (`make test-all`) try the same examples in every run, so a new
failure comes from the change under test. `long` searches further, with new examples each time:
HYPOTHESIS_PROFILE=long .venv/bin/python -m pytest tests/unit/test_properties.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, settings

from demo.exchange import Exchange
from tests.support import Clock, Program, RedisServer, Service, free_port

settings.register_profile(
    "any", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
for name, count in {"quick": 100, "deep": 1000}.items():
    settings.register_profile(
        name, settings.get_profile("any"), max_examples=count, derandomize=True
    )
settings.register_profile("long", settings.get_profile("any"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """New ones for this host: files of whom to trust, of the certificate, and of its key."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    trusted, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(trusted))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return trusted, certificate, key


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as running:
        yield running


@pytest.fixture
def start_service(
    tmp_path: Path, redis_server: RedisServer, exchange: Exchange
) -> Iterator[Callable[..., Service]]:
    """start(*arguments, **environment): the service on `redis_server` and `exchange`."""
    started: list[Service] = []

    def start(*arguments: str, **environ: str) -> Service:
        defaults = {"REDIS_URL": redis_server.url, "BINANCE_BASE_URL": exchange.url}
        port = {"HEALTH_PORT": str(free_port())}
        log = tmp_path / f"service{len(started)}.log"
        started.append(Service(log, list(arguments), {**defaults, **port, **environ}))
        return started[-1]

    yield start
    for service in started:
        service.end()


@pytest.fixture
def start_consumer(tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[..., Program]]:
    """start(name, **environment): a module of `consumers`, run on `redis_server`."""
    started: list[Program] = []

    def start(name: str, **environ: str) -> Program:
        log = tmp_path / f"{name}{len(started)}.log"
        arguments = ["-m", f"consumers.{name}"]
        started.append(Program(log, arguments, {"REDIS_URL": redis_server.url, **environ}))
        return started[-1]

    yield start
    for program in started:
        program.end()
