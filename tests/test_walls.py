"""The walls between the rooms: who may import whom. Read from the source, so that an import inside a function counts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gate.demo.acceptance.with_provider
import pytest

import gate.cli.main
import gate.client
import gate.coordination.jobs
import gate.coordination.notifier
import gate.coordination.queries
import gate.coordination.waiters
import gate.demo.acceptance
import gate.diagnostics.verify
import gate.http.panel.pool_feed
import gate.ledger.admin.api_keys
import gate.ledger.queries
import gate.model.tool
import gate.providers.parsing
import gate.runtime.serve
import gate.simulator.runninghub
import gate.slots.entry_codec
import gate.slots.keys
from tests.support import GATE, ROOT


def names(*modules: ModuleType) -> set[str]:
    return {module.__name__ for module in modules}


SHARED = names(gate, gate.jobs, gate.errors, gate.metrics, gate.patience, gate.shown)
"""The modules that every package may import."""


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(GATE.rglob("*.py"))
    }


MODULES = modules()


def imported(module: str) -> set[str]:
    """The modules of gate that `module` imports while it runs."""
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):  # what only a type checker sees is no import
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in MODULES else node.module for a in node.names}
    return {name for name in found if name in MODULES}


def of(room: str) -> list[str]:
    return [module for module in MODULES if module == room or module.startswith(room + ".")]


def importers(module: ModuleType) -> set[str]:
    return {name for name in MODULES if module.__name__ in imported(name)}


def outside(room: str) -> set[str]:
    return {name for module in of(room) for name in imported(module)} - set(of(room))


@pytest.mark.parametrize("room", ["gate.slots", "gate.ledger"])
def test_the_stores_import_nothing_above_them_and_not_each_other(room: str) -> None:
    assert outside(room) <= SHARED


def test_keeper_reaches_the_stores_by_their_faces() -> None:
    assert outside("gate.keeper") <= SHARED | names(
        gate.slots,
        gate.slots.entry_codec,
        gate.slots.keys,
        gate.ledger,
        gate.ledger.admin.api_keys,
        gate.providers.parsing,
        gate.model.tool,
        gate.coordination.waiters,
    )


def test_http_reaches_the_stores_through_the_gatekeeper() -> None:
    assert outside("gate.http") <= SHARED | {
        *names(
            gate.coordination.jobs, gate.coordination.queries, gate.http.panel.pool_feed, gate.ledger.queries, gate.model.tool
        ),
        *of("gate.providers"),
    }


def test_providers_only_read_what_they_are_handed() -> None:
    """They are pure: no store, no network, no clock of their own."""
    assert outside("gate.providers") <= names(gate.errors, gate.jobs)
    spoken = re.compile(
        r"^\s*(import|from) (asyncio|httpx2|os|pathlib|redis|requests|socket|sqlalchemy|time|urllib)\b", re.MULTILINE
    )
    assert not [name for name in of("gate.providers") if spoken.search(MODULES[name].read_text())]
    assert not [name for name in of("gate.providers") if re.search(r"\b(now_ms|utcnow|now)\(", MODULES[name].read_text())]


def test_the_simulator_knows_nobody_and_is_the_demos_alone() -> None:
    """What serves must not be able to mistake it for the provider: the one way to it is `gate demo --provider`, when it is asked for."""
    assert imported(gate.simulator.runninghub.__name__) == set()
    assert importers(gate.simulator.runninghub) == names(gate.demo.acceptance.with_provider)
    assert importers(gate.demo.acceptance.with_provider) == names(gate.cli.main)
    serving = sorted(names(gate.cli.main, gate.runtime.serve))
    absent = names(gate.simulator.runninghub, gate.demo.acceptance, gate.demo.acceptance.with_provider)
    say = f"import sys, {', '.join(serving)}; print([name for name in sys.modules if name in {absent!r}])"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_verify_shares_nothing_with_the_writers() -> None:
    assert imported(gate.diagnostics.verify.__name__) == names(gate.errors)


def test_the_client_imports_nothing_of_the_server() -> None:
    assert outside("gate.client") <= names(gate, gate.jobs)
    assert not {name for name in MODULES if not name.startswith("gate.client") and "gate.client" in imported(name)}


def test_the_client_comes_without_the_weight_of_the_server() -> None:
    """As its user pays for it: in a process of its own."""
    heavy = (
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "redis",
        "sqlalchemy",
        "alembic",
        "typer",
        gate.coordination.jobs.__name__,
    )
    say = f"import sys, gate.client; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_sql_is_spoken_in_the_ledger_only_and_redis_in_slots_only() -> None:
    def speak(language: str) -> set[str]:
        spoken = re.compile(rf"^(import|from) {language}\b", re.MULTILINE)
        return {name for name, path in MODULES.items() if spoken.search(path.read_text())}

    assert {name for name in speak("sqlalchemy") if not name.startswith("gate.ledger")} == names(gate.diagnostics.verify)
    assert {name for name in speak("redis") if not name.startswith("gate.slots")} == names(
        gate.diagnostics.verify, gate.coordination.notifier
    )


def test_there_are_no_circles() -> None:
    # A package's own face imports its rooms; the rooms name each other, never the face.
    below = {module: imported(module) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module not in done:
            for other in below[module]:
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_files_are_a_page_or_two() -> None:
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 440}
    assert not long
