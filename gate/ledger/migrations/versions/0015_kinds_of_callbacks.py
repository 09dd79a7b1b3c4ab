"""Add the kind of a failure to callbacks, so that one that waits for its task is tried again as any other."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the column."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    op.add_column("webhooks", sa.Column("error_kind", sa.Text), schema=schema)
