"""Gates on stores that they share."""

from __future__ import annotations

from pathlib import Path

from tests.support.gate_process import Served

ADDRESSES = ("GATE_REDIS_URL", "GATE_DATABASE_URL")


def gate_on(folder: Path, stores: dict[str, str], port: int, *flags: str, **more: str) -> Served:
    """A gate on a port that it keeps through its restarts."""
    folder.mkdir()
    return Served(folder, "--port", str(port), *flags, config="limit = 50\n", on_defaults=True, **stores, **more)
