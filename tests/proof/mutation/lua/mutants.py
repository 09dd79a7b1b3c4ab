"""The mutants of a Lua script: each text that differs from it by one small change a test should notice.

Each statement is dropped (a local stays declared, without its value), each comparison is turned round and moved across its
border, each `and` and `or` changed into the other, each condition and each `not` reversed. A text that two changes make is one
mutant; a text that is no Lua is none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import tree_sitter
import tree_sitter_lua
from lupa import lua51

FLIPS = {
    "<": (">=", "<="), "<=": (">", "<"), ">": ("<=", ">="), ">=": ("<", ">"), "==": ("~=",), "~=": ("==",),
    "and": ("or",), "or": ("and",),
}  # fmt: skip
KINDS = {
    "if_statement": "if", "return_statement": "return", "assignment_statement": "assignment", "variable_declaration": "local",
    "function_call": "call",
}  # fmt: skip
"""The words for statements in the kind of a change; for others it is the word of the parser."""
MARK = re.compile(r"-- mutant: ([a-z0-9-]+)$")
COMPARISONS = FLIPS.keys() - {"and", "or"}
_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_lua.language()))
_LUA = lua51.LuaRuntime()


@dataclass(frozen=True, slots=True)
class Mutant:
    """`was` and `becomes` are the line where the change begins, without indent; `inside` is the function it stands in, '' for
    none. These and the file name a mutant for people, whatever line it has moved to; `key` is that of its text. `mark` is the
    name of the mark on its line, '' for none, and `kind` the kind of change: explained.py knows a mutant by these two.
    """

    file: str
    line: int
    inside: str
    was: str
    becomes: str
    text: str
    mark: str
    kind: str

    @property
    def change(self) -> tuple[str, str]:
        return (self.mark, self.kind)

    @property
    def name(self) -> tuple[str, str, str, str]:
        return (self.file, self.inside, self.was, self.becomes)

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.file}\n{self.text}".encode()).hexdigest()[:16]


def mutants(file: str, text: str, prelude: str = "") -> list[Mutant]:
    """`prelude` is what the script runs behind, so that both are looked at as one."""
    source = text.encode()
    found: dict[str, Mutant] = {}
    marks = _marks(text.splitlines())
    for at, start, end, instead, kind in _changes(_PARSER.parse(source).root_node):
        changed = (source[:start] + instead + source[end:]).decode()
        if changed not in found and changed != text and _is_lua(prelude + changed):
            row = at.start_point.row
            was, becomes = text.splitlines()[row].strip(), (changed.splitlines() or [""])[row].strip()
            found[changed] = Mutant(file, row + 1, _function(at), was, becomes, changed, marks.get(row, ""), kind)
    return list(found.values())


def _marks(lines: list[str]) -> dict[int, str]:
    """The name of the mark of each line that has one, at its end or on the line above. Lines count from 0."""
    marks: dict[int, str] = {}
    for row, line in enumerate(lines):
        if (found := MARK.search(line)) is not None:
            while lines[row].lstrip().startswith("--"):
                row += 1
            marks[row] = found[1]
    return marks


def _changes(node: tree_sitter.Node) -> Iterator[tuple[tree_sitter.Node, int, int, bytes, str]]:
    """Where a change is, which bytes of the text become which, and the kind of the change."""
    if node.parent is not None and node.parent.type in ("chunk", "block") and node.is_named and node.type != "comment":
        yield node, node.start_byte, node.end_byte, _without(node), f"drop {KINDS.get(node.type, node.type)}"
    if node.type == "binary_expression":
        operator = node.children[1]
        for other in FLIPS.get(operator.type, ()):
            yield operator, operator.start_byte, operator.end_byte, other.encode(), f"{operator.type} to {other}"
    if node.type == "unary_expression" and node.children[0].type == "not":
        yield node, node.start_byte, node.children[1].start_byte, b"", "drop not"
    if node.type in ("if_statement", "elseif_statement", "while_statement"):
        condition = node.child_by_field_name("condition")
        assert condition is not None
        if not _turned_anyway(condition):
            yield condition, condition.start_byte, condition.end_byte, b"not (" + (condition.text or b"") + b")", "reverse"
    for child in node.children:
        yield from _changes(child)


def _without(statement: tree_sitter.Node) -> bytes:
    """What is left of it: a name that is used below has to stay one, or every use of it would be an error."""
    if statement.type == "variable_declaration":
        first = statement.named_children[0]
        if first.type == "assignment_statement":
            return b"local " + (first.named_children[0].text or b"")
    return b""


def _turned_anyway(condition: tree_sitter.Node) -> bool:
    kinds = {child.type for child in condition.children}
    return bool(kinds & COMPARISONS) or (condition.type == "unary_expression" and "not" in kinds)


def _function(node: tree_sitter.Node | None) -> str:
    while (node := node.parent if node else None) is not None:
        if node.type == "function_declaration" and (name := node.child_by_field_name("name")) is not None:
            return (name.text or b"").decode()
    return ""


def _is_lua(text: str) -> bool:
    try:
        _LUA.compile(text)
    except lua51.LuaSyntaxError:
        return False
    return True
