"""Private names of libraries that the fast lane uses: they are there, and the libraries are pinned to the minor that has them."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib

import psycopg
import pytest
import redis.asyncio
import uvicorn.protocols.http.httptools_impl as of_uvicorn

from tests.support.paths import GATE, ROOT

USED = {
    "redis": {"_writer", "_parser"},
    "psycopg": {"_exit_gen", "_enqueue_sync", "_communicate_gen", "_fetch_gen", "_pipeline"},
    "uvicorn": {"_unsupported_upgrade_warning"},
}
"""By library."""
FILES = {"redis": "slots/pipeline.py", "psycopg": "ledger/sql/pg_pipeline.py", "uvicorn": "http/server/offers.py"}


def test_they_are_there() -> None:
    connection = redis.asyncio.Connection()
    assert all(hasattr(connection, name) for name in USED["redis"]) and hasattr(connection._parser, "parse_error")
    assert all(hasattr(psycopg.Pipeline, name) for name in USED["psycopg"] - {"_pipeline"})
    assert "flush" in inspect.signature(psycopg.Pipeline._fetch_gen).parameters
    assert "self._pipeline" in inspect.getsource(psycopg.Connection.pipeline)
    assert all(hasattr(of_uvicorn.HttpToolsProtocol, name) for name in USED["uvicorn"])


@pytest.mark.parametrize("library", USED)
def test_a_library_with_private_names_is_pinned_to_its_minor(library: str) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (pin,) = (one for one in wanted if re.split(r"[\[~<>=]", one)[0] == library)
    assert re.search(r"~=\d+\.\d+\.\d+$", pin), pin


@pytest.mark.parametrize("library", USED)
def test_the_list_is_whole(library: str) -> None:
    """The private names that the file of a library uses beside those that gate defines in it."""
    tree = ast.parse((GATE / FILES[library]).read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {
        node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr)}
    assert used - own <= USED[library] and USED[library] - own <= used
