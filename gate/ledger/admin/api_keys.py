"""The keys that callers show: 32 random bytes with a prefix and a checksum. SQL holds their SHA-256 and never the key."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.tables import keys
from gate.model.job import now_ms

ROLES = ("tool", "admin", "read")
_FORM = re.compile(r"gate_(?:tool|admin|read)_[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """`shown` is the beginning of the key, enough to know it again. `hash` is the SHA-256 of the whole, in hex."""

    name: str
    role: str
    hash: str
    shown: str
    created_at: int
    revoked_at: int | None


def mint(role: str) -> str:
    """A new key, such as `gate_tool_<64 hex digits><8 of a checksum>`."""
    body = f"gate_{role}_{secrets.token_hex(32)}"
    return body + _checksum(body)


def is_key(text: str) -> bool:
    """Whether this has the form of a key: a typing mistake, or half of one, is found without SQL."""
    body, checksum = text[:-8], text[-8:]
    return _FORM.fullmatch(body) is not None and _checksum(body) == checksum


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def create(connection: Connection, name: str, role: str) -> str | None:
    """The key, told once; None when there is, or was, one of that name."""
    if connection.execute(sa.select(keys.c.name).where(keys.c.name == name)).first() is not None:
        return None
    made = mint(role)
    shown = made[: len(f"gate_{role}_") + 6]
    connection.execute(
        keys.insert().values(name=name, role=role, hash=digest(made), shown=shown, created_at=now_ms(), revoked_at=None)
    )
    return made


def revoke(connection: Connection, name: str) -> bool:
    """False when there is none of that name, or it was revoked before."""
    living = keys.update().where(keys.c.name == name, keys.c.revoked_at.is_(None))
    return connection.execute(living.values(revoked_at=now_ms())).rowcount == 1


def every(connection: Connection) -> list[Key]:
    return [Key(*row) for row in connection.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.name))]


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
