"""Add the queue time of a job, the output of a late success, and callbacks that could not be read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

LATE_BEFORE = "late_outcome is null or status = 'expired'"
LATE = "late_outcome is null or status in ('failed', 'cancelled', 'expired')"


def upgrade() -> None:
    """Add the columns and the table, and allow a late outcome for every refunded job."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    serial = sa.Integer() if sqlite else sa.BigInteger()
    op.add_column("jobs", sa.Column("queue_ms", sa.BigInteger), schema=schema)
    op.add_column("jobs", sa.Column("late_output", sa.Text), schema=schema)
    if sqlite:
        _replace_check_on_sqlite()
    else:
        op.execute("alter table gate.jobs drop constraint jobs_late")
        op.execute(f"alter table gate.jobs add constraint jobs_late check ({LATE})")
    op.create_table(
        "unread_callbacks",
        sa.Column("id", serial, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("times", sa.BigInteger, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("applied_at", sa.BigInteger),
        sa.Column("applied_by", sa.Text),
        sa.Column("job_id", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("reason", sa.Text),
        sa.UniqueConstraint("provider", "pool", "hash", name="unread_callbacks_once"),
        sa.CheckConstraint("(applied_at is null) = (job_id is null)", name="unread_callbacks_applied"),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_index("unread_callbacks_task", "unread_callbacks", ["provider", "task_id"], schema=schema)
    op.create_index("unread_callbacks_job", "unread_callbacks", ["job_id"], schema=schema)


def _replace_check_on_sqlite() -> None:
    """Change the text of the constraint in place. SQLite's documentation describes that for changes that touch no stored row.

    A copy of the table would take minutes with a million jobs, and foreign keys would have to be off meanwhile.
    """
    connection = op.get_bind()
    version = connection.exec_driver_sql("pragma schema_version").scalar_one()
    connection.exec_driver_sql("pragma writable_schema = on")
    changed = connection.execute(
        sa.text(
            "update sqlite_master set sql = replace(sql, :before, :after) where name = 'jobs' and instr(sql, :before) > 0"
        ),
        {"before": LATE_BEFORE, "after": LATE},
    )
    connection.exec_driver_sql(f"pragma schema_version = {version + 1}")
    connection.exec_driver_sql("pragma writable_schema = off")
    if changed.rowcount != 1:
        raise RuntimeError("the constraint jobs_late is not as the first schema made it: put a backup back")
