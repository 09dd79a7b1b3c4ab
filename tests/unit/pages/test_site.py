"""mkdocs.yml: the site has every page under docs/ once, and its packages are pinned by hash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support.paths import ROOT

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def targets(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from targets(part)


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(targets(SITE["nav"])) == sorted(page.name for page in ROOT.glob("docs/*.md"))


def test_the_site_has_search_and_fetches_no_fonts() -> None:
    assert any("search" in plugin for plugin in SITE["plugins"])
    assert SITE["theme"]["name"] == "material" and SITE["theme"]["font"] is False


def test_its_packages_are_pinned_by_hash() -> None:
    lock = (ROOT / "tests" / "all.lock").read_text()
    assert "mkdocs-material==" in lock
    assert len(re.findall(r"^\S+==", lock, flags=re.MULTILINE)) == len(
        re.findall(r" \\\n    --hash=.*?(?=^\S|\Z)", lock, flags=re.MULTILINE | re.DOTALL)
    )
