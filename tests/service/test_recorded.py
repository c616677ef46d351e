"""Recorded answers of the exchange are what the service believes of it.

Over each folder in tests/recorded/, and over one that is recorded from the simulated exchange; then
the recorder itself.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from binance_answers import LIMITS, MAX_CANDLES
from binance_client import BinanceClient
from demo import market, record
from demo.exchange import Exchange
from demo.picture import (
    ACCEPTED,
    ERRORS,
    REFUSALS,
    WEIGHTS,
    Answer,
    Finding,
    differing,
    fields,
    findings,
    judged,
    read_answers,
    weights,
)
from tests.support import free_port

FOLDERS = sorted(path for path in record.RECORDED.iterdir() if path.is_dir())
HALTED = "OLDUSDT"
DEAREST = {"exchangeInfo": 20}  # what a question may weigh at most, 2 if it is not here


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "PAUSE_S", 0.0)
        yield


def made(**options: Any) -> Exchange:
    """A simulated exchange that has the limits of the real one and a delisted symbol."""
    options = {"weight_limit": LIMITS.weight.units} | options
    exchange = Exchange((*market.DEFAULT_SYMBOLS, HALTED), **options)
    exchange.halt(HALTED)
    return exchange


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "simulated"
    with made() as exchange:
        assert record.record(exchange.url, folder) == 0
    return folder


@pytest.fixture(params=["simulated", *FOLDERS], ids=lambda each: getattr(each, "name", each))
def answers(request: pytest.FixtureRequest) -> list[Answer]:
    is_folder = isinstance(request.param, Path)
    return read_answers(request.param if is_folder else request.getfixturevalue("simulated"))


# --- what was recorded ---


def test_the_service_accepts_each_answer(answers: list[Answer]) -> None:
    assert answers
    for answer in answers:
        if answer.status in REFUSALS:
            assert f"HTTP {answer.status}" in judged(answer)
        else:
            assert judged(answer) == ERRORS.get(answer.name, ACCEPTED), answer.name


def test_limits_weights_and_error_codes_are_as_the_project_believes(answers: list[Answer]) -> None:
    assert [found for found in differing(findings(answers)) if found.relied_on] == []


def test_the_weights_are_those_that_the_client_charges() -> None:
    class Charged(Exception):
        pass

    class Limiter:
        def acquire(self, weight: int, give_up_at: float) -> int:
            raise Charged(weight)

    client = BinanceClient("http://127.0.0.1:9", Limiter())  # type: ignore[arg-type]
    calls = {
        "exchangeInfo": lambda: client.exchange_info(["BTCUSDT"]),
        "klines": lambda: client.klines("BTCUSDT", "5m", 3),
        "klines of 1000": lambda: client.klines("BTCUSDT", "5m", MAX_CANDLES),
        "ticker/24hr of 1": lambda: client.tickers(["BTCUSDT"]),
        "ticker/24hr of 20": lambda: client.tickers(list(market.DEFAULT_SYMBOLS[:20])),
    }
    charged = {}
    for kind, call in calls.items():
        with pytest.raises(Charged) as caught:
            call()
        charged[kind] = caught.value.args[0]
    assert charged == WEIGHTS


# --- the recorder ---


def test_a_record_has_all_that_came_and_asks_little(simulated: Path) -> None:
    answers = read_answers(simulated)
    assert {*ERRORS, "ticker-break", "klines-break"} < {answer.name for answer in answers}
    paths = [answer.path.removeprefix("/api/v3/") for answer in answers]
    assert sum(DEAREST.get(path, 2) for path in paths) < 100
    assert set(weights(answers)) == set(WEIGHTS)  # each was measured
    content = json.loads((simulated / "klines-btcusdt-5m.json").read_text())
    assert list(content) == ["question", "asked_at", "status", "headers", "body"]
    params = {"symbol": "BTCUSDT", "interval": "5m", "limit": "5"}
    assert content["question"] == {"path": "/api/v3/klines", "params": params}
    assert content["status"] == 200 and len(json.loads(content["body"])) == 5
    assert content["headers"]["Content-Type"] == "application/json;charset=UTF-8"
    again = {
        name: Answer.of_record(name, answer.as_record())
        for name, answer in ((answer.name, answer) for answer in answers)
    }
    assert list(again.values()) == answers


def test_it_says_who_it_is_and_keeps_no_cookies(tmp_path: Path) -> None:
    with made() as exchange:
        record.record(exchange.url, tmp_path)
        assert set(exchange.totals["clients"]) == {"coinex-market-data-record"}
    assert record.without_secrets({"set-cookie": "x", "Date": "y"}) == {"Date": "y"}


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (418, {"kind": "ban"}),
        (429, {"kind": "hold"}),
        (403, {"kind": "status", "status": 403}),
        (451, {"kind": "status", "status": 451}),
    ],
)
def test_a_refusal_is_recorded_and_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, fault: dict[str, Any]
) -> None:
    folder = tmp_path / "new"
    with made() as exchange:
        exchange.fault(**fault, path="24hr")
        assert record.main(["--url", exchange.url, str(folder)]) == 1
        assert [request.path for request in exchange.requests][3:] == ["/api/v3/ticker/24hr"]
    assert [answer.status for answer in read_answers(folder)] == [200, 200, 200, status]
    assert f"refused: HTTP {status}" in capsys.readouterr().err


def test_without_a_network_it_says_so_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, port = tmp_path / "new", free_port()
    assert record.main(["--url", f"http://127.0.0.1:{port}", str(folder)]) == 1
    said = capsys.readouterr().err
    assert said == f"cannot reach 127.0.0.1:{port}: Connection refused\n"
    assert not folder.exists()


def test_an_exchange_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert record.main(["--url", url, str(tmp_path)]) == 1
    assert "no answer within" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--url", "https://example.com"], ["--url", "http://api.binance.us"], ["{full}"]]
)
def test_it_asks_nobody_else_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "time.json").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        record.main([each.format(full=tmp_path) for each in arguments])
    assert ended.value.code == 2
    assert (tmp_path / "time.json").read_text() == "mine"
    assert "Traceback" not in capsys.readouterr().err


# --- what it finds ---


def test_other_limits_and_broken_answers_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with made(weight_limit=5999) as exchange:
        exchange.fault("high_below_low", path="klines", symbol="BTCUSDT")
        exchange.fault("html", path="time")
        assert record.main(["--url", exchange.url, str(tmp_path)]) == 0
    rows = {found.what: found for found in differing(findings(read_answers(tmp_path)))}
    assert rows["weight for an address"].recorded == "5,999 in 60 s"
    assert "contradicts itself" in rows["klines-btcusdt-4h"].recorded
    assert "not JSON" in rows["time"].recorded
    said = capsys.readouterr().out
    assert "!  weight for an address" in said and "points are as the project believes" in said


def answer(name: str, path: str, body: object, used: int, **params: str) -> Answer:
    headers = {"x-mbx-used-weight-1m": str(used)}
    return Answer(name, f"/api/v3/{path}", params, 1e9 + used, 200, headers, json.dumps(body))


def test_a_weight_is_the_least_that_was_seen_within_a_minute() -> None:
    klines = [answer("k", "klines", [], used, limit="5") for used in (20, 22, 29, 1, 3)]
    assert weights(klines) == {"klines": 2}
    assert weights([*klines, answer("i", "exchangeInfo", {}, 23)]) == {
        "klines": 2,
        "exchangeInfo": 20,
    }
    assert weights([klines[0]]) == weights([]) == {}


def test_new_fields_are_told_but_nothing_fails(simulated: Path) -> None:
    answers = read_answers(simulated)
    before = differing(findings(answers))
    info = next(each for each in answers if each.name == "exchange-info-btcusdt")
    body = info.json
    body["symbols"][0]["newAllowed"] = True
    del body["timezone"]
    found = differing(findings([info._replace(body=json.dumps(body))]))
    assert [each for each in found if each not in before] == [
        Finding("exchange-info-btcusdt: new fields", "none", "symbols.newAllowed", False),
        Finding("exchange-info-btcusdt: fields gone", "none", "timezone", False),
    ]
    assert fields([{"a": [{"b": 1}]}, {"c": [[1]]}]) == {"a", "a.b", "c"}
