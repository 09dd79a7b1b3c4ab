"""The tool itself: what it leaves out, that a kill is a kill, and that unchanged text survives."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="the extra `mutation` is not installed")

from gate.providers import parsing
from tests.proof.mutation.python.mutants import Possible, of_module, path_of
from tests.support.paths import ROOT

TEXT = '''
from __future__ import annotations

def check(size: int) -> int:
    """A docstring."""
    log.warning("too large", size=size + 1)
    if size > 3:
        raise TooLarge("size", f"must be at most {limit(3)}")
    return size
'''
READING = path_of(parsing)
TEST = "tests/unit/providers/test_standard.py::test_a_task_or_a_job_is_named_with_its_outcome"


def changed(one: Possible) -> str:
    before = set(TEXT.splitlines())
    return " | ".join(line.strip() for line in one.made().text.splitlines() if line not in before)


def test_only_words_for_people_are_left_out() -> None:
    found = list(of_module("somewhere.py", TEXT))
    assert {changed(one) for one, wanted in found if wanted} == {
        "if size >= 3:",
        "if size > 4:",
        'raise TooLarge(None, f"must be at most {limit(3)}")',
        'raise TooLarge(f"must be at most {limit(3)}")',
        'raise TooLarge("size", )',
        'raise TooLarge("XXsizeXX", f"must be at most {limit(3)}")',
        'raise TooLarge("SIZE", f"must be at most {limit(3)}")',
    }
    left_out = {changed(one) for one, wanted in found if not wanted}
    assert 'raise TooLarge("size", None)' in left_out
    assert 'log.warning("too large", size=size - 1)' in left_out
    assert 'raise TooLarge("size", f"must be at most {limit(4)}")' in left_out


def test_a_mutant_is_killed_by_the_test_that_reaches_it_and_unchanged_text_is_not(tmp_path: Path) -> None:
    said = f"""
        from pathlib import Path
        from tests.proof.mutation.python.judging import Judge
        from tests.proof.mutation.python.mutants import Mutant
        text = Path({READING!r}).read_text()
        other = text.replace("if len(body) > END_BODY_MAX_BYTES:", "if True:")
        mutants = [Mutant({READING!r}, "strictly", number, one) for number, one in enumerate((text, other))]
        judge = Judge({{{TEST!r}: (0.1, ["{READING}::strictly"])}}, Path({str(tmp_path)!r}), 2)
        judge.run(mutants, lambda verdict: print(verdict.mutant.number, verdict.word, verdict.by))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(said)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.splitlines()) == ["0 survived 1 tests", f"1 killed {TEST}"], done.stdout + done.stderr
