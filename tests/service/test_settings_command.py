"""`market_data.py --settings` and `--env-file`, and what programs say of a misspelt setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.exchange import Exchange
from tests.service.test_service import run
from tests.support import ENVIRON, ROOT, Program, RedisServer, until


def rows(text: str) -> dict[str, list[str]]:
    """Where each setting is from, and its value, by name."""
    found = [line.split(maxsplit=2) for line in text.splitlines() if not line.startswith("warning")]
    return {name: rest for name, *rest in found}


def test_what_is_in_force_and_where_it_is_from() -> None:
    done = run("--settings", MAX_WORKERS="8", SYMBOLS="btcusdt", HEALTH_PORT="")
    assert (done.returncode, done.stderr) == (0, "")
    shown = rows(done.stdout)
    assert len(shown) == 17
    assert shown["MAX_WORKERS"] == ["environment", "8"]
    assert shown["SYMBOLS"] == ["environment", "btcusdt"]
    assert shown["HEALTH_PORT"] == ["default", "8895"]
    assert shown["ALLOWED_HOSTS"] == ["default"]


def test_bad_values_are_shown_with_their_reasons() -> None:
    done = run("--settings", CANDLE_LIMIT="5000", REDIS_URL="redis://:secret@h/x", LEADER_TTL="9")
    assert (done.returncode, done.stderr) == (2, "")
    shown = rows(done.stdout)
    reason = "5000  BAD: must be a whole number from 10 to 1000"
    assert shown["CANDLE_LIMIT"] == ["environment", reason]
    assert shown["REDIS_URL"][1].startswith("redis://***@h/x  BAD: must be like redis://127.0.0.1")
    assert shown["LEADER_TTL"] == ["environment", "9"]
    assert "secret" not in done.stdout


def test_values_that_are_bad_together() -> None:
    done = run("--settings", WEIGHT_LIMIT="20", LEADER_KEY="redis:message_log")
    assert done.returncode == 2
    shown = rows(done.stdout)
    assert shown["WEIGHT_LIMIT"][1].startswith("20  BAD: must be 110 or more for these SYMBOLS")
    assert shown["LEADER_KEY"][1].endswith("BAD: must be another key than MESSAGE_LOG_KEY")


def test_no_password_is_shown() -> None:
    sentinel = "redis+sentinel://u:secret@h:1/m/0?sentinel_username=me&sentinel_password=se@cret"
    proxy = "http://user:secret@proxy.lan:3128"
    done = run("--settings", REDIS_URL=sentinel, HTTPS_PROXY=proxy, all_proxy=proxy)
    assert done.returncode == 0
    assert rows(done.stdout)["HTTPS_PROXY"] == ["environment", "http://***@proxy.lan:3128"]
    assert "secret" not in done.stdout and "cret" not in done.stdout.replace("secret", "")


def test_control_characters_are_escaped() -> None:
    done = run("--settings", NO_PROXY="a\x1b[2J\nSYMBOLS default x", MAX_WORKERS="\x1b[2J")
    assert "\x1b" not in done.stdout
    assert rows(done.stdout)["NO_PROXY"] == ["environment", r"'a\x1b[2J\nSYMBOLS default x'"]


class TestEnvFile:
    def test_counts_instead_of_the_environment(self, tmp_path: Path) -> None:
        file = tmp_path / "env"
        file.write_text('# mine\nMAX_WORKERS="8"\nSYMBOL=BTCUSDT\nDASHBOARD_PORT=1\n')
        done = run("--settings", f"--env-file={file}", LEADER_TTL="9", HTTPS_PROXY="http://x")
        assert (done.returncode, done.stderr) == (0, "")
        shown = rows(done.stdout)
        assert shown["MAX_WORKERS"] == ["file", "8"]
        assert shown["LEADER_TTL"] == ["default", "10"]
        assert "HTTPS_PROXY" not in shown
        assert done.stdout.endswith("\nwarning: SYMBOL is not a setting: did you mean SYMBOLS?\n")

    def test_is_what_is_checked(
        self, tmp_path: Path, redis_server: RedisServer, exchange: Exchange
    ) -> None:
        file = tmp_path / "env"
        file.write_text(
            f"REDIS_URL={redis_server.url}\nBINANCE_BASE_URL={exchange.url}\nSYMBOLS=BTCUSDT\n"
            "MAX_WORKER=8\n"
        )
        done = run("--check", "--env-file", str(file), SYMBOLS="ETHUSDT,SOLUSDT", REDIS_URL="none")
        assert (done.returncode, done.stderr) == (0, "")
        assert "ok    settings  1 symbols need" in done.stdout
        warning = "warn  settings  MAX_WORKER is not one: did you mean MAX_WORKERS?\n"
        assert warning in done.stdout
        assert done.stdout.endswith("The service will work here, 1 to look at.\n")

    def test_a_bad_one_is_an_error(self, tmp_path: Path) -> None:
        file = tmp_path / "env"
        file.write_text("export SYMBOLS=BTCUSDT\n")
        done = run("--settings", "--env-file", str(file))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"market_data: {file}, line 1: must be NAME=value\n"
        done = run("--check", "--env-file", str(tmp_path / "none"))
        assert done.returncode == 2 and "No such file" in done.stderr

    @pytest.mark.parametrize("target", ["check", "settings"])
    def test_make_uses_that_of_the_service_if_there_is_one(
        self, tmp_path: Path, target: str
    ) -> None:
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/.runtime", target]

        def said() -> str:
            environ = os.environ | {"HOME": str(tmp_path)}
            return subprocess.check_output(command, cwd=ROOT, env=environ, text=True).strip()

        assert said() == f".venv/bin/python market_data.py --{target}"
        file = tmp_path / ".config/coinex-market-data.env"
        file.parent.mkdir()
        file.touch()
        assert said() == f".venv/bin/python market_data.py --{target} --env-file {file}"


class TestMisspelt:
    def test_the_service_warns(
        self, tmp_path: Path, redis_server: RedisServer, exchange: Exchange
    ) -> None:
        environ = {
            "REDIS_URL": redis_server.url,
            "BINANCE_BASE_URL": exchange.url,
            "HEALTH_PORT": "0",
            "REFRESH_OFFSET": "5",
        }
        service = Program(tmp_path / "log", ["market_data.py"], environ)
        try:
            [line] = until(lambda: service.lines("event=unknown_setting"), 10, what="a warning")
            assert "level=warning" in line
            assert line.endswith("setting=REFRESH_OFFSET nearest=REFRESH_OFFSET_MS")
        finally:
            service.end()

    def test_a_consumer_warns(self, redis_server: RedisServer) -> None:
        environ = {**ENVIRON, "REDIS_URL": redis_server.url, "PAPER_STAKES": "5", "SYMBOLS": "x"}
        done = subprocess.run(
            [sys.executable, "-m", "consumers.scanner", "--once"],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert "event=unknown_setting setting=PAPER_STAKES nearest=PAPER_STAKE\n" in done.stdout
        assert done.stdout.count("unknown_setting") == 1
