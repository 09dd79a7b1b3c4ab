"""Add how often a job was started again after a failure of its provider, and the kind of the failure that ended it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the columns."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    op.add_column("jobs", sa.Column("retries", sa.BigInteger, nullable=False, server_default="0"), schema=schema)
    op.add_column("jobs", sa.Column("error_kind", sa.Text), schema=schema)
