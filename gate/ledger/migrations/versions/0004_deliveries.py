"""Add deliveries to tools, callbacks of providers, and refunds that the owner's function has not paid yet."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the tables."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    job_id = f"{'' if sqlite else 'gate.'}jobs.job_id"
    serial = sa.Integer() if sqlite else sa.BigInteger()

    def partial(where: str) -> dict[str, Any]:
        return {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)}

    for name in ("starts", "tells", "settles"):
        op.add_column("jobs", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()), schema=schema)
    op.create_table(
        "deliveries",
        sa.Column("id", serial, primary_key=True, autoincrement=True),
        sa.Column("webhook_id", sa.Text, nullable=False, unique=True),
        sa.Column("job_id", sa.Text, sa.ForeignKey(job_id), nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("taken_by", sa.Text),
        sa.Column("taken_until", sa.BigInteger),
        sa.Column("done_at", sa.BigInteger),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.CheckConstraint("kind in ('start', 'event')", name="deliveries_kind"),
        sa.CheckConstraint("(done_at is null) = (result is null)", name="deliveries_done"),
        sa.CheckConstraint("(taken_by is null) = (taken_until is null)", name="deliveries_taken"),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_due", "deliveries", ["due_at"], schema=schema, **partial("done_at is null"))
    op.create_index("deliveries_order", "deliveries", ["job_id", "kind", "id"], schema=schema, **partial("done_at is null"))
    op.create_index("deliveries_job", "deliveries", ["job_id", "id"], schema=schema)
    op.create_table(
        "webhooks",
        sa.Column("id", serial, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("delivery_id", sa.Text, nullable=False),
        sa.Column("pool", sa.Text, sa.ForeignKey(f"{'' if sqlite else 'gate.'}pools.name"), nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("job_id", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("output", sa.Text),
        sa.Column("body", sa.Text),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.UniqueConstraint("provider", "pool", "delivery_id", name="webhooks_once"),
        sa.CheckConstraint("task_id is not null or job_id is not null", name="webhooks_about"),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_index("webhooks_task", "webhooks", ["provider", "task_id", "id"], schema=schema)
    op.create_index("webhooks_job", "webhooks", ["job_id", "id"], schema=schema)
    op.create_table(
        "owed",
        sa.Column("job_id", sa.Text, sa.ForeignKey(job_id), primary_key=True),
        sa.Column("user", sa.Text),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.CheckConstraint("amount > 0", name="owed_amount"),
        schema=schema,
    )
    op.create_index("owed_due", "owed", ["due_at"], schema=schema)
