"""docs/settings.md: its table has every setting with its default, its roles are those of keys, and its commands play."""

from __future__ import annotations

import re
from pathlib import Path

from gate.http.auth.roles import ADMIN, LOOK, TOOL
from gate.runtime.settings import Settings
from tests.support.gate_process import Served
from tests.support.pages import needs_tools, play, rows
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "settings.md"


@needs_tools
def test_the_console_blocks_play_from_top_to_bottom(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        play(PAGE, served, tmp_path)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `GATE_(\w+)` \| `?([^|`]*?)`? \|", PAGE.read_text(), flags=re.MULTILINE))
    fields = {
        name.upper(): field.default
        for name, field in Settings.model_fields.items()
        if name not in ("pools", "tools", "providers")
    }
    assert listed.keys() == fields.keys()
    for name, default in fields.items():
        if default is not None:
            assert listed[name] == (str(default).lower() if isinstance(default, bool) else str(default))


def test_the_table_of_roles_is_whole() -> None:
    assert {role.strip("`") for role, _ in rows(PAGE, "role", "may")} == {*TOOL, *ADMIN, *LOOK}
