"""docs/settings.md: its tables have every setting with its default, every provider, and the roles of keys."""

from __future__ import annotations

import re

from gate.http.auth.roles import ADMIN, LOOK, TOOL
from gate.providers import PROVIDERS
from gate.runtime.settings import Settings
from tests.support.pages import rows
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "settings.md"


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


def test_the_table_of_providers_is_complete() -> None:
    assert {row[0].strip("`") for row in rows(PAGE, "provider", "each callback shows")} == set(PROVIDERS)


def test_each_provider_is_named_where_readers_look_for_it() -> None:
    for page in ("docs/http-overview.md", "gate/http/webhooks.py"):
        for name in PROVIDERS:
            assert f"`{name}`" in (ROOT / page).read_text(), f"{page} does not name {name}"
