"""Environment variables, read by type: each bad value is a sentence that says what is accepted.

For the service and the consumers alike.
"""

from __future__ import annotations

import difflib
import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from journal import event
from redis_log import connect, redact

T = TypeVar("T")

# The settings of all programs, because they may share one file: what one of them does not read is
# no mistake.
NAMES = (
    "ALLOWED_HOSTS",
    "BINANCE_BASE_URL",
    "CANDLE_LIMIT",
    "DASHBOARD_HOST",
    "DASHBOARD_PORT",
    "HEALTH_HOST",
    "HEALTH_PORT",
    "HEALTH_URL",
    "LEADER_KEY",
    "LEADER_TTL",
    "LOG_LEVEL",
    "MAX_WORKERS",
    "MESSAGE_LOG_KEY",
    "MESSAGE_LOG_MAXLEN",
    "PAPER_FEE_PCT",
    "PAPER_SLIPPAGE_PCT",
    "PAPER_STAKE",
    "REDIS_URL",
    "REFRESH_OFFSET_MS",
    "REQUEST_TIMEOUT",
    "SYMBOLS",
    "TIMEFRAMES",
    "WEIGHT_LIMIT",
)
_PROXIES = ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
# What connections.py takes from the environment.
PROXIES_AND_CAS = (
    *_PROXIES,
    *(name.lower() for name in _PROXIES),
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
)
# By difflib's ratio SYMBOL, REDIS_URI and LOGLEVEL are mistakes; REDIS_HOST is of another program.
ALIKE = 0.85


class SettingsError(ValueError):
    """Its `args`: a sentence for each bad variable."""


class Reading(NamedTuple):
    """A variable as it was read, to be shown."""

    text: str  # without passwords
    is_set: bool  # else `text` is the default
    problem: str  # what is accepted, if it is bad


class Environment:
    """The variables of `environ`. All that are bad are gathered, for one error."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.readings: dict[str, Reading] = {}  # by name

    def read(self, name: str, default: str, parse: Callable[[str], T]) -> T:
        """What `parse` makes of the variable; of `default`, which must be good, where it is unset,
        empty or bad."""
        given = self._environ.get(name, "").strip()
        text = given or default
        self.readings[name] = Reading(redact(text), bool(given), "")
        try:
            return parse(text)
        except ValueError as error:
            self.refuse(name, str(error))
            return parse(default)

    def refuse(self, name: str, problem: str) -> None:
        """A variable that was read is bad, perhaps only together with others."""
        self.readings[name] = self.readings[name]._replace(problem=problem)

    def check(self) -> None:
        """Raises SettingsError if a variable was bad."""
        bad = [(name, reading) for name, reading in self.readings.items() if reading.problem]
        if bad:
            raise SettingsError(*(f"{name}={text!r}: {why}" for name, (text, _, why) in bad))

    def proxies_and_cas(self) -> dict[str, str]:
        """The proxies and CA bundles that are set, without passwords."""
        found = {name: self._environ.get(name, "") for name in PROXIES_AND_CAS}
        return {name: redact(text) for name, text in found.items() if text}

    def warn(self) -> None:
        """Log what is misspelt."""
        for name, nearest in self.misspelt().items():
            event(logging.WARNING, "unknown_setting", setting=name, nearest=nearest)

    def misspelt(self) -> dict[str, str]:
        """What is set and no setting, but almost has the name of one; and that name."""
        nearest: dict[str, str] = {}
        for name in self._environ.keys() - set(NAMES):
            if alike := difflib.get_close_matches(name.upper(), NAMES, 1, ALIKE):
                nearest[name] = alike[0]
        return dict(sorted(nearest.items()))


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def decimal(low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers from `low` to `high`, without exponents."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"must be a number from {low:.12g} to {high:.12g}")
        return float(text)

    return parse


def matching(pattern: str, accepted: str) -> Callable[[str], str]:
    """A parser of texts that match `pattern` as a whole; `accepted` describes them."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {accepted}")
        return text

    return parse


def host_names(text: str) -> tuple[str, ...]:
    """A parser of host names, separated by commas; none is fine."""
    names = tuple(name.strip().lower() for name in text.split(",")) if text else ()
    if not all(re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", name) for name in names):
        raise ValueError("must be host names like trader.example.com,box.local")
    return names


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by its loopback address or name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


host_or_address = matching(r"[\w.:-]+", "a host or address")
message_log_key = matching(r"(?!market:)\S+", "a key without spaces, not one of market:")


def redis_url(text: str) -> str:
    """A parser of Redis URLs."""
    connect(text)  # which connects only when it is used
    return text
