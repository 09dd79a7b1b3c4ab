"""docs/how-it-is-built.md: every package, script and folder of tests is named there, no other, and no file of gate."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from gate.http import problems
from gate.http.auth import roles
from gate.ledger import Ledger
from gate.ledger.admin import migrate
from gate.model.messages import ProviderReport
from gate.providers import callback
from gate.slots import Semaphore, scripts
from tests.support.pages import block, rows
from tests.support.paths import GATE, ROOT

PAGE = ROOT / "docs" / "how-it-is-built.md"


def linked(*headers: str) -> set[Path]:
    """What the first cells of a table link to, and call by its name."""
    found = re.findall(r"\[`([^`]+)`\]\(([^)]+)\)", " ".join(row[0] for row in rows(PAGE, *headers)))
    paths = {(PAGE.parent / target).resolve(): name for name, target in found}
    assert all(name.split("/")[-1] in (path.name, path.stem) for path, name in paths.items())
    return set(paths)


def test_every_package_is_there() -> None:
    assert linked("package") == {path.parent for path in GATE.glob("*/__init__.py")}
    assert linked("part") == {path.parent for path in GATE.glob("*/*/__init__.py") if path.parent.name != "words"}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_no_page_names_a_file_of_gate(page: Path) -> None:
    """A page that named one would be wrong after each move."""
    if page.name != "CHANGELOG.md":
        assert re.findall(r"\bgate/[\w/]+\.py\b", page.read_text()) == []


def test_every_script_is_there() -> None:
    assert {path.stem for path in linked("script")} == {*scripts.WITH_PRELUDE, *scripts.ALONE}


def test_every_folder_of_tests_is_there() -> None:
    assert linked("folder") == {path.parent for path in (ROOT / "tests").glob("*/__init__.py")}


@pytest.mark.parametrize("module", ["tests.proof.chaos", "bench"])
def test_what_it_says_to_run_can_be_run(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"-m {module} --help" in block(PAGE, "shell")
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")  # in this process: a new one would import all of gate first
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")


def test_the_other_commands_name_what_is_there() -> None:
    for module in re.findall(r"-m ((?:tests|bench)\S*)", block(PAGE, "shell")):
        at = ROOT / module.replace(".", "/")
        assert (at / "__main__.py").is_file() or at.with_suffix(".py").is_file(), module
    for path in re.findall(r"pytest (tests\S+)", block(PAGE, "shell")):
        assert (ROOT / path).exists(), path
    assert (ROOT / ".ci/run").is_file()


def test_names_in_the_recipes_are_those_of_the_code() -> None:
    text = PAGE.read_text().split("## To add something")[1]
    for name, module in (
        ("WITH_PRELUDE", scripts),
        ("open_to", roles),
        ("TABLE", problems),
        ("HEAD", migrate),
        (callback.Callback.__name__, callback),
        (ProviderReport.__name__, callback),
    ):
        assert f"`{name}`" in text and hasattr(module, name)
    assert f"`{Semaphore.__name__}`" in text and f"`{Ledger.__name__}`" in PAGE.read_text()
    headers = [path.read_text() for path in scripts.FOLDER.glob("*.lua")]
    assert all(
        any(f"-- {word}" in header for header in headers) for word in ("Guarantee", "ARGV after the prelude's", "Replies")
    )
