"""The benchmark's exchange and its clients, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from bench.exchange import PreparedExchange, over_tls
from bench.local_api import load
from bench.tls import issue
from demo import market
from demo.exchange import Exchange
from health import HealthServer


def test_the_prepared_exchange_answers_as_the_other_one() -> None:
    now = 1795489650.5
    prepared = PreparedExchange(market.DEFAULT_SYMBOLS, 0, 0)
    prepared._clock = lambda: now
    other = Exchange(clock=lambda: now)
    for _ in range(2):
        for limit in (1, 3, 500, 600):
            query = f"symbol=ETHUSDT&interval=1h&limit={limit}"
            answers = [
                each.serve("GET", "/api/v3/klines", query, "x")[0].body
                for each in (prepared, other)
            ]
            assert answers[0] == answers[1]
        now += 3600
    kinds = prepared.totals["kinds"]
    assert kinds["klines 1h 500"][0] == 2 and kinds["klines 1h 500"][1] > 100_000


def test_over_tls_the_exchange_is_the_same_and_its_bundle_has_all_cas(tmp_path: Path) -> None:
    certificate = issue(tmp_path)
    exchange = PreparedExchange(["BTCUSDT"], 0, 0)
    path = "/api/v3/klines?symbol=BTCUSDT&interval=1d&limit=3"
    with exchange, over_tls(exchange, str(certificate.chain), str(certificate.key)) as url:
        answers = [
            requests.get(base + path, verify=verify, timeout=10).json()[:2]
            for base, verify in ((exchange.url, True), (url, str(certificate.bundle)))
        ]
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, verify=requests.certs.where(), timeout=10)
    assert answers[0] == answers[1] != []
    assert exchange.totals["kinds"]["klines 1d 3"][0] == 2
    assert certificate.trusted["SSL_CERT_FILE"] == str(certificate.bundle)
    assert certificate.bundle.read_text().count("BEGIN CERTIFICATE") > 100


def test_clients_of_the_local_api_count_whole_answers() -> None:
    status = 200
    server = HealthServer("127.0.0.1", 0, lambda: (200, {}), lambda *_: (status, b"x" * 200_000))
    server.start()
    port = server.server_address[1]
    free = load(port, 3, 0, 0.5)
    assert free["rate"] > 0 and 0 < free["p50_ms"] <= free["p99_ms"]
    assert 0 < load(port, 3, 50, 1.0)["rate"] <= 51  # no more than requested
    status = 503
    with pytest.raises(ValueError, match="503"):
        load(port, 1, 0, 0.2)
    server.stop()
