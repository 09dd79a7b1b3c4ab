"""The tool itself: that it changes what it says, that a mutant is noticed and the script as it is is not, and when it is content."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("tree_sitter", reason="the extra `mutation` is not installed")
pytest.importorskip("tree_sitter_lua", reason="the extra `mutation` is not installed")

from tests.proof.mutation.lua import explained
from tests.proof.mutation.lua.__main__ import every_mutant, ground, report, try_all
from tests.proof.mutation.lua.bench import Verdict
from tests.proof.mutation.lua.mutants import Mutant, mutants
from tests.support.paths import ROOT

SCRIPT = """\
local function f(a)
  local b = a
  if a < b and not a then g() return b end
end
"""
TRIAL = """
from dataclasses import replace
from tests.proof.mutation.lua import bench
from tests.proof.mutation.lua.__main__ import every_mutant
bench.STAGES["lua"], bench.BUSY_MS = ("tests/unit/lua/test_release.py",), 500
drop = next(m for m in every_mutant() if m.file == "release.lua" and m.kind == "drop call" and m.was.startswith("vacate("))
def use(session):
    place = bench.Bench(session)
    for mutant in (None, drop, replace(drop, text="while true do end")):
        print("said:", place.judge(mutant, "", ["lua"]).by)
    place.close()
bench.with_tests(use, ["lua"])
"""


def test_what_is_changed() -> None:
    lines = [(mutant.was, mutant.becomes) for mutant in mutants("x.lua", SCRIPT)]
    line = "if a < b and not a then g() return b end"
    assert Counter(lines) == Counter(
        [
            ("local function f(a)", ""),
            ("local b = a", "local b"),
            (line, ""),
            (line, "if a >= b and not a then g() return b end"),
            (line, "if a <= b and not a then g() return b end"),
            (line, "if a < b or not a then g() return b end"),
            (line, "if a < b and a then g() return b end"),
            (line, "if not (a < b and not a) then g() return b end"),
            (line, "if a < b and not a then  return b end"),
            (line, "if a < b and not a then g()  end"),
        ]
    )
    assert {mutant.inside for mutant in mutants("x.lua", SCRIPT) if mutant.line > 1} == {"f"}


def test_a_text_is_tried_once_and_only_if_it_is_lua() -> None:
    assert [mutant.text for mutant in mutants("x.lua", "f() f()")] == [" f()", "f() "]
    assert [mutant.text for mutant in mutants("x.lua", "while a do break end")] == [
        "",
        "while not (a) do break end",
        "while a do  end",
    ]


def test_a_mutant_is_noticed_and_the_script_as_it_is_is_not() -> None:
    """And one that never ends is cut."""
    done = subprocess.run([sys.executable, "-c", TRIAL], cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = [line.removeprefix("said:").strip() for line in done.stdout.splitlines() if line.startswith("said:")]
    first_red = "tests/unit/lua/test_release.py::test_the_next_waiter_has_the_slot_before_it_returns[valkey]"
    assert said == ["", first_red, "it never ends"], done.stdout + done.stderr


def test_each_explanation_is_of_one_mutant() -> None:
    changes = Counter(mutant.change for mutant in every_mutant() if mutant.mark)
    assert [change for change in explained.REASONS if changes[change] != 1] == []
    assert len(explained.REASONS) == len(explained.EXPLAINED)


def test_each_mark_is_on_one_line_and_is_explained() -> None:
    marked = {(mutant.file, mutant.line, mutant.mark) for mutant in every_mutant() if mutant.mark}
    assert sorted(mark for *_, mark in marked) == sorted({mark for mark, _ in explained.REASONS})


def row(mutant: Mutant, by: str, on: str = "") -> dict[str, object]:
    return {"key": mutant.key, "mutant": mutant.name, "ground": on or ground(), "asked": ["lua"]} | asdict(
        Verdict(by, "lua", 1)
    )


def test_it_is_content_with_95_in_100_and_a_word_on_each_survivor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [replace(mutant, mark=f"mark-{number}") for number, mutant in enumerate(every_mutant()[:40])]
    all_killed = {mutant.key: row(mutant, "some test") for mutant in wanted}
    assert report(wanted, all_killed)
    first, second, third = wanted[:3]
    one_survived = all_killed | {first.key: row(first, "")}
    assert not report(wanted, one_survived)
    assert f"lua/{first.file}:{first.line}" in capsys.readouterr().out
    monkeypatch.setitem(explained.REASONS, first.change, "it is only a name")
    assert report(wanted, one_survived)
    for mutant in (second, third):
        monkeypatch.setitem(explained.REASONS, mutant.change, "it is only a name")
    assert not report(wanted, one_survived | {mutant.key: row(mutant, "") for mutant in (second, third)}), "92.5 in 100"


def test_what_is_known_is_not_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, results = every_mutant()[:5], tmp_path / "lua.jsonl"
    results.write_text("".join(json.dumps(row(mutant, "some test")) + "\n" for mutant in wanted))
    assert [known["by"] for known in try_all(wanted, ("lua",), results, 1).values()] == ["some test"] * 5
    assert "5 mutants, 5 known from an earlier run" in capsys.readouterr().out
