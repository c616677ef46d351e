"""`--check` on the simulated exchange: what each line says, its level, and the exit code."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from binance_client import BinanceClient
from check import check
from demo.exchange import Exchange
from demo.market import symbols
from environment import Environment
from settings import Settings
from tests.service.test_service import run
from tests.support import RedisServer, free_port

THREE = "BTCUSDT,ETHUSDT,SOLUSDT"
REDIS = f"redis://127.0.0.1:{free_port()}/0"
Check = Callable[..., "Said"]


class Said:
    """What --check printed, and its exit code."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        *lines, self.verdict = text.splitlines()
        self.lines = [(line[:6].strip(), line[6:16].strip(), line[16:]) for line in lines]

    def line(self, what: str) -> tuple[str, str]:
        """The level and the text of the only line about `what`."""
        [(level, _, text)] = [line for line in self.lines if line[1] == what]
        return level, text

    def problems(self) -> list[tuple[str, str]]:
        """Level and subject of each line that is not ok."""
        return [line[:2] for line in self.lines if line[0] != "ok"]


@pytest.fixture
def say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> Check:
    """say(exchange or its URL, **environment): --check of three symbols, in this process."""
    monkeypatch.setattr("check.PROBE_PAUSE_S", 0)

    def say(exchange: Exchange | str, **environ: str) -> Said:
        url = exchange if isinstance(exchange, str) else exchange.url
        defaults = {"REDIS_URL": redis_server.url, "BINANCE_BASE_URL": url, "SYMBOLS": THREE}
        defaults["REQUEST_TIMEOUT"] = "20"  # other programs may keep the machine busy
        env = Environment(defaults | environ)
        code = check(Settings.read(env), env)
        said = Said(code, capsys.readouterr().out)
        levels = [level for level, _ in said.problems()]
        assert code == int("FAIL" in levels) and ("NOT" in said.verdict) == bool(code)
        assert redis_server.client.keys("market:*") in ([], ["market:hold"])
        return said

    return say


def paths(exchange: Exchange) -> list[str]:
    return [request.path.rpartition("/")[2] for request in exchange.requests]


class TestProgram:
    def test_exit_0_if_all_is_well(self, redis_server: RedisServer, exchange: Exchange) -> None:
        done = run("--check", REDIS_URL=redis_server.url, BINANCE_BASE_URL=exchange.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert Said(0, done.stdout).problems() == []
        assert done.stdout.endswith("\nThe service will work here.\n")
        assert redis_server.client.dbsize() == 0

    def test_exit_1_if_nothing_is_there(self) -> None:
        done = run("--check", BINANCE_BASE_URL="http://127.0.0.1:1", REDIS_URL=REDIS)
        assert (done.returncode, done.stderr) == (1, "")
        said = Said(1, done.stdout)
        assert said.problems() == [("FAIL", "redis"), ("FAIL", "exchange")]
        assert "Connection refused: check network, DNS" in said.line("exchange")[1]
        assert said.verdict == "The service will NOT work here: 2 to mend."


class TestNeeds:
    def test_all_is_well(self, say: Check, exchange: Exchange) -> None:
        said = say(exchange)
        assert said.problems() == [] and said.code == 0
        assert said.line("settings")[1] == "3 symbols need 10 weight a minute; WEIGHT_LIMIT is 1200"
        assert said.line("weight")[1] == "a klines call weighs 1, documented is 1"
        needed = "10 of 6000 weight in 60 s, 50 of 300000 requests in 300 s"
        assert said.line("limits")[1] == f"{needed}; others on this address use 0"
        assert f"{exchange.url} answers in " in said.line("exchange")[1]
        assert said.line("symbols")[1].startswith("3 of 3 are fresh (newest candle: ")

    def test_a_hundred_symbols_cost_little(self, say: Check) -> None:
        names = symbols(100)
        with Exchange(names) as exchange:
            said = say(exchange, SYMBOLS=",".join(names))
            assert said.problems() == [] and exchange.totals["weight"] <= 150

    def test_a_call_that_weighs_more_than_documented(self, say: Check) -> None:
        with Exchange(weight_factor=2) as exchange:
            said = say(exchange)
        assert said.problems() == [("warn", "weight")] and said.code == 0
        assert "weighs 2, documented is 1: the need is 20, not 10" in said.line("weight")[1]
        assert said.line("limits")[1].startswith("20 of 6000 weight in 60 s, 50 of 300000 requests")

    def test_other_programs_are_not_taken_for_the_weight_of_a_call(
        self, say: Check, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        klines, calls = BinanceClient.klines, iter(range(100))

        def between(client: BinanceClient, *args: object) -> object:
            exchange.clear()
            exchange.fault("used_weight", weight=[30, 90, 90, 200][min(next(calls), 3)])
            return klines(client, *args)

        monkeypatch.setattr(BinanceClient, "klines", between)
        assert say(exchange).problems() == []

    def test_answers_that_do_not_tell_the_weight(
        self, say: Check, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(BinanceClient, "used_weight", lambda _: None)
        assert say(exchange).problems() == [("warn", "weight")]

    @pytest.mark.parametrize("limits", [{"weight_limit": 200}, {"raw_limit": 1000}])
    def test_limits_that_are_too_low(self, say: Check, limits: dict[str, int]) -> None:
        with Exchange(**limits) as exchange:
            said = say(exchange, TIMEFRAMES="5m:1:20")
        assert said.problems() == [("FAIL", "limits")]
        assert said.line("limits")[1].endswith(": take fewer SYMBOLS, or refresh less often")

    def test_others_leave_too_little(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("used_weight", weight=5800)
        said = say(exchange, TIMEFRAMES="5m:1:20")
        assert said.problems() == [("FAIL", "limits")]
        assert "use 5800: find these programs" in said.line("limits")[1]

    def test_others_leave_nothing(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("used_weight", weight=5990)
        said = say(exchange)
        assert said.problems() == [("FAIL", "limits")]
        assert "of 6000 weight is used on this address" in said.line("limits")[1]
        assert paths(exchange) == ["time", "time"]

    def test_a_line_too_slow_for_the_refreshes(self, say: Check) -> None:
        with Exchange(latency_ms=300) as exchange:
            said = say(exchange, MAX_WORKERS="1", TIMEFRAMES="5m:1:20")
        assert said.problems() == [("warn", "exchange")]
        assert "raise MAX_WORKERS" in said.line("exchange")[1]


class TestSymbols:
    def test_an_unknown_one(self, say: Check, exchange: Exchange) -> None:
        said = say(exchange, SYMBOLS="BTCUSDT,FOOUSDT,ETHUSDT,BARUSDT")
        assert said.problems() == [("FAIL", "unknown")]
        assert said.line("unknown")[1] == "FOOUSDT, BARUSDT: not listed: correct SYMBOLS"
        assert said.line("symbols")[1].startswith("2 of 4 are fresh")

    def test_none_but_unknown_ones(self, say: Check, exchange: Exchange) -> None:
        assert ("FAIL", "unknown") in say(exchange, SYMBOLS="FOOUSDT").problems()

    def test_a_halted_one(self, say: Check, exchange: Exchange) -> None:
        exchange.halt("ETHUSDT")
        said = say(exchange)
        assert said.problems() == [("warn", "halted")] and said.code == 0
        assert said.line("halted")[1].startswith("ETHUSDT BREAK (newest candle: ")
        assert said.verdict == "The service will work here, 1 to look at."

    def test_all_halted(self, say: Check, exchange: Exchange) -> None:
        for symbol in THREE.split(","):
            exchange.halt(symbol)
        assert say(exchange).problems() == [("FAIL", "symbols"), ("warn", "halted")]

    def test_an_idle_one(self, say: Check, exchange: Exchange) -> None:
        exchange.idle("ETHUSDT")
        said = say(exchange)
        assert said.problems() == [("warn", "idle")]
        assert said.line("idle")[1].startswith("ETHUSDT: no trade in 24 h")
        assert said.line("symbols")[1].startswith("3 of 3 are fresh")

    def test_a_frozen_one(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("frozen", symbol="ETHUSDT", at=time.time() - 2.7 * 3600)
        said = say(exchange)
        assert said.problems() == [("warn", "frozen")]
        assert "ETHUSDT (newest candle: 3 h old)" in said.line("frozen")[1]

    def test_the_exchange_stands_still(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("frozen", path="klines", at=time.time() // 86400 * 86400 - 3 * 86400)
        exchange.fault("frozen", path="24hr", at=time.time() - 3 * 86400)
        said = say(exchange)
        assert said.problems() == [("FAIL", "symbols")]
        assert "stands still, 3 of 3 are frozen (newest candle: " in said.line("symbols")[1]

    def test_its_clock_stands_still_too(self, say: Check, exchange: Exchange) -> None:
        """That is no reason to set this machine's."""
        exchange.fault("frozen", at=time.time() - 3 * 3600)
        said = say(exchange)
        assert said.problems() == [("warn", "clock"), ("FAIL", "symbols")]
        assert re.match(r"serverTime is -10[78]\d\d s off the Date", said.line("clock")[1])

    def test_answers_of_no_use(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("html", symbol="ETHUSDT", path="klines")
        said = say(exchange)
        assert said.problems() == [("warn", "unread")]
        assert "ETHUSDT (the answer is not JSON" in said.line("unread")[1]

    def test_no_prices(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("status", path="24hr", status=400, code=-1100, msg="Illegal.")
        said = say(exchange)
        assert said.problems() == [("FAIL", "symbols"), ("warn", "unread")]
        assert "BTCUSDT, ETHUSDT, SOLUSDT (HTTP 400: Illegal." in said.line("unread")[1]


class TestRefusals:
    @pytest.mark.parametrize("status", [403, 451])
    def test_a_blocked_address(self, say: Check, exchange: Exchange, status: int) -> None:
        exchange.fault("blocked", status=status)
        said = say(exchange)
        assert said.problems() == [("FAIL", "exchange")] and paths(exchange) == ["time"]
        _, text = said.line("exchange")
        assert text.startswith(f"HTTP {status}: Access blocked: ")
        assert "does not serve the country that you are in: run it elsewhere" in text

    @pytest.mark.parametrize(("kind", "status"), [("hold", 429), ("ban", 418)])
    @pytest.mark.parametrize("path", ["time", "klines"])
    def test_a_ban_is_said_and_not_sat_out(
        self, say: Check, exchange: Exchange, kind: str, status: int, path: str
    ) -> None:
        exchange.fault(kind, path=path, seconds=5)
        said = say(exchange)
        assert said.problems() == [("FAIL", "exchange")]
        _, text = said.line("exchange")
        assert text.startswith(f"HTTP {status}: ") and "; ask again after 2" in text
        assert paths(exchange).count(path) == 1

    def test_a_hold_in_redis(
        self, say: Check, exchange: Exchange, redis_server: RedisServer
    ) -> None:
        hold = {"until": round((time.time() + 900) * 1000), "status": 418}
        redis_server.client.set("market:hold", json.dumps(hold))
        said = say(exchange)
        assert said.problems() == [("FAIL", "exchange")] and exchange.requests == []
        assert "on hold until 2" in said.text and "after HTTP 418 (market:hold" in said.text
        redis_server.client.delete("market:hold")

    @pytest.mark.parametrize("hold", ['{"until": 1000, "status": 418}', "{}", "[1]", "x", "null"])
    def test_what_is_no_hold(
        self, say: Check, exchange: Exchange, redis_server: RedisServer, hold: str
    ) -> None:
        redis_server.client.set("market:hold", hold)
        assert say(exchange).problems() == []

    def test_an_exchange_that_is_down(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("status", status=503)
        assert say(exchange).line("exchange") == ("FAIL", f"{exchange.url}: HTTP 503: wait")

    def test_an_exchange_that_is_silent(self, say: Check, exchange: Exchange) -> None:
        exchange.fault("silent")
        said = say(exchange, REQUEST_TIMEOUT="0.1")
        assert "no whole answer in time: check network" in said.line("exchange")[1]


class TestWay:
    @pytest.fixture(autouse=True)
    def bare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)

    @pytest.fixture
    def secure(self, tmp_path: Path) -> Iterator[tuple[Exchange, Path]]:
        ca, bundle = trustme.CA(), tmp_path / "ca.pem"
        ca.cert_pem.write_to_path(str(bundle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        with Exchange(tls=context) as exchange:
            yield exchange, bundle

    def test_the_ca_bundle(
        self, say: Check, secure: tuple[Exchange, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exchange, bundle = secure
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        said = say(exchange)
        assert said.problems() == []
        way = "127.0.0.1 has 1 IPv4, 0 IPv6 addresses; no proxy"
        assert said.line("network") == ("ok", f"{way}; CA bundle {bundle}")

    def test_an_untrusted_certificate(
        self, say: Check, secure: tuple[Exchange, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name, raising=False)
        _, text = say(secure[0]).line("exchange")
        assert "certificate verify failed" in text and ": let REQUESTS_CA_BUNDLE name" in text

    def test_a_ca_bundle_that_is_missing(
        self, say: Check, secure: tuple[Exchange, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
        _, text = say(secure[0]).line("exchange")
        assert "the CA bundle /nowhere/ca.pem cannot be read: let REQUESTS_CA_BUNDLE name" in text

    def test_a_proxy_is_named_without_credentials(
        self, say: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:s3cret@127.0.0.1:{port}")
        said = say("https://api.binance.us")
        assert said.line("network")[1].startswith(f"by the proxy http://127.0.0.1:{port}; CA ")
        assert (
            f"the proxy 127.0.0.1:{port}: connection failed: Connection refused"
            in said.line("exchange")[1]
        )
        assert "s3cret" not in said.text and "user" not in said.text

    def test_several_addresses(
        self, say: Check, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [(family,) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_INET)]
        monkeypatch.setattr("check.resolve", lambda host, port: found)
        assert "127.0.0.1 has 2 IPv4, 1 IPv6 addresses" in say(exchange).line("network")[1]

    def test_a_name_that_does_not_resolve(
        self, say: Check, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(host: str, port: int) -> None:
            raise OSError(f"the name {host} does not resolve: Name or service not known")

        monkeypatch.setattr("check.resolve", fail)
        said = say(exchange)
        assert said.problems() == [("FAIL", "network")] and exchange.requests == []
        assert "does not resolve: Name or service not known: check" in said.line("network")[1]

    def test_a_resolver_that_hangs(
        self, say: Check, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()
        monkeypatch.setattr("check.resolve", lambda host, port: over.wait(60) and [])
        monkeypatch.setattr("check.CHECK_WITHIN_S", 0.5)
        try:
            said = say(exchange)
        finally:
            over.set()
        assert said.problems() == [("FAIL", "exchange")] and "not done within" in said.text

    @pytest.mark.parametrize("off_s", [-3600, -3, 3, 3600])
    def test_a_clock_that_is_off(self, say: Check, off_s: float) -> None:
        with Exchange(clock=lambda: time.time() + off_s) as exchange:
            said = say(exchange)
        assert said.problems() == [("FAIL", "clock")], said.text
        _, text = said.line("clock")
        assert text.endswith(": use NTP") and ("ahead" if off_s > 0 else "behind") in text
