"""Settings: accepted values, and the errors for all others."""

from __future__ import annotations

import pytest

from environment import SettingsError
from settings import Settings


class TestSettings:
    def test_defaults_are_those_of_the_design(self) -> None:
        settings = Settings.from_env({})
        assert settings.binance_base_url == "https://api.binance.us"
        assert len(settings.symbols) == 29 and settings.symbols[0] == "BTCUSDT"
        assert settings.timeframes == (("5m", 30, 120), ("1h", 120, 300), ("4h", 300, 600))
        assert (settings.candle_limit, settings.health_port) == (500, 8895)
        assert settings.price_timeframe.name == "5m"
        assert settings.weight_a_minute == pytest.approx(82.3)

    @pytest.mark.parametrize(
        ("name", "value", "hint"),
        [
            ("BINANCE_BASE_URL", "https://api.binance.com", "https://api.binance.us"),
            ("BINANCE_BASE_URL", "http://api.binance.us", "https://api.binance.us"),
            ("BINANCE_BASE_URL", "https://api.binance.us.evil.com", "api.binance.us.evil.com"),
            ("BINANCE_BASE_URL", "https://api.binance.us@evil.com", "evil.com"),
            ("BINANCE_BASE_URL", "http://127.0.0.1@evil.com", "evil.com"),
            ("BINANCE_BASE_URL", "http://127.0.0.1:80/api", "loopback"),
            ("BINANCE_BASE_URL", "http://127.0.0.1:port", "loopback"),
            ("BINANCE_BASE_URL", "http://10.0.0.1", "10.0.0.1"),
            ("BINANCE_BASE_URL", "http://[::1", "loopback"),
            ("BINANCE_BASE_URL", "file:///etc/passwd", "loopback"),
            ("SYMBOLS", ",", "BTCUSDT"),
            ("SYMBOLS", "BTC/USDT", "BTCUSDT"),
            ("SYMBOLS", "BTCUSDT,BTCUSDT", "each once"),
            ("SYMBOLS", "BTCUSDT,", "BTCUSDT"),
            ("SYMBOLS", "\xdfUSDT", "BTCUSDT"),
            ("HEALTH_PORT", "http", "65535"),
            ("HEALTH_PORT", "65536", "65535"),
            ("HEALTH_HOST", "a b", "host"),
            ("CANDLE_LIMIT", "5000", "1000"),
            ("CANDLE_LIMIT", "9", "10"),
            ("CANDLE_LIMIT", "1e2", "whole"),
            ("TIMEFRAMES", "7m:30:120", "15m"),
            ("TIMEFRAMES", "5m", "5m:30:120"),
            ("TIMEFRAMES", "5m:120:120", "longer"),
            ("TIMEFRAMES", "5m:0:9", "longer"),
            ("TIMEFRAMES", "5m:30:120,5m:40:120", "once"),
            ("TIMEFRAMES", "4h:300:600", "prices"),
            ("REDIS_URL", "localhost", "redis://127.0.0.1:6379/0"),
            ("REDIS_URL", "redis://host:port/0", "redis://127.0.0.1:6379/0"),
            ("REDIS_URL", "redis://host/0?what=1", "redis://127.0.0.1:6379/0"),
            ("MAX_WORKERS", "0", "64"),
            ("WEIGHT_LIMIT", "19", "from 20 to 100000"),
            ("WEIGHT_LIMIT", "109", "110 or more"),
            ("MESSAGE_LOG_KEY", "market:price:X", "market:"),
            ("MESSAGE_LOG_MAXLEN", "1", "100"),
            ("LOG_LEVEL", "LOUD", "WARNING"),
            ("REQUEST_TIMEOUT", "0", "0.1"),
            ("REQUEST_TIMEOUT", "nan", "0.1"),
            ("REFRESH_OFFSET_MS", "-1", "10000"),
        ],
    )
    def test_a_bad_value_is_named_with_what_is_accepted(
        self, name: str, value: str, hint: str
    ) -> None:
        with pytest.raises(SettingsError) as bad:
            Settings.from_env({name: value})
        assert len(bad.value.args) == 1
        problem = bad.value.args[0]
        assert problem.startswith(f"{name}=") and hint in problem and "\n" not in problem
        assert "@" in value or value.partition("?")[0] in problem

    def test_all_bad_values_are_named_and_no_password(self) -> None:
        environ = {"SYMBOLS": ",", "MAX_WORKERS": "x", "REDIS_URL": "redis://:secret/?#secret@h/0"}
        with pytest.raises(SettingsError) as bad:
            Settings.from_env(environ)
        assert len(bad.value.args) == 3 and "secret" not in str(bad.value)

    def test_what_is_set_but_empty_is_the_default(self) -> None:
        defaults = Settings.from_env({})
        assert Settings.from_env({name.upper(): " " for name in vars(defaults)}) == defaults

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BINANCE_BASE_URL", "https://api.binance.us/"),
            ("BINANCE_BASE_URL", "http://[::1]:80"),
            ("BINANCE_BASE_URL", "http://localhost:18080"),
            ("SYMBOLS", " btcusdt , ETHUSDT "),
            ("REDIS_URL", "rediss://u:p@host:6380/1"),
            ("REDIS_URL", "unix:///run/redis.sock"),
            ("TIMEFRAMES", "1m:10:60"),
            ("REQUEST_TIMEOUT", "2.5"),
        ],
    )
    def test_good_values(self, name: str, value: str) -> None:
        assert Settings.from_env({name: value})
