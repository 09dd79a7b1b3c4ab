"""The population: what mutmut makes of the modules that decide about money and slots, less the words that only people read.

mutmut's own runner picks a mutant inside the process that runs the tests; a `gate serve` that a test starts would not see it, nor
do its forks get on with the writer's thread. So its generator is used alone, and each mutant is the whole text of a module.

Left out, because no test should hang on it (docstrings and annotations mutmut leaves alone by itself):
what is handed to `log`; and the sentence of an exception, which is a text with a blank in it that stands in a `raise`: its letters,
what is shown inside it, and None instead of it. The exception itself, its code and its field stay in.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import libcst as cst
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

from gate.coordination import outbox_recorder
from gate.http import webhooks
from gate.ledger import ledger, results
from gate.ledger.reports import backlog
from gate.ledger.sql import job_rows, pool_rows
from gate.ledger.transitions import deliveries, inbox, jobs, outbox, starts
from gate.workers import reconciler
from tests.support.paths import ROOT


def path_of(module: ModuleType) -> str:
    """The path of a module in the checkout."""
    assert module.__file__ is not None
    return str(Path(module.__file__).relative_to(ROOT))


MODULES = [
    path_of(module)
    for module in (
        jobs, deliveries, inbox, ledger, backlog, pool_rows, outbox, results, job_rows, starts,
        outbox_recorder, reconciler, webhooks,
    )
] + [str(path.relative_to(ROOT)) for path in sorted((ROOT / "gate" / "providers").glob("[a-z]*.py"))]  # fmt: skip
"""The tables, the engine room of SQL, the owner's functions and what is only read have tests of their own, and are not here."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`number` of `function` in the module at `path`, whose text it is."""

    path: str
    function: str
    number: int
    text: str

    @property
    def name(self) -> str:
        return f"{self.path}::{self.function}::{self.number}"

    @property
    def sha(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def diff(self) -> str:
        before = (ROOT / self.path).read_text().splitlines()
        lines = difflib.unified_diff(before, self.text.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


@dataclass(frozen=True)
class Possible:
    """A mutant whose text is not made yet: there are thousands."""

    path: str
    function: str
    number: int
    module: cst.Module
    mutation: Mutation

    @property
    def name(self) -> str:
        return f"{self.path}::{self.function}::{self.number}"

    def made(self) -> Mutant:
        changed = deep_replace(self.module, self.mutation.original_node, self.mutation.mutated_node)
        assert isinstance(changed, cst.Module)
        compile(changed.code, self.path, "exec")
        return Mutant(self.path, self.function, self.number, changed.code)


@dataclass(frozen=True)
class Population:
    """`generated` is how many mutmut makes, `wanted` those that are not left out."""

    generated: int
    wanted: list[Possible]

    def sample(self, seed: int, size: int) -> list[Mutant]:
        """The same ones as long as their functions stay as they are, whatever is changed elsewhere."""
        drawn = sorted(self.wanted, key=lambda one: hashlib.sha256(f"{seed} {one.name}".encode()).digest())
        return [one.made() for one in drawn[:size]]


def population() -> Population:
    every = [found for path in MODULES for found in of_module(path, (ROOT / path).read_text())]
    return Population(len(every), [one for one, wanted in every if wanted])


def of_module(path: str, text: str) -> Iterator[tuple[Possible, bool]]:
    """Each mutant, and whether it is wanted."""
    wrapper = cst.MetadataWrapper(cst.parse_module(text))
    visitor = MutationVisitor(mutation_operators, IgnoredCode(set(), set(), set()))
    wrapper.visit(visitor)
    module = wrapper.module
    names, words = _functions(module), Words()
    module.visit(words)
    numbers: dict[str, int] = {}
    for mutation in visitor.mutations:
        function = names.get(id(mutation.contained_by_top_level_function))
        if function is None:
            continue  # mutmut's own runner leaves out what stands outside of functions too
        numbers[function] = numbers.get(function, 0) + 1
        yield Possible(path, function, numbers[function], module, mutation), not words.has(mutation)


def _functions(module: cst.Module) -> dict[int, str]:
    """Of each function and method, by the identity of its node."""
    found = {}
    for one in module.body:
        if isinstance(one, cst.FunctionDef):
            found[id(one)] = one.name.value
        elif isinstance(one, cst.ClassDef):
            methods = [inner for inner in one.body.body if isinstance(inner, cst.FunctionDef)]
            found |= {id(method): f"{one.name.value}.{method.name.value}" for method in methods}
    return found


class Words(cst.CSTVisitor):
    """The nodes that only say something to people."""

    def __init__(self) -> None:
        self._nodes: set[int] = set()

    def has(self, mutation: Mutation) -> bool:
        if id(mutation.original_node) in self._nodes:
            return True
        before, after = mutation.original_node, mutation.mutated_node
        if not (isinstance(before, cst.Call) and isinstance(after, cst.Call)) or len(before.args) != len(after.args):
            return False
        pairs = zip(before.args, after.args, strict=True)
        return any(old is not new and id(old.value) in self._nodes for old, new in pairs)

    def visit_Call(self, node: cst.Call) -> None:
        if isinstance(node.func, cst.Attribute) and isinstance(node.func.value, cst.Name) and node.func.value.value == "log":
            self._nodes |= {id(one) for one in _all(node)}

    def visit_Raise(self, node: cst.Raise) -> None:
        for argument in node.exc.args if isinstance(node.exc, cst.Call) else ():
            if _is_sentence(argument.value):
                self._nodes |= {id(one) for one in _all(argument.value)}


def _is_sentence(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.SimpleString):
        return " " in node.value
    return isinstance(node, cst.FormattedString) and any(
        " " in part.value for part in node.parts if isinstance(part, cst.FormattedStringText)
    )


def _all(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _all(child)
