"""Add the capacity of accounts, and the accounts and the room of pools."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the columns."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    op.add_column("pools", sa.Column("accounts", sa.Text, nullable=False, server_default=""), schema=schema)
    op.add_column("pools", sa.Column("room", sa.BigInteger), schema=schema)
    for name in ("pool", "capacity", "why"):
        op.add_column("accounts", sa.Column(name, sa.Text), schema=schema)
    for name in ("limit", "provider_limit", "strangers", "room", "seen_room"):
        op.add_column("accounts", sa.Column(name, sa.BigInteger), schema=schema)
    for name in ("seen_at", "looked_at", "refused_at", "cooling_until", "down_since"):
        op.add_column("accounts", sa.Column(name, sa.BigInteger), schema=schema)
    for name in ("drain_ms", "look_at"):
        op.add_column("accounts", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"), schema=schema)
