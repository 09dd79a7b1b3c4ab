"""What a page loads beside its HTML: read once, under addresses that change with the content, kept by the browser for ever."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
WHOLE = {
    "gate.js": ("htmx.min.js", "hx-sse.min.js", "uPlot.iife.min.js", "plots.js", "panel.js"),
    "gate.css": ("uPlot.min.css", "panel.css"),
    "gate.svg": ("gate.svg",),
}
"""What is served, of which files, in order. One script, because htmx looks at the page as soon as it has run: an extension that
came a moment later would never be asked.
"""


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Content and type of each, by name."""
    return {
        name: (b"\n".join((FOLDER / part).read_bytes() for part in parts), TYPES[Path(name).suffix])
        for name, parts in WHOLE.items()
    }


@cache
def version() -> str:
    """Of all of them, and of what is made of them: a page of another version loads itself anew."""
    digest = hashlib.sha256()
    for name, (content, _) in files().items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    for path in sorted((Path(__file__).parent / "templates").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def address(name: str) -> str:
    return f"/static/{version()}/{name}"
