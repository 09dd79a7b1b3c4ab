"""What a watched copy of gate calls in each function: writes its name to the file that the run named."""

from __future__ import annotations

import os

_file = os.open(os.environ.get("MUTATION_SEEN", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def seen(name: str) -> None:
    os.write(_file, name.encode() + b"\n")
