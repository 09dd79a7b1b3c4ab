"""`python -m tests.proof.browsers.screenshots FOLDER`: the panel as it is, in both languages and themes, from a phone to a wide screen.

One gate, with a pool for each scene: 0, 3 and 500 jobs, and names that mean harm.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.proof.browsers.browser import chromium, window
from tests.support import panel_scenes as scenes
from tests.support.gate_process import Served

WIDTHS = {390: 844, 820: 1180, 1440: 900}
POOLS = ("empty", "few", "many", "hostile")
CONFIG = "".join(f"[pools.{name}]\nlimit = {8 if name == 'hostile' else 3}\n" for name in POOLS)
LOOKS = [("en", "light"), ("pt-BR", "dark"), ("en", "dark"), ("pt-BR", "light")]


def take(folder: Path, served: Served, looks: list[tuple[str, str]] = LOOKS, widths: dict[int, int] = WIDTHS) -> list[Path]:
    """The pictures that were made."""
    made = []
    with chromium() as browser:
        for language, theme in looks:
            for width, height in widths.items():
                how = {"locale": language, "color_scheme": theme, "viewport": {"width": width, "height": height}}
                with window(browser, served.url, **how) as page:
                    for name, path in {"sign-in": "/session", **PAGES}.items():
                        to = folder / f"{name}-{width}-{language}-{theme}.png"
                        _show(page, path)
                        page.screenshot(path=to, full_page=True, clip=_top_of(page))
                        made.append(to)
                    _show(page, PAGES["few"])
                    page.locator("#s-few-cat-0 a.act[data-verb=cancel]").click()
                    page.locator("dialog[open] form").wait_for()
                    made.append(folder / f"dialog-{width}-{language}-{theme}.png")
                    page.screenshot(path=made[-1])
    return made


PAGES = {
    "pools": "/",
    **{pool: f"/pools/{pool}" for pool in POOLS},
    "job": "/pools/few/jobs/few-done-1",
    "user": "/users/ana",
    "form": "/pools/few/jobs/few-cat-0/do/release",
}


def _show(page: Any, path: str) -> None:
    page.goto(path)
    if page.locator("#link").count():
        page.locator("#link[data-state=live]").wait_for()
    if page.locator("#trends").count():
        page.locator("[data-plot=refunds] canvas").wait_for()


def _top_of(page: Any) -> dict[str, int]:
    """Of 500 jobs the first will do."""
    whole = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    return {"x": 0, "y": 0, "width": whole[0], "height": min(whole[1], 2400)}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, Served(Path(home), config=CONFIG, on_defaults=True) as served:
        scenes.past(served, "few")
        scenes.few(served, "few")
        scenes.past(served, "many")
        scenes.many(served, "many")
        scenes.hostile(served, "hostile")
        for picture in take(folder, served):
            print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
