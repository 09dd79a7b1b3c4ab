"""The Lua files, as shipped: `lua/` of the checkout, or its copy inside the wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent.parent / "lua"
FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent.parent / "lua"

WITH_PRELUDE = (
    "acquire",
    "claim",
    "renew",
    "hold",
    "release",
    "requeue",
    "restore",
    "undo",
    "cancel",
    "configure",
    "tick",
    "status",
)
ALONE = ("rebuild", "inspect")


def source(verb: str) -> str:
    """The whole text of one verb's script."""
    body = (FOLDER / f"{verb}.lua").read_text()
    return body if verb in ALONE else (FOLDER / "_prelude.lua").read_text() + body
