"""Create the tables of pools, jobs, the ledger and events."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LIVE = "'queued', 'granted', 'running'"
REFUNDED = "'failed', 'cancelled', 'expired'"

_INSERT_ONLY_SQLITE = """
create trigger ledger_no_{verb} before {verb} on ledger
begin select raise(abort, 'the ledger is insert-only'); end
"""
_OUTCOME_SQLITE = """
create trigger jobs_outcome_stays before update of status on jobs when old.ended_at is not null and new.status <> old.status
begin select raise(abort, 'an outcome never changes again'); end
"""
_INSERT_ONLY_POSTGRES = """
create function gate.refuse_change() returns trigger language plpgsql as $$
begin raise exception '%', tg_argv[0]; end $$
"""


def upgrade() -> None:
    """Create the tables, and the triggers that protect the ledger and outcomes."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    prefix = "" if sqlite else "gate."
    serial = sa.Integer() if sqlite else sa.BigInteger()
    partial: dict[str, Any] = {"sqlite_where": sa.text("ended_at is null"), "postgresql_where": sa.text("ended_at is null")}

    op.create_table(
        "pools",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("void_fence", sa.BigInteger, nullable=False),
        sa.Column("limit", sa.BigInteger, nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sa.Column("max_hold_ms", sa.BigInteger, nullable=False),
        sa.Column("claim_ms", sa.BigInteger, nullable=False),
        sa.Column("queue_ms", sa.BigInteger, nullable=False),
        sa.Column("queue_max", sa.BigInteger, nullable=False),
        sa.Column("cooldown_ms", sa.BigInteger, nullable=False),
        sa.Column("max_active_per_user", sa.BigInteger, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("configured", sa.Text, nullable=False),
        sa.CheckConstraint('epoch >= 0 and "limit" >= 0', name="pools_counts"),
        schema=schema,
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("pool", sa.Text, sa.ForeignKey(f"{prefix}pools.name"), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("user", sa.Text),
        sa.Column("tool", sa.Text),
        sa.Column("session", sa.Text),
        sa.Column("credits", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.Text),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("lease_id", sa.Text),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sa.Column("enqueued_at", sa.BigInteger, nullable=False),
        sa.Column("granted_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("hard_expires_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("ended_by", sa.Text),
        sa.Column("end_reason", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("output", sa.Text),
        sa.Column("late_outcome", sa.Text),
        sa.CheckConstraint(f"status in ({LIVE}, 'completed', {REFUNDED})", name="jobs_status"),
        sa.CheckConstraint(f"(ended_at is null) = (status in ({LIVE}))", name="jobs_ended"),
        sa.CheckConstraint("(ended_at is null) = (ended_by is null)", name="jobs_ended_by"),
        sa.CheckConstraint("credits between 0 and 1000000000", name="jobs_credits"),
        sa.CheckConstraint(
            "status not in ('granted', 'running') or (fence > 0 and lease_id is not null and granted_at is not null"
            " and expires_at is not null and hard_expires_at is not null)",
            name="jobs_lease",
        ),
        sa.CheckConstraint(
            "status <> 'expired' or coalesce(end_reason in ('queue_timeout', 'claim_timeout', 'lease_timeout'), false)",
            name="jobs_expired",
        ),
        sa.CheckConstraint("late_outcome is null or status = 'expired'", name="jobs_late"),
        schema=schema,
    )
    op.create_index("jobs_live", "jobs", ["pool", "status"], schema=schema, **partial)
    op.create_index("jobs_live_user", "jobs", ["user"], schema=schema, **partial)
    op.create_table(
        "ledger",
        sa.Column("id", serial, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("job_id", sa.Text, sa.ForeignKey(f"{prefix}jobs.job_id"), nullable=False),
        sa.Column("user", sa.Text),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("job_id", "kind", name="ledger_once"),
        sa.CheckConstraint("kind in ('charge', 'refund')", name="ledger_kind"),
        sa.CheckConstraint("amount > 0", name="ledger_amount"),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_index("ledger_user", "ledger", ["user", "id"], schema=schema)
    op.create_table(
        "events",
        sa.Column("id", serial, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_index("events_job", "events", ["job_id", "id"], schema=schema)

    if sqlite:
        op.execute(_INSERT_ONLY_SQLITE.format(verb="update"))
        op.execute(_INSERT_ONLY_SQLITE.format(verb="delete"))
        op.execute(_OUTCOME_SQLITE)
        return
    op.execute(_INSERT_ONLY_POSTGRES)
    op.execute(
        "create trigger ledger_insert_only before update or delete or truncate on gate.ledger for each statement"
        " execute function gate.refuse_change('the ledger is insert-only')"
    )
    op.execute(
        "create trigger jobs_outcome_stays before update of status on gate.jobs for each row"
        " when (old.ended_at is not null and new.status <> old.status)"
        " execute function gate.refuse_change('an outcome never changes again')"
    )


def downgrade() -> None:
    """Refuse, since no schema comes before this one.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError("there is nothing before the first schema: keep a backup, or drop the database")
