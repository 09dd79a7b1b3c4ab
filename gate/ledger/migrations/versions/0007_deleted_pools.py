"""A pool may be deleted. Its row stays for the jobs that name it, and for its epoch: a pool of the same name begins above it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the time of the deletion."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    op.add_column("pools", sa.Column("deleted_at", sa.BigInteger), schema=schema)
