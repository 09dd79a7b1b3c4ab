"""docs/design.md: its invariants, scripts, keys, states, repairs and numbers are those of the code."""

from __future__ import annotations

import inspect
import re

from gate.coordination import drift, outbox_recorder, pool_loader, pool_registry
from gate.diagnostics import history, verify
from gate.ledger import billing_hooks
from gate.ledger.transitions import inbox
from gate.slots import keys, scripts
from gate.workers import reconciler
from tests.support.pages import block, prose, rows
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "design.md"
ONE_LINE = re.sub(r"\s+", " ", prose(PAGE))
PRELUDE = (scripts.FOLDER / "_prelude.lua").read_text()


def test_the_invariants_are_those_that_verify_names_and_finds() -> None:
    assert verify.__doc__ is not None
    named = re.findall(r"^ +(I\d+) ", verify.__doc__, flags=re.MULTILINE)
    found = set(re.findall(r'Breach\(\s*"(I\d+)"', inspect.getsource(verify) + inspect.getsource(history)))
    assert [name for name, _ in rows(PAGE, "name", "invariant")] == named
    assert set(named) == found


def test_every_script_is_named_and_described() -> None:
    linked = set(re.findall(r"\(\.\./lua/(\w+)\.lua\)", PAGE.read_text()))
    assert linked == {path.stem for path in scripts.FOLDER.glob("*.lua")}
    described = {name for first, _ in rows(PAGE, "script", "what it does") for name in re.findall(r"`(\w+)`", first)}
    assert described == {*scripts.WITH_PRELUDE, *scripts.ALONE}


def test_the_keys_are_those_that_the_prelude_declares() -> None:
    declared = re.findall(r"^--   \d (\w+) +([A-Z]+) ", PRELUDE, flags=re.MULTILINE)
    listed = [(re.sub(r"^`gate:\{POOL\}:(\w+)`$", r"\1", key), kind) for key, kind, _ in rows(PAGE, "key", "type")]
    assert listed == declared and len(listed) == 6
    assert tuple(name for name, _ in listed) == keys.ROLES


def test_the_states_are_those_of_the_concepts() -> None:
    assert block(PAGE, "text") == block(ROOT / "docs" / "concepts.md", "text")


def test_every_repair_is_in_the_table() -> None:
    listed = {kind.strip("`") for kind, *_ in rows(PAGE, "kind", "difference")}
    assert listed == {kind.value for kind in drift.DriftKind}


def test_its_numbers_are_those_of_the_code() -> None:
    (absence_ms,) = re.findall(r"ABSENCE_MS = (\d+)", PRELUDE)
    for value, expected, words in (
        (int(absence_ms), 2500, "no call came for 2.5 s"),
        (reconciler.EVERY_S, 10, "every ten seconds"),
        (drift.STRANGER_MS, 30_000, "for 30 s not in SQL"),
        (outbox_recorder.PAGE_IS_GOOD_S, 0.25, "more than 250 ms"),
        (outbox_recorder.LATE_MAX, 3, "After three such tries"),
        (pool_registry.COLD_WAIT_S, 5, "waits up to 5 s for the rebuild"),
        (pool_loader.LOADING_S, 2, "waits up to 2 s for a load"),
        (inbox.KEPT_MS, 7 * 24 * 3600 * 1000, "up to 7 days"),
        (billing_hooks.LIMIT_MS, 5000, "a limit of 5 s"),
        (verify.STAYS_S, 2, "two seconds later"),
        (verify.UNRECORDED_MS, 40_000, "younger than 40 s"),
    ):
        assert value == expected and words in ONE_LINE, words
