"""Environment variables, read by type."""

from __future__ import annotations

from typing import Any

import pytest

from environment import (
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
