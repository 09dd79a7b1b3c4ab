"""The walls between packages. The contracts are in pyproject.toml ([tool.importlinter]); here is what they cannot say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gate.cli.main
import gate.client
import gate.coordination.jobs
import gate.runtime.serve
from tests.support.paths import GATE, ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(GATE.rglob("*.py"))
}
LINES_MAX = 500


def loaded_with(module: str, *names: str) -> list[str]:
    """Import a module in a process of its own, and return those of `names` that came with it."""
    say = f"import sys, {module}; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return list(re.findall(r"'([^']+)'", done.stdout))


def test_every_module_is_in_a_package() -> None:
    assert {path.name for path in GATE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_providers_read_no_clock() -> None:
    pages = [path for name, path in MODULES.items() if name.startswith("gate.providers")]
    assert pages and not [path for path in pages if re.search(r"\b(now_ms|utcnow|now)\(", path.read_text())]


def test_a_server_does_not_load_the_simulator() -> None:
    for module in (gate.cli.main.__name__, gate.runtime.serve.__name__):
        assert loaded_with(module, "gate.simulator", "gate.demo") == []


def test_the_client_does_not_load_the_server() -> None:
    heavy = ("fastapi", "starlette", "uvicorn", "pydantic", "redis", "sqlalchemy", "alembic", "typer")
    assert loaded_with(gate.client.__name__, *heavy, gate.coordination.jobs.__name__) == []


def test_a_file_is_a_page_or_two() -> None:
    assert not {name: lines for name, path in MODULES.items() if (lines := _lines(path)) > LINES_MAX}


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())
