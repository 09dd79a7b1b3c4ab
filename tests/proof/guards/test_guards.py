"""Remove each guard from a copy of the tree; its test has to fail then.

A passing test proves nothing before it has been seen to fail. The table of guards is tests/proof/guards/guards.py.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gate.slots import scripts
from tests.proof.billing.shop import need_postgres
from tests.proof.guards.guards import GUARDS, Guard
from tests.proof.guards.marks import FOLDERS, Mark, marks, marks_of, without
from tests.proof.model.safeguards import TABLE
from tests.support.gate_process import gate_environment
from tests.support.paths import ROOT

ALL = os.environ.get("GATE_TEST_GUARDS") == "all"
"""Each run of the tests removes one guard in forty; GATE_TEST_GUARDS=all removes each (half an hour on two processes)."""
NOT_BY_THE_GUARD = re.compile(
    r"^E +(NameError|UnboundLocalError|ImportError|ModuleNotFoundError|SyntaxError)\b", re.MULTILINE
)
"""A test that fails with one of these has met a removal that is not valid, not the loss of the guard."""


def is_in_the_sample(guard: Guard) -> bool:
    """By its name alone, so that another row changes nothing for it."""
    return hashlib.sha256(guard.name.encode()).digest()[0] % 40 == 0


SAMPLE = [guard for guard in GUARDS if ALL or is_in_the_sample(guard)]


@functools.cache
def marked() -> dict[str, list[Mark]]:
    found: dict[str, list[Mark]] = {}
    for mark in marks():
        found.setdefault(mark.name, []).append(mark)
    return found


@functools.cache
def files_of_tests() -> dict[str, list[Path]]:
    """Return, for the name of each test, the files that define it."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE):
            found.setdefault(name, []).append(path)
    return found


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy")
    for part in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def test_each_mark_has_one_row_and_each_row_one_mark() -> None:
    firsts = Counter(mark.name for mark in marks() if not mark.is_second)
    assert [name for name, count in firsts.items() if count > 1] == [], "two places have one name"
    assert sorted(firsts) == sorted(guard.name for guard in GUARDS)
    seconds = Counter(mark.name for mark in marks() if mark.is_second)
    assert seconds == {guard.name: 1 for guard in GUARDS if guard.removal.word == "before"}


def test_each_test_of_a_guard_is_one_function() -> None:
    assert {guard.test: len(files_of_tests().get(guard.test, [])) for guard in GUARDS} == {guard.test: 1 for guard in GUARDS}


def test_each_safeguard_of_the_model_that_has_a_mark_is_a_guard() -> None:
    names = {guard.name for guard in GUARDS}
    assert [row.name for row in TABLE if row.mark and row.mark not in names] == []


def test_each_safeguard_without_a_mark_says_what_holds_it() -> None:
    assert [row.name for row in TABLE if bool(row.mark) == bool(row.unmarked)] == []
    named = {test for row in TABLE for test in re.findall(r"test_\w+", row.unmarked)}
    assert {test: len(files_of_tests().get(test, [])) for test in named} == dict.fromkeys(named, 1)


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_a_removal_changes_the_file_and_leaves_it_valid(guard: Guard) -> None:
    found = marked()[guard.name]
    path = found[0].path
    text = path.read_text()
    changed = without(text, found, guard.removal)
    if path.suffix == ".py":
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    else:
        lua51 = pytest.importorskip("lupa.lua51")
        alone = path.stem in scripts.ALONE or path.name == "_prelude.lua"
        prelude = "" if alone else (path.parent / "_prelude.lua").read_text()
        lua51.LuaRuntime().compile(prelude + changed)
        assert changed != text


def test_a_replacement_names_nothing_of_gate() -> None:
    allowed = {*dir(builtins), *sys.stdlib_module_names, "it", "self", "_"}
    for guard in GUARDS:
        if guard.removal.word == "replace":
            names = {node.id for node in ast.walk(ast.parse(guard.removal.value)) if isinstance(node, ast.Name)}
            assert names <= allowed, guard.name


@pytest.mark.parametrize("guard", SAMPLE, ids=[guard.name for guard in SAMPLE])
def test_without_its_guard_the_test_fails(tree: Path, guard: Guard) -> None:
    (file,) = files_of_tests()[guard.test]
    if file.parent.name == "owner_money":
        need_postgres()
    path = tree / marked()[guard.name][0].path.relative_to(ROOT)
    whole = path.read_text()
    found = [mark for mark in marks_of(path) if mark.name == guard.name]
    test = f"{file.relative_to(ROOT)}::{guard.test}"
    try:
        path.write_text(without(whole, found, guard.removal))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-p", "anyio", "-p", "pytest_timeout", test], cwd=tree, capture_output=True, text=True,
            env=gate_environment(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"), timeout=120,
        )  # fmt: skip
    finally:
        path.write_text(whole)
    assert ended.returncode == 1, f"{test} passes without the guard:\n{ended.stdout[-2000:]}"
    assert " failed" in ended.stdout or " error" in ended.stdout
    assert not NOT_BY_THE_GUARD.search(ended.stdout), f"{test} fails for another reason:\n{ended.stdout[-4000:]}"
