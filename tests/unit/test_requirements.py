"""The locks: all that is installed, at one version each, with hashes."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDERS = (".", "consumers", "demo", "bench", "tests", "tests/clients", "tests/browser")
ENTRY = re.compile(r"([\w.-]+)==([\w.]+)( ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def name(text: str) -> str:
    """The name of a package, as an index writes it."""
    return re.sub(r"[-_.]+", "-", text).lower()


def required(path: Path) -> set[tuple[str, str]]:
    """Name and version of each package that the file names, by its `-r` lines, too."""
    found: set[tuple[str, str]] = set()
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            found |= required(path.parent / line.removeprefix("-r "))
        elif not line.startswith("#"):
            pinned = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", line)
            assert pinned, f"{path}: not one pinned package: {line}"
            found.add((name(pinned[1]), pinned[2]))
    return found


def locked(folder: str) -> list[tuple[str, str, str]]:
    """Name, version and marker of each entry of the folder's lock, which has nothing else in it."""
    lines = (ROOT / folder / "requirements.lock").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    assert ENTRY.sub("", text) == "", "an entry without hashes, or something else"
    return [(entry[1], entry[2], entry[3] or "") for entry in ENTRY.finditer(text)]


def test_each_requirements_file_has_a_lock() -> None:
    files = [path for path in ROOT.glob("*/**/requirements.*") if ".venv" not in path.parts]
    files += ROOT.glob("requirements.*")
    kinds = [
        ROOT / folder / f"requirements.{kind}" for folder in FOLDERS for kind in ("txt", "lock")
    ]
    assert sorted(files) == sorted(path.resolve() for path in kinds)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_lock_has_what_is_required_for_every_python(folder: str) -> None:
    everywhere = {(name, version) for name, version, marker in locked(folder) if not marker}
    assert required(ROOT / folder / "requirements.txt") <= everywhere


def test_the_locks_agree_because_one_venv_has_all_of_them() -> None:
    versions = defaultdict(set)
    for folder in FOLDERS:
        for package, version, marker in locked(folder):
            versions[package, marker].add(version)
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}


def test_no_lock_names_where_packages_are_from() -> None:
    for folder in FOLDERS:
        assert "://" not in (ROOT / folder / "requirements.lock").read_text()


def test_make_installs_from_locks_alone() -> None:
    rules = re.findall(r"^\t@\$\((INSTALL\w*)\) (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert ("INSTALL_LOCKED", "$<") in rules
    [unlocked] = {what for rule, what in rules if what != "$<" or rule != "INSTALL_LOCKED"}
    assert re.fullmatch(r"uv==[0-9.]+", unlocked)  # which makes the locks
