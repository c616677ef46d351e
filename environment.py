"""Environment variables, read by type: each bad value is a sentence that says what is accepted.

For the service and the consumers alike.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from redis_log import connect, redact

T = TypeVar("T")


class SettingsError(ValueError):
    """Its `args`: a sentence for each bad variable."""


class Environment:
    """The variables of `environ`. All that are bad are gathered, for one error."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._problems: list[str] = []

    def read(self, name: str, default: str, parse: Callable[[str], T]) -> T:
        """What `parse` makes of the variable; of `default`, which must be good, where it is unset,
        empty or bad."""
        text = self._environ.get(name, "").strip() or default
        try:
            return parse(text)
        except ValueError as error:
            self._problems.append(f"{name}={redact(text)!r}: {error}")
            return parse(default)

    def check(self) -> None:
        """Raises SettingsError if a variable was bad."""
        if self._problems:
            raise SettingsError(*self._problems)


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
