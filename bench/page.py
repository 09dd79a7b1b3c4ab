"""docs/performance.md: what stands between its marks is made from the figures, and by nobody's hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench import environments, servers, tables

PAGE = servers.ROOT / "docs" / "performance.md"
FOLDER = servers.ROOT / "docs" / "performance"
"""Where its plots are, and the figures that they and its tables were made from."""
MARKED = re.compile(r"(<!-- made: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PLOTS = {
    "throughput": "Pairs a second by clients", "latency": "The latency of a request", "depth": "What a call costs by depth",
    "handover": "How long a hand-over takes",
}  # fmt: skip


def filled(text: str, all_of_it: dict[str, Any], folder: Path = FOLDER) -> str:
    """The page's text with what `bench.tables` makes between its marks, and the plots that are there."""
    made = tables.made(all_of_it)
    for name, says in PLOTS.items():
        there = (folder / f"{name}.svg").exists()
        made[f"plot_{name}"] = f"![{says}]({folder.name}/{name}.svg)" if there else "Not drawn yet."
    return MARKED.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[4]}", text)


def draw(figures: Path, folder: Path) -> None:
    """In an environment of its own, which is made on first use."""
    subprocess.run([environments.python("plots"), "-m", "bench.plots", str(figures), str(folder)], env=servers.ENVIRONMENT,
                   cwd=servers.ROOT, check=True)  # fmt: skip


def write(figures: Path, page: Path = PAGE, folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "figures.json"
    if figures.resolve() != kept.resolve():
        shutil.copyfile(figures, kept)
    draw(kept, folder)
    page.write_text(filled(page.read_text(), json.loads(kept.read_text()), folder))
