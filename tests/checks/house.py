"""Figures of the structure of gate/: `python -m tests.checks.house [CHECKOUT]` prints them, one a line.

They are read from the source of any checkout, so that two of them can be compared. The moves of an acquire are counted in the
checkout that this module belongs to: one admission through the services, on a real Valkey and SQLite, after one to warm up.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import math
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parents[2]
FORBIDDEN = re.compile(r"\b(whoever|whomever|somebody|anybody|nobody|everybody|he|his|him|himself)\b", re.IGNORECASE)
"""Words that the prose of gate does without: things are "it", people have a role."""
LINES_MAX = 40
PARAMETERS_MAX = 6
SETTLED_S = 0.3
"""Pause (s) after the admission that warms up, until what it has set off is done."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(root: Path) -> dict[str, Path]:
    """Return the modules of gate by their dotted names."""
    found = {}
    for path in sorted((root / "gate").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


def imports(root: Path) -> dict[str, set[str]]:
    """Return what each module imports of gate, for type checkers too."""
    known = modules(root)
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {one if one in known else node.module for one in whole}
    return {name: {one for one in found[name] if one in known and one != name} for name in known}


def circles(root: Path) -> int:
    """Count the groups of modules that import each other."""
    below, index, low, stack, groups = imports(root), dict[str, int](), dict[str, int](), list[str](), 0

    def visit(name: str) -> None:
        nonlocal groups
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in below[name]:
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            size = len(stack) - stack.index(name)
            del stack[-size:]
            groups += size > 1

    for name in below:
        if name not in index:
            visit(name)
    return groups


def arrows(root: Path) -> int:
    """Count pairs of packages (or loose modules) of which one imports the other."""
    rooms = {name: ".".join(name.split(".")[:2]) for name in modules(root)}
    return len(
        {(rooms[name], rooms[other]) for name, found in imports(root).items() for other in found}
        - {(r, r) for r in rooms.values()}
    )


def functions(root: Path) -> Iterator[tuple[Path, Function, bool]]:
    """Return every function with its file, and whether it is public: no part of its name begins with an underscore."""

    def within(path: Path, node: ast.AST, public: bool) -> Iterator[tuple[Path, Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                shown = public and not child.name.startswith("_")
                yield path, child, shown
                yield from within(path, child, False)
            elif isinstance(child, ast.ClassDef):
                yield from within(path, child, public and not child.name.startswith("_"))
            else:
                yield from within(path, child, public)

    for path in modules(root).values():
        if "migrations" not in path.parts:
            yield from within(path, ast.parse(path.read_text()), True)


def docstrings(root: Path) -> Iterator[str]:
    """Return every docstring, those behind constants too."""
    for path in modules(root).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield node.value.value


def lines(node: Function) -> int:
    """Count the lines of a function without its docstring."""
    whole = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    return whole - ((first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0)


def parameters(node: Function) -> int:
    """Count the parameters of a function without `self`."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([one for one in named if one.arg not in ("self", "cls")])


def moves() -> int:
    """Count how often one admission calls from one file of gate into another.

    The gate has no workers here, so nothing else runs meanwhile. A coroutine that goes on after a wait is not a call.
    """
    from gate.coordination.services import Services
    from gate.ledger.admin.migrate import migrate
    from gate.ledger.commit import inline_commit
    from gate.model.job import Request
    from gate.runtime.embedded_redis import EmbeddedRedis
    from gate.runtime.wiring import open_gate
    from tests.support.script_lane import settings_of

    inline_commit.SLOW_S = math.inf  # a disk that is slow now would move the commit to a thread, which is not profiled
    package, files, begun = str(HERE / "gate"), list[str](), list[FrameType]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(package) and not any(frame is one for one in begun):
            begun.append(frame)
            if files[-1:] != [file]:
                files.append(file)

    async def admit(services: Services, job_id: str) -> None:
        await services.admission.acquire("default", Request(job_id, user="ana", credits=1))

    async def run(redis_url: str, sql_url: str) -> int:
        async with open_gate(redis_url, sql_url, {"default": settings_of()}):
            pass  # makes the pool
        async with open_gate(redis_url, sql_url) as gate:
            await admit(gate.services, "first")
            await asyncio.sleep(SETTLED_S)
            sys.setprofile(note)
            await admit(gate.services, "second")
            sys.setprofile(None)
        return len(files) - 1

    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder))
        server.wait()
        sql_url = f"sqlite:///{folder}/gate.db"
        migrate(sql_url)
        try:
            return asyncio.run(run(server.url, sql_url))
        finally:
            server.stop()


def figures(root: Path) -> dict[str, int]:
    """Return all figures that are read from the source."""
    every = list(functions(root))
    return {
        "modules at the top": len(list((root / "gate").glob("*.py"))) - 2,
        "import circles": circles(root),
        "import arrows between packages": arrows(root),
        "public functions without docstring": sum(public and not ast.get_docstring(node) for _, node, public in every),
        "docstrings with forbidden words": sum(bool(FORBIDDEN.search(text)) for text in docstrings(root)),
        f"functions over {LINES_MAX} lines": sum(lines(node) > LINES_MAX for _, node, _ in every),
        f"functions with over {PARAMETERS_MAX} parameters": sum(parameters(node) > PARAMETERS_MAX for _, node, _ in every),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.checks.house", description="Figures of the structure of gate/.")
    parser.add_argument("checkout", nargs="?", type=Path, default=HERE)
    root = parser.parse_args().checkout
    found = figures(root)
    if root == HERE:
        found["moves of an acquire between files"] = moves()
    for name, figure in found.items():
        print(f"{figure:6,}  {name}")


if __name__ == "__main__":
    main()
