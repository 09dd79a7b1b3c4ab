"""docs/how-it-is-built.md: every room, file, script and folder of tests is named there, and no other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gate.providers import callback
from gate.slots import scripts
from tests import test_walls
from tests.pages import block, rows
from tests.support import ROOT

PAGE = ROOT / "docs" / "how-it-is-built.md"
GATE = ROOT / "gate"


def linked(*headers: str) -> set[Path]:
    """What the first cells of a table link to, and call by its name."""
    found = re.findall(r"\[`([^`]+)`\]\(([^)]+)\)", " ".join(row[0] for row in rows(PAGE, *headers)))
    paths = {(PAGE.parent / target).resolve(): name for name, target in found}
    assert all(name.strip("/") in (path.name, path.stem) for path, name in paths.items())
    return set(paths)


def test_every_room_and_every_file_of_gate_is_there() -> None:
    rooms = {path.parent for path in GATE.glob("*/__init__.py")}
    assert linked("room") == rooms
    files = {path for path in GATE.glob("*.py") if not path.name.startswith("__")}
    known = {GATE / f"{name.removeprefix('gate.')}.py" for name in test_walls.SHARED - {"gate"}}
    assert linked("file") == files - known
    (sentence,) = re.findall(r"^All may know (.*?) The walls", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert {GATE / name for name in re.findall(r"`(\w+\.py)`", sentence)} == known


def test_every_script_is_there() -> None:
    assert {path.stem for path in linked("script")} == {*scripts.WITH_PRELUDE, *scripts.ALONE}


def test_every_folder_of_tests_is_there() -> None:
    assert linked("folder") == {path.parent for path in (ROOT / "tests").glob("*/__init__.py")}


@pytest.mark.parametrize("module", ["tests.chaos", "bench"])
def test_what_it_says_to_run_can_be_run(module: str) -> None:
    assert f"-m {module} --help" in block(PAGE, "shell")
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_other_commands_name_what_is_there() -> None:
    for module in re.findall(r"-m ((?:tests|bench)\S*)", block(PAGE, "shell")):
        at = ROOT / module.replace(".", "/")
        assert (at / "__main__.py").is_file() or at.with_suffix(".py").is_file(), module
    for path in re.findall(r"pytest (tests\S+)", block(PAGE, "shell")):
        assert (ROOT / path).exists(), path
    assert (ROOT / ".ci/run").is_file()


def test_names_in_the_recipes_are_those_of_the_code() -> None:
    from gate.http import doors, problems
    from gate.ledger import schema

    text = PAGE.read_text().split("## To add something")[1]
    for name, room in (
        ("WITH_PRELUDE", scripts),
        ("TABLE", doors),
        ("TABLE", problems),
        ("HEAD", schema),
        ("Callback", callback),
    ):
        assert f"`{name}`" in text and hasattr(room, name)
    headers = [path.read_text() for path in scripts.FOLDER.glob("*.lua")]
    assert all(
        any(f"-- {word}" in header for header in headers) for word in ("Guarantee", "ARGV after the prelude's", "Replies")
    )
