"""docs/tour.md: its commands are run in order against a gate with its webhook secret, and its Python runs."""

from __future__ import annotations

from pathlib import Path

from tests.support.gate_process import Served
from tests.support.pages import block, needs_tools, play, run_python
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "tour.md"


@needs_tools
def test_the_console_blocks_play_from_top_to_bottom(tmp_path: Path) -> None:
    with Served(tmp_path, config=block(PAGE, "toml", "whsec_dGhl")) as served:
        play(PAGE, served, tmp_path)


def test_its_python_runs(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert run_python(PAGE, served) == ("completed {'url': 'owl.png'}\ncancelled\n", "")
