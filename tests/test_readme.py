"""What README says is so: its commands are run, in order, against a gate that was started as it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gate.settings import Settings
from tests.support import ROOT, Served, gate_environment

README = (ROOT / "README.md").read_text()
TOOLS = ("curl", "redis-cli")
END = "---- end of a command ----"


def transcript() -> list[tuple[str, str]]:
    """The console blocks: each command with the output that stands below it."""
    steps: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], ""))
            else:
                command, said = steps[-1]
                steps[-1] = (command, said + line + "\n")
    return steps


def pattern(said: str) -> str:
    """`…` stands for anything; a line of its own for any lines."""
    return ".*?".join(re.escape(part) for part in _lines(said).split("…"))


def _lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"the page is played with {' and '.join(TOOLS)}"
)
def test_the_page_can_be_played_from_top_to_bottom(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gate").write_text(f'#!/bin/sh\nexec {sys.executable} -m gate "$@"\n')
    (programs / "gate").chmod(0o755)
    (tmp_path / "lua").symlink_to(ROOT / "lua")
    with Served(tmp_path) as served:
        here = served.url.removeprefix("http://")
        steps = [
            (command.replace("127.0.0.1:8000", here), said.replace("127.0.0.1:8000", here)) for command, said in transcript()
        ]
        script = "\n".join(f"{command}\necho; echo '{END}'" for command, _ in steps)
        environment = gate_environment(PATH=f"{programs}:{os.environ['PATH']}")
        played = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
    outputs = played.stdout.split(END)
    assert len(outputs) == len(steps) + 1, played.stderr
    for (command, said), output in zip(steps, outputs, strict=False):
        text = _lines(output)
        assert re.fullmatch(pattern(said), text, flags=re.DOTALL), (
            f"$ {command}\n{text}\n-- README says:\n{said}{played.stderr}"
        )


def test_its_python_runs(tmp_path: Path) -> None:
    (page,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with Served(tmp_path) as served:
        page = page.replace("http://127.0.0.1:8000", served.url)
        done = subprocess.run([sys.executable, "-c", page], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("completed {'url': 'fox.png'}\ncancelled\n", "")


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `GATE_(\w+)` \| `?([^|`]*?)`? \|", README, flags=re.MULTILINE))
    fields = {
        name.upper(): field.default
        for name, field in Settings.model_fields.items()
        if name not in ("pools", "tools", "providers")
    }
    assert rows.keys() == fields.keys()
    for name, default in fields.items():
        if default is not None:
            assert rows[name] == (str(default).lower() if isinstance(default, bool) else str(default))


def test_every_route_is_in_the_table(served: Served) -> None:
    said = set(re.findall(r"^\| `(GET|PUT|POST) (/[^`]*)` \|", README, flags=re.MULTILINE))
    paths = served.http.get("/openapi.json").json()["paths"]
    assert said == {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_the_codes_it_names_are_those_of_the_table_of_errors() -> None:
    from gate.http.problems import TABLE

    named = README.split("with a stable `code`:")[1].split("\n\n")[0]
    found = set(re.findall(r"`(\w+)`", named))
    assert found == {code for _, code, _ in TABLE.values()} | {"too_large"}
    for status, code, _ in TABLE.values():
        assert re.search(rf"{status}[^·]*`{code}`", named)


def test_the_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
