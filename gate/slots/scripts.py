"""Texts of the Lua scripts. They come from `lua/` of the checkout, or from its copy inside the wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent.parent / "lua"
FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent.parent / "lua"
"""Folder of the Lua files."""

WITH_PRELUDE = (
    "acquire",
    "claim",
    "renew",
    "hold",
    "release",
    "drain",
    "requeue",
    "restore",
    "undo",
    "cancel",
    "configure",
    "tick",
    "status",
    "shift",
)
"""Scripts that work on a pool that Redis has loaded. The prelude is put before each."""
ALONE = ("rebuild", "inspect")
"""Scripts that run without the prelude."""


def source(verb: str) -> str:
    """Return the whole text of a script, with the prelude when it needs it.

    Args:
        verb: Name of the Lua file without its suffix.
    """
    body = (FOLDER / f"{verb}.lua").read_text()
    return body if verb in ALONE else (FOLDER / "_prelude.lua").read_text() + body
