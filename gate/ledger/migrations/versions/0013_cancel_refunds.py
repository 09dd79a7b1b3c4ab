"""Add whether a job that is cancelled after its start is refunded: to pools, and to each job as it was at its admission."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the columns."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table in ("pools", "jobs"):
        rule = sa.Column("cancel_refunds", sa.Text, nullable=False, server_default="always")
        op.add_column(table, rule, schema=None if sqlite else "gate")
