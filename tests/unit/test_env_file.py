"""The file of settings: read as systemd reads it, and the example of one."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from consumers import dashboard, paper_trader, scanner, ta_service
from env_file import read_env_file, use_env_file
from environment import NAMES, PROXIES_AND_CAS, Environment, SettingsError
from settings import Settings
from tests.support import ROOT

EXAMPLE = ROOT / "coinex-market-data.env.example"
# A line of the file, and the variables that it sets. tests/systemd/ asks systemd itself.
LINES = [
    ("A=1", {"A": "1"}),
    ("", {}),
    ("A=", {"A": ""}),
    ("# A=1\n ; B=2\nC=3", {"C": "3"}),
    ("  A =  one two \t", {"A": "one two"}),
    ("A=1 # not a comment", {"A": "1 # not a comment"}),
    ("A='one ' \nB=\" two\"", {"A": "one ", "B": " two"}),
    ("A='a\"\\$b'", {"A": 'a"\\$b'}),
    ('A="a\'\\"\\$\\`\\\\\\n"', {"A": "a'\"$`\\\\n"}),
    ("A='one' \"two\" three", {"A": "onetwothree"}),
    ('A=it\'s\nB=a"b"', {"A": "it's", "B": 'a"b"'}),
    ("A=a\\b\\\\c", {"A": "ab\\c"}),
    ("A=one\\\ntwo", {"A": "onetwo"}),
    ('A="one\\\ntwo\nthree"', {"A": "onetwo\nthree"}),
    ("A=$HOME`x`", {"A": "$HOME`x`"}),
    ("A=1\nA=2", {"A": "2"}),
    ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ("URL=redis://u:p%40@h/0?a=b&c=d", {"URL": "redis://u:p%40@h/0?a=b&c=d"}),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "coinex-market-data.env"


class TestReadEnvFile:
    @pytest.mark.parametrize(("text", "variables"), LINES)
    def test_as_systemd_does(self, file: Path, text: str, variables: dict[str, str]) -> None:
        file.write_bytes(text.encode())
        assert read_env_file(file) == variables
        file.write_bytes(f"FIRST=1\n{text}\nLAST=1".encode())
        assert read_env_file(file) == {"FIRST": "1", **variables, "LAST": "1"}

    def test_what_systemd_would_ignore_is_an_error(self, file: Path) -> None:
        file.write_text("A=1\nexport B=secret\n\nSYMBOLS\n1A=1\nC='open\n=x\n")
        with pytest.raises(SettingsError) as bad:
            read_env_file(file)
        assert bad.value.args == tuple(
            f"{file}, line {number}: must be NAME=value" for number in (2, 4, 5, 6, 7)
        )

    def test_a_file_that_cannot_be_read(self, file: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=f"cannot read {file}: No such file or directory"):
            read_env_file(file)
        with pytest.raises(SettingsError, match="Is a directory"):
            read_env_file(tmp_path)
        file.write_bytes(b"A=\xff")
        with pytest.raises(SettingsError, match="not UTF-8"):
            read_env_file(file)

    def test_instead_of_the_settings_of_the_shell(self, file: Path) -> None:
        file.write_text("SYMBOLS=BTCUSDT\n")
        shell = {"SYMBOLS": "X", "REDIS_URL": "x", "https_proxy": "x", "PATH": "/bin"}
        use_env_file(file, shell)
        assert shell == {"SYMBOLS": "BTCUSDT", "PATH": "/bin"}


class Stop(Environment):
    """Ends a program as soon as it has read its settings."""

    def check(self) -> None:
        raise SettingsError


def defaults_in_the_code() -> dict[str, str]:
    """The defaults of all settings, by name, as the programs read them."""
    found: dict[str, str] = {}
    for main in (dashboard.main, paper_trader.main, scanner.main, ta_service.main):
        env = Stop({})
        with pytest.raises(SettingsError):
            main(env, argparse.Namespace())
        found |= {name: reading.text for name, reading in env.readings.items()}
    env = Environment({})
    Settings.read(env)
    return found | {name: reading.text for name, reading in env.readings.items()}


class TestExample:
    def test_changes_nothing(self) -> None:
        assert read_env_file(EXAMPLE) == {}

    def test_names_each_setting_with_its_default(self, file: Path) -> None:
        text = EXAMPLE.read_text()
        names = [line[1:].partition("=")[0] for line in text.splitlines() if is_setting(line)]
        assert len(names) == len(set(names))
        file.write_text("".join(f"{line[1:]}\n" for line in text.splitlines() if is_setting(line)))
        proxies_and_cas = {name: "" for name in PROXIES_AND_CAS if name.isupper()}
        assert read_env_file(file) == defaults_in_the_code() | proxies_and_cas

    def test_says_what_each_setting_means(self) -> None:
        for block in EXAMPLE.read_text().split("\n\n")[1:]:
            lines = block.strip().split("\n")
            assert lines[0].startswith("# "), block
            assert all(is_setting(line) == (not line.startswith("# ")) for line in lines), block


def is_setting(line: str) -> bool:
    return line.startswith("#") and not line.startswith("# ") and line != "#"


def test_names_are_those_that_the_programs_read() -> None:
    assert set(NAMES) == set(defaults_in_the_code())


def test_the_readme_names_each_setting() -> None:
    text = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    assert {name for name in (*NAMES, *PROXIES_AND_CAS) if name.isupper()} == set(
        re.findall("`([A-Z_]+)`", text)
    ) - {"DEBUG", "INFO", "WARNING", "ERROR"}
