"""`python market_data.py --settings`: which settings are in force, and where each is from."""

from __future__ import annotations

from environment import Environment, SettingsError
from settings import Settings


def show_settings(env: Environment, source: str) -> int:
    """Print all settings of the service, without passwords; those that are set are of the `source`.
    Returns 0, or 2 if one is bad."""
    code = 0
    try:
        Settings.read(env)
    except SettingsError:
        code = 2
    for name, (text, is_set, problem) in env.readings.items():
        _row(name, source if is_set else "default", f"{text}  BAD: {problem}" if problem else text)
    for name, text in env.proxies_and_cas().items():
        _row(name, source, text)
    for name, nearest in env.misspelt().items():
        print(f"warning: {name} is not a setting: did you mean {nearest}?")
    return code


def _row(name: str, source: str, text: str) -> None:
    print(f"{name:<20}{source:<13}{text if text.isprintable() else repr(text)}".rstrip())
