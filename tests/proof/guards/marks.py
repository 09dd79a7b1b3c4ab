"""Find the guards that are marked in the source, and remove one from a copy of its file.

A mark is a comment: `# guard: NAME` in Python, `-- guard: NAME` in Lua. It stands at the end of the line where the guarding node
begins, or alone on the line above. Nothing here names a file, a class or a variable of gate, so a rename breaks no guard.
"""

from __future__ import annotations

import ast
import copy
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

FOLDERS = ("gate", "lua")
MARK = re.compile(r"guard: ([a-z0-9-]+)(?:: (then))?")
LUA_CONDITION = re.compile(r"^(\s*(?:(?:else)?if|while) )(.*?)( (?:then|do)\b.*)$")
LUA_VALUE = re.compile(r"^(.*? = ).*$")


class Mark(NamedTuple):
    """A mark in the source. `line` counts from 1 and is the line of the node. `is_second` is True for `NAME: then`."""

    name: str
    path: Path
    line: int
    is_second: bool = False


def marks() -> list[Mark]:
    """Return every mark in gate and its scripts."""
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".lua"))
    return [mark for path in files for mark in marks_of(path)]


def marks_of(path: Path) -> Iterator[Mark]:
    text = path.read_text()
    if "guard: " not in text:
        return
    lines = text.splitlines()
    for number, comment in _comments(path, text):
        found = MARK.fullmatch(comment.lstrip("#- ").rstrip())
        if found is None:
            continue
        while _is_comment(lines[number - 1]):
            number += 1
        yield Mark(found[1], path, number, found[2] is not None)


def _comments(path: Path, text: str) -> Iterator[tuple[int, str]]:
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if (found := re.search(r"--.*$", line)) is not None:
                yield number, found[0]


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(("#", "--"))


class Removal(NamedTuple):
    """A way to remove a guard.

    `word` is one of
        drop         the statement; the handler of an exception; the operand of `and` or `or`; the argument, element or
                     chained call that begins on the line
        never        the condition of `if`, `while`, a comprehension or a conditional expression becomes False
        always       the same becomes True
        before       a copy of the statement marked `NAME: then` runs before the marked one, without the conditions of its
                     comprehensions, which ask what the marked statement answered
        on_the_loop  what `run_in_executor` hands to a thread runs on the event loop
        unasked      the marked assignment makes no call; its value equals everything
        replace      the argument on the line, or the value of the marked statement, becomes `value`: an expression without
                     names of gate, in which `it` is what it replaces. The last resort.
    """

    word: str
    value: str = ""


DROP, NEVER, ALWAYS = Removal("drop"), Removal("never"), Removal("always")
BEFORE, ON_THE_LOOP, UNASKED = Removal("before"), Removal("on_the_loop"), Removal("unasked")
ANYTHING = "type('Anything', (), {'__getattr__': lambda it, name: it, '__eq__': lambda it, other: True, '__hash__': id})()"


def replaced_by(value: str) -> Removal:
    return Removal("replace", value)


class NotRemoved(Exception):
    """The mark does not stand where its removal can be made."""


def without(text: str, marked: list[Mark], removal: Removal) -> str:
    """Return the text of a file without the guard of these marks.

    Args:
        text: the file as it is
        marked: the mark; for `before` also its `NAME: then`
        removal: how

    Raises:
        NotRemoved: no node, or no single one, on the marked line fits the removal
    """
    first = next(mark for mark in marked if not mark.is_second)
    if first.path.suffix == ".lua":
        return _without_in_lua(text, first, removal)
    second = next((mark for mark in marked if mark.is_second), None)
    tree = ast.parse(text)
    _remove(tree, text.splitlines(), first, second, removal)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _without_in_lua(text: str, mark: Mark, removal: Removal) -> str:
    lines = text.split("\n")
    line = re.sub(r"\s*--.*$", "", lines[mark.line - 1])
    match removal.word:
        case "drop":
            changed = ""
        case "never" | "always":
            condition = "false" if removal.word == "never" else "true"
            changed = LUA_CONDITION.sub(rf"\g<1>{condition}\g<3>", line)
        case "replace":
            changed = LUA_VALUE.sub(lambda found: found[1] + removal.value, line)
        case _:
            raise NotRemoved(f"{mark.name}: {removal.word} is not for Lua")
    if changed == line:
        raise NotRemoved(f"{mark.name}: line {mark.line} has nothing that {removal.word} fits")
    lines[mark.line - 1] = changed
    return "\n".join(lines)


class _Place(NamedTuple):
    """A node of the tree, with the way to put another in its place, or nothing."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None

    def put(self, other: ast.AST | None) -> None:
        if self.index is None:
            setattr(self.parent, self.field, other)
            return
        siblings = getattr(self.parent, self.field)
        siblings[self.index : self.index + 1] = [] if other is None else [other]


def _places(tree: ast.AST) -> Iterator[_Place]:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield _Place(value, parent, field, None)
            elif isinstance(value, list):
                yield from (_Place(node, parent, field, n) for n, node in enumerate(value) if isinstance(node, ast.AST))


def _remove(tree: ast.Module, lines: list[str], mark: Mark, second: Mark | None, removal: Removal) -> None:
    places = list(_places(tree))
    match removal.word:
        case "drop":
            _drop(places, lines, mark)
        case "never" | "always":
            place = _condition(places, lines, mark)
            place.put(ast.Constant(removal.word == "always"))
        case "before":
            if second is None:
                raise NotRemoved(f"{mark.name}: no statement is marked `{mark.name}: then`")
            later = copy.deepcopy(_statement(places, second).node)
            for node in ast.walk(later):
                if isinstance(node, ast.comprehension):
                    node.ifs = []
            place = _statement(places, mark)
            assert place.index is not None
            getattr(place.parent, place.field).insert(place.index, later)
        case "on_the_loop":
            place = _one(mark, [place for place in places if _begins(place.node, mark) and _is_call_of_a_thread(place.node)])
            call = place.node
            assert isinstance(call, ast.Call)
            made = ast.Call(call.args[1], call.args[2:], [])
            place.put(ast.parse(f"__import__('asyncio').sleep(0, {ast.unparse(made)})", mode="eval").body)
        case "unasked":
            _value(places, mark).put(ast.parse(ANYTHING, mode="eval").body)
        case "replace":
            place = _expression(places, lines, mark) or _value(places, mark)
            place.put(_filled_in(removal.value, place.node))
        case _:
            raise NotRemoved(f"{mark.name}: there is no removal {removal.word!r}")


def _drop(places: list[_Place], lines: list[str], mark: Mark) -> None:
    place = _expression(places, lines, mark)
    if place is None:
        place = _statement(places, mark)
        if isinstance(place.node, ast.ExceptHandler):
            assert isinstance(place.parent, ast.Try)
            if len(place.parent.handlers) > 1 or place.parent.finalbody:
                place.put(None)
            else:
                place.node.body = [ast.Raise()]
        else:
            place.put(ast.Pass())
    elif isinstance(place.parent, ast.BoolOp):
        place.put(ast.Constant(isinstance(place.parent.op, ast.And)))
    elif isinstance(place.node, ast.Call) and _chains(place.node, mark):
        assert isinstance(place.node.func, ast.Attribute)
        place.put(place.node.func.value)
    else:
        place.put(None)


def _statement(places: list[_Place], mark: Mark) -> _Place:
    kinds = (ast.stmt, ast.ExceptHandler)
    return _one(mark, [place for place in places if isinstance(place.node, kinds) and _begins(place.node, mark)])


def _value(places: list[_Place], mark: Mark) -> _Place:
    """The value of the marked assignment or `return`."""
    statement = _statement(places, mark).node
    return _one(mark, [place for place in places if place.parent is statement and place.field == "value"])


def _expression(places: list[_Place], lines: list[str], mark: Mark) -> _Place | None:
    """The operand, argument or element that the marked line begins with, or the call that it chains."""
    start = re.match(r"\s*(?:(?:and|or)\b)?[\s(]*", lines[mark.line - 1])
    assert start is not None

    def begins_the_line(node: ast.AST) -> bool:
        return _begins(node, mark) and node.col_offset <= len(start[0].encode())  # type: ignore[attr-defined]

    found = [
        place
        for place in places
        if (_is_part(place) and begins_the_line(place.node))
        or (isinstance(place.node, ast.Call) and _chains(place.node, mark))
    ]
    whole = [place for place in found if place.node.end_lineno == mark.line]  # type: ignore[attr-defined]
    by_length = sorted(whole or found, key=lambda place: len(ast.unparse(place.node)))
    return None if not by_length else by_length[-1 if whole else 0]


def _is_part(place: _Place) -> bool:
    lists = (
        (ast.BoolOp, "values"), (ast.Call, "args"), (ast.Call, "keywords"), (ast.Tuple, "elts"), (ast.List, "elts"),
        (ast.Set, "elts"),
    )  # fmt: skip
    return any(isinstance(place.parent, kind) and place.field == field for kind, field in lists)


def _chains(call: ast.Call, mark: Mark) -> bool:
    """Whether the marked line begins with the `.` of this call."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return False
    return function.end_lineno == mark.line and (function.value.end_lineno or 0) < mark.line


def _condition(places: list[_Place], lines: list[str], mark: Mark) -> _Place:
    tests = [place for place in places if place.field == "test" and isinstance(place.parent, ast.If | ast.While)]
    of_statement = [place for place in tests if _begins(place.parent, mark)]
    if of_statement:
        return _one(mark, of_statement)
    line = lines[mark.line - 1].lstrip()
    if line.startswith("if "):
        return _one(mark, [place for place in places if place.field == "ifs" and _begins(place.node, mark)])
    choices = [place for place in places if place.field == "test" and isinstance(place.parent, ast.IfExp)]
    return _one(mark, [place for place in choices if _begins(place.parent, mark)])


def _begins(node: ast.AST, mark: Mark) -> bool:
    return getattr(node, "lineno", 0) == mark.line


def _is_call_of_a_thread(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "run_in_executor"


def _one(mark: Mark, found: list[_Place]) -> _Place:
    if len(found) != 1:
        raise NotRemoved(f"{mark.name}: {len(found)} nodes on line {mark.line} of {mark.path.name} fit, and one has to")
    return found[0]


def _filled_in(value: str, it: ast.AST) -> ast.expr:
    class FillIn(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(it) if node.id == "it" else node

    filled: Callable[[ast.AST], ast.expr] = FillIn().visit
    return filled(ast.parse(value, mode="eval").body)
