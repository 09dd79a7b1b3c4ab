"""Add indexes by which the newest jobs of a pool, and those of a user, are found among millions that have ended."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the indexes."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    op.create_index("jobs_newest", "jobs", ["pool", "enqueued_at", "ticket"], schema=schema)
    op.create_index("jobs_user", "jobs", ["user", "enqueued_at"], schema=schema)
