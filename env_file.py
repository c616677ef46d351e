"""The settings of the installed service, read from its file as systemd reads an EnvironmentFile."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from environment import NAMES, PROXIES_AND_CAS, SettingsError

# Blank or a comment; NAME=value, whose value is quoted parts, then an unquoted one; or a mistake.
_LINE = re.compile(
    r"""[ \t]*(?:
        (?:[#;][^\n]*)?
        |(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=(?P<value>
            (?:[ \t]|'[^']*'|"(?:[^"\\]|\\.)*")*
            (?:(?:[^\s'"\\]|\\.)(?:[^\n\\]|\\.)*)?)
        |(?P<mistake>[^\n]+)
    )(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|((?:[^\s'"\\]|\\.).*)""", re.DOTALL)


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of the file. Raises SettingsError if it cannot be read, and for each line that
    is not NAME=value: systemd would ignore it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(f"cannot read {path}: {reason}") from None
    lines = list(_LINE.finditer(text))
    if wrong := [line.start() for line in lines if line["mistake"]]:
        numbers = [text.count("\n", 0, at) + 1 for at in wrong]
        raise SettingsError(*(f"{path}, line {number}: must be NAME=value" for number in numbers))
    return {line["name"]: _value(line["value"]) for line in lines if line["name"]}


def use_env_file(path: Path, environ: MutableMapping[str, str]) -> None:
    """Let `environ` have the variables of the file, and none of its own settings: the installed
    service does not see those of a shell."""
    variables = read_env_file(path)
    for name in (*NAMES, *PROXIES_AND_CAS):
        environ.pop(name, None)
    environ.update(variables)


def _value(text: str) -> str:
    """What is in quotes, and what follows; a backslash quotes in a way of its own in either."""
    value = ""
    for single, double, plain in _PART.findall(text):
        value += single
        value += re.sub(r'\\(["\\`$]|\n)', _quoted, double)
        value += re.sub(r"(?s)\\(.)", _quoted, plain.rstrip(" \t"))
    return value


def _quoted(found: re.Match[str]) -> str:
    return "" if found[1] == "\n" else found[1]
