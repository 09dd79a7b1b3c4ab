"""The prose of gate is plain technical English: things are "it", and people have a role."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

from tests.checks.house import FORBIDDEN
from tests.support.paths import GATE, ROOT

FILES = sorted(
    path
    for folder in (GATE, ROOT / "tests")
    for path in folder.rglob("*.py")
    if not {"words", "__pycache__"} & set(path.parts)
)
"""Every module but the texts of the panel."""


def prose(path: Path) -> list[str]:
    """Return the comments and the docstrings of a module, one text each."""
    found, begins = [], True
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins):
            found.append(token.string)
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    return found


def lua_comments(path: Path) -> list[str]:
    """Return the comments of a script, one line each."""
    return [line.partition("--")[2] for line in path.read_text().splitlines() if "--" in line]


def test_prose_names_roles() -> None:
    texts = {path: prose(path) for path in FILES} | {path: lua_comments(path) for path in (ROOT / "lua").glob("*.lua")}
    wrong = {str(path.relative_to(ROOT)): [text for text in found if FORBIDDEN.search(text)] for path, found in texts.items()}
    assert {path: texts for path, texts in wrong.items() if texts} == {}
