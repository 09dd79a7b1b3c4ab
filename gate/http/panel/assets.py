"""Scripts, styles and icon of the panel, and of the HTTP reference.

The files are read once. The address contains a version that changes with the content, so a browser may cache each file for
ever.
"""

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
    "reference.js": ("swagger-ui-bundle.js", "reference.js"),
    "reference.css": ("swagger-ui.css", "reference.css"),
}
"""Files that are served, and the files that each is joined from, in order.

The panel has one script, because htmx processes the page as soon as it has run: an extension that loads later would be ignored.
"""


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Return content and media type of each served file, by name."""
    return {
        name: (b"\n".join((FOLDER / part).read_bytes() for part in parts), TYPES[Path(name).suffix])
        for name, parts in WHOLE.items()
    }


@cache
def version() -> str:
    """Return the version of the served files and the templates. A page of another version reloads itself."""
    digest = hashlib.sha256()
    for name, (content, _) in files().items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    for path in sorted((Path(__file__).parent / "templates").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def address(name: str) -> str:
    """Return the path of a served file, with the version in it."""
    return f"/static/{version()}/{name}"
