"""Environment variables, read by type."""

from __future__ import annotations

from typing import Any

import pytest

from environment import (
    NAMES,
    Environment,
    SettingsError,
    decimal,
    host_names,
    matching,
    redis_url,
    whole,
)


@pytest.mark.parametrize(
    ("parse", "good", "value", "bad"),
    [
        (whole(1, 64), "32", 32, ["0", "65", "1.0", "-1", "", "x", "1e1", "٣", "9" * 12]),
        (decimal(0.1, 60), "2.5", 2.5, ["0", "60.1", "nan", "inf", "1e1", ".5", "", "-1"]),
        (matching("[a-z]+", "small letters"), "ab", "ab", ["aB", "", "a\n"]),
        (host_names, "Box.local, a", ("box.local", "a"), ["a b", "a,,b", "a:80", "http://a", ".a"]),
        (
            redis_url,
            "redis://h/1",
            "redis://h/1",
            ["h", "redis://h:x/0", "http://h", "redis://h/abc", "rediss://h/1x"],
        ),
    ],
)
def test_parsers_take_what_is_good_and_say_what_they_accept(
    parse: Any, good: str, value: Any, bad: list[str]
) -> None:
    assert parse(good) == value
    for text in bad:
        with pytest.raises(ValueError, match=r"^must be "):
            parse(text)


def test_all_bad_variables_are_gathered_and_no_password_is_shown() -> None:
    env = Environment({"PORT": "x", "REDIS_URL": "redis://:secret/x@h", "FINE": " 7 ", "NONE": " "})
    assert env.read("PORT", "80", whole(0, 99)) == 80
    assert env.read("REDIS_URL", "redis://h/0", redis_url) == "redis://h/0"
    assert env.read("FINE", "1", whole(0, 99)) == 7
    assert env.read("UNSET", "1.5", decimal(0, 9)) == env.read("NONE", "1.5", decimal(0, 9)) == 1.5
    with pytest.raises(SettingsError) as bad:
        env.check()
    port, url = bad.value.args
    assert port == "PORT='x': must be a whole number from 0 to 99"
    assert url.startswith("REDIS_URL='redis://***@h': must be like") and "secret" not in url


def test_nothing_bad_is_no_error() -> None:
    Environment({}).check()


def test_bounds_are_written_as_they_are_accepted() -> None:
    with pytest.raises(ValueError, match=r"must be a number from 0\.01 to 999999999$"):
        decimal(0.01, 999_999_999)("0")


def test_what_was_read_can_be_shown() -> None:
    env = Environment({"PORT": "x", "REDIS_URL": "redis://:secret@h/0", "NO_PROXY": ""})
    env.read("PORT", "80", whole(0, 99))
    env.read("REDIS_URL", "redis://h/0", redis_url)
    env.read("UNSET", "1.5", decimal(0, 9))
    assert env.readings == {
        "PORT": ("x", True, "must be a whole number from 0 to 99"),
        "REDIS_URL": ("redis://***@h/0", True, ""),
        "UNSET": ("1.5", False, ""),
    }
    assert env.proxies_and_cas() == {}
    set_ = {"https_proxy": "http://user:secret@proxy.lan:3128", "SSL_CERT_FILE": "/ca.pem"}
    shown = {"https_proxy": "http://***@proxy.lan:3128", "SSL_CERT_FILE": "/ca.pem"}
    assert Environment(set_).proxies_and_cas() == shown


# Variables of other programs, and of systemd and the unit.
OTHERS = """
    PATH HOME USER LOGNAME HOSTNAME SHELL LANG TERM PWD DISPLAY XDG_RUNTIME_DIR
    DBUS_SESSION_BUS_ADDRESS NOTIFY_SOCKET JOURNAL_STREAM INVOCATION_ID MANAGERPID LISTEN_FDS
    WATCHDOG_USEC SYSTEMD_EXEC_PID PYTHONFAULTHANDLER MALLOC_ARENA_MAX VIRTUAL_ENV REDISCLI_AUTH
    REDIS_HOST REDIS_PORT REDIS_PASSWORD REDIS_DB REDIS_SERVER DATABASE_URL HTTP_PROXY FTP_PROXY
    HTTPS_PROXY NIX_SSL_CERT_FILE SSL_CERT_DIR AWS_CA_BUNDLE BINANCE_API_KEY BINANCE_API_SECRET
    BINANCE_URL HEALTH_CHECK_URL HEALTHCHECK_PORT LOG_FILE LOG_FORMAT WORKERS WEB_CONCURRENCY
    HOST PORT TIMEOUT PIP_DEFAULT_TIMEOUT ALLOWED_ORIGINS
"""


class TestMisspelt:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("SYMBOL", "SYMBOLS"),
            ("TIMEFRAME", "TIMEFRAMES"),
            ("REFRESH_OFFSET", "REFRESH_OFFSET_MS"),
            ("REDIS_URI", "REDIS_URL"),
            ("REDISURL", "REDIS_URL"),
            ("redis_url", "REDIS_URL"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("CANDLES_LIMIT", "CANDLE_LIMIT"),
            ("WEIGHT_LIMITS", "WEIGHT_LIMIT"),
            ("LEADER_TTL_S", "LEADER_TTL"),
            ("REQUEST_TIMEOUT_S", "REQUEST_TIMEOUT"),
            ("DASHBORD_PORT", "DASHBOARD_PORT"),
        ],
    )
    def test_what_almost_has_the_name_of_a_setting(self, name: str, nearest: str) -> None:
        assert Environment({name: "1"}).misspelt() == {name: nearest}

    def test_neither_settings_nor_the_variables_of_other_programs(self) -> None:
        assert Environment(dict.fromkeys([*OTHERS.split(), *NAMES], "1")).misspelt() == {}

    def test_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        Environment({"SYMBOL": "BTCUSDT", "PATH": "/bin"}).warn()
        [line] = caplog.records
        assert line.levelname == "WARNING"
        assert line.getMessage() == "event=unknown_setting setting=SYMBOL nearest=SYMBOLS"
