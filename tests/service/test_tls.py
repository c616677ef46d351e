"""The running service on an exchange that speaks TLS, and behind a proxy."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.exchange import Exchange
from tests.support import Service, free_port, until

Start = Callable[..., Service]


@pytest.fixture
def https(certificates: tuple[Path, Path, Path]) -> Iterator[Exchange]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificates[1:])
    with Exchange(tls=tls) as exchange:
        yield exchange


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_fills_over_tls_on_kept_connections(
    start_service: Start, https: Exchange, certificates: tuple[Path, Path, Path], variable: str
) -> None:
    once = start_service("--once", BINANCE_BASE_URL=https.url, **{variable: str(certificates[0])})
    assert once.process.wait(60) == 0
    requests = sum(https.totals["paths"].values())
    assert requests >= 90 and https.totals["connections"] <= 33  # MAX_WORKERS, and one broken


def test_a_certificate_that_nobody_trusts_is_refused_and_named(
    start_service: Start, https: Exchange
) -> None:
    service = start_service(BINANCE_BASE_URL=https.url)
    until(lambda: service.lines("event=fetch_failing"), 20)
    assert "certificate verify failed" in service.lines("event=fetch_failing")[0]
    assert not https.requests


def test_no_proxy_is_asked_for_a_loopback_address(start_service: Start, exchange: Exchange) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    once = start_service("--once", HTTP_PROXY=nobody, HTTPS_PROXY=nobody, ALL_PROXY=nobody)
    assert once.process.wait(60) == 0 and exchange.requests
