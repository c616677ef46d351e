"""systemd itself reads a file of settings as env_file.py does."""

from __future__ import annotations

import json

import pytest

from tests.systemd.box import HOME, Box
from tests.unit.test_env_file import LINES

FILE = f"{HOME}/env"
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.mark.parametrize(("text", "variables"), [*LINES, ("export B=1\nC\n1A=1", {})])
def test_as_env_file_does(box: Box, text: str, variables: dict[str, str]) -> None:
    script = 'printf %s "$TEXT" > "$0"'
    box.run("sh", "-c", script, FILE, TEXT=f"FIRST=1\n{text}\nLAST=1").check_returncode()
    unit = ["systemd-run", "--user", "--pipe", "--wait", "--quiet"]
    done = box.run(*unit, f"--property=EnvironmentFile={FILE}", "python3", "-c", SHOW)
    done.check_returncode()
    found = json.loads(done.stdout.splitlines()[-1])
    names = {"FIRST", "LAST", "A", "B", "C", "1A", "URL", "export B"} & found.keys()
    assert {name: found[name] for name in names} == {"FIRST": "1", **variables, "LAST": "1"}
