"""docs/settings.md: its commands play."""

from __future__ import annotations

from pathlib import Path

from tests.support.gate_process import Served
from tests.support.pages import needs_tools, play
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "settings.md"


@needs_tools
def test_the_console_blocks_play_from_top_to_bottom(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        play(PAGE, served, tmp_path)
