"""Add the clock of a pool: by how much that of Redis is ahead of it. Deadlines in SQL are by the pool's clock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; no clock has stepped yet."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    column = sa.Column("clock_ahead_ms", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("pools", column, schema=schema)
