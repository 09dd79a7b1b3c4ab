"""README.md: its commands are run in order against a gate, its Python runs, its links exist, and it lists every page."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.gate_process import Served
from tests.support.pages import blocks, needs_tools, play, run_python
from tests.support.paths import ROOT

PAGE = ROOT / "README.md"
README = PAGE.read_text()
LINES_MAX = 150
"""Longest README: what does not fit is a page under docs/."""


@needs_tools
def test_the_console_blocks_play_from_top_to_bottom(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        play(PAGE, served, tmp_path)


def test_its_python_runs(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert run_python(PAGE, served) == ("completed {'url': 'fox.png'}\n", "")


def test_it_starts_gate_and_the_tests_by_one_command_each() -> None:
    shell = [text for language, text in blocks(PAGE) if language == "shell"]
    assert ["gate serve" in text for text in shell] == [True, False]
    assert ["python -m pytest" in text for text in shell] == [False, True]  # .ci/run reads this line
    assert all(text.count("\n") == 1 for text in shell)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= LINES_MAX


def test_the_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\(([^)#:]+)[)#]", README):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_its_list_of_documents() -> None:
    listed = README.split("## Documents")[1]
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]:
        assert page == PAGE or f"]({page.relative_to(ROOT)})" in listed, page
