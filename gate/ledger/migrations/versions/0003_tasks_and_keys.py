"""Add the provider's task of a job, API keys, and an index for the length of runs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns, the tables and the index."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    prefix = "" if sqlite else "gate."
    completed: dict[str, Any] = {
        "sqlite_where": sa.text("status = 'completed'"),
        "postgresql_where": sa.text("status = 'completed'"),
    }
    op.add_column("jobs", sa.Column("provider", sa.Text), schema=schema)
    op.add_column("jobs", sa.Column("task_id", sa.Text), schema=schema)
    op.create_index("jobs_completed", "jobs", ["pool", "ended_at"], schema=schema, **completed)
    op.create_table(
        "tasks",
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column("job_id", sa.Text, sa.ForeignKey(f"{prefix}jobs.job_id"), nullable=False),
        sa.Column("lease_id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        schema=schema,
    )
    op.create_index("tasks_job", "tasks", ["job_id"], schema=schema)
    op.create_table(
        "keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.CheckConstraint("role in ('tool', 'admin', 'read')", name="keys_role"),
        schema=schema,
    )
