"""API keys of callers. A key is 32 random bytes with a prefix and a checksum. SQL holds only its SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.engines import visit
from gate.ledger.sql.tables import keys
from gate.model.errors import CannotStart
from gate.model.job import now_ms

ROLES = ("tool", "admin", "read")
"""What a key may do; docs/http.md says which routes each role may call."""
UNREACHED = "the keys cannot be reached"
_FORM = re.compile(r"gate_(?:tool|admin|read)_[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as SQL has it.

    Attributes:
        name: Name of the key, unique for ever.
        role: One of ROLES.
        hash: SHA-256 of the whole key, in hex.
        shown: Beginning of the key, by which its user recognises it.
        created_at: When it was created (ms since 1970).
        revoked_at: When it was revoked (ms since 1970); None while it is valid.
    """

    name: str
    role: str
    hash: str
    shown: str
    created_at: int
    revoked_at: int | None


def mint(role: str) -> str:
    """Generate a key, such as `gate_tool_<64 hex digits><8 hex digits of a checksum>`.

    Args:
        role: One of ROLES.
    """
    body = f"gate_{role}_{secrets.token_hex(32)}"
    return body + _checksum(body)


def is_key(text: str) -> bool:
    """Return whether the text has the form of a key. So a mistyped or truncated key is refused without SQL."""
    body, checksum = text[:-8], text[-8:]
    return _FORM.fullmatch(body) is not None and _checksum(body) == checksum


def digest(text: str) -> str:
    """Return the SHA-256 of a key, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def every(connection: Connection) -> list[Key]:
    """Return all keys, in order of their creation."""
    return [Key(*row) for row in connection.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.name))]


# ---- for the terminal: only SQL is needed, so this works while no server runs


def list_all(url: str) -> list[Key]:
    """Return all keys, in order of their creation.

    Args:
        url: Address of the ledger.

    Raises:
        CannotStart: The ledger cannot be reached.
    """
    with visit(url, UNREACHED, writes=False) as connection:
        return every(connection)


def create(url: str, name: str, role: str) -> str:
    """Create a key. Only this call returns it.

    Args:
        url: Address of the ledger.
        name: Name of the key.
        role: One of ROLES.

    Raises:
        CannotStart: A key of this name exists, valid or revoked, or the ledger cannot be reached.
    """
    with visit(url, UNREACHED, writes=True) as connection:
        if connection.execute(sa.select(keys.c.name).where(keys.c.name == name)).first() is not None:
            raise CannotStart(f"there is, or was, a key named {name!r}: take another name")
        made = mint(role)
        shown = made[: len(f"gate_{role}_") + 6]
        row = {"name": name, "role": role, "hash": digest(made), "shown": shown, "created_at": now_ms(), "revoked_at": None}
        connection.execute(keys.insert().values(**row))
        return made


def revoke(url: str, name: str) -> None:
    """Revoke a key.

    Args:
        url: Address of the ledger.
        name: Name of the key.

    Raises:
        CannotStart: There is no valid key of this name, or the ledger cannot be reached.
    """
    living = keys.update().where(keys.c.name == name, keys.c.revoked_at.is_(None))
    with visit(url, UNREACHED, writes=True) as connection:
        if connection.execute(living.values(revoked_at=now_ms())).rowcount != 1:
            raise CannotStart(f"there is no valid key named {name!r}")


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
