"""What a page loads beside its HTML: read once, under addresses that change with the content, kept by the browser for ever."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Content and type of each, by name."""
    found = sorted(path for path in FOLDER.iterdir() if path.suffix in TYPES)
    return {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in found}


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
