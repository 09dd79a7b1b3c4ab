"""Names that no other test uses."""

from __future__ import annotations

import secrets


def fresh(prefix: str = "j") -> str:
    return f"{prefix}-{secrets.token_hex(6)}"
