"""The tables as the code sees them. `migrations/` creates them, and a test holds the two equal.

All times are milliseconds since 1970, and all credits are integers. The schema is `gate` on Postgres; SQLite has none.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(schema="gate")

Serial = BigInteger().with_variant(Integer, "sqlite")
"""Type of an ID that SQL assigns. SQLite assigns one only in a column of exactly this type, INTEGER."""

pools = Table(
    "pools",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("void_fence", BigInteger, nullable=False),
    Column("void_ticket", BigInteger, nullable=False),
    Column("limit", BigInteger, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("max_hold_ms", BigInteger, nullable=False),
    Column("claim_ms", BigInteger, nullable=False),
    Column("queue_ms", BigInteger, nullable=False),
    Column("queue_max", BigInteger, nullable=False),
    Column("cooldown_ms", BigInteger, nullable=False),
    Column("max_active_per_user", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("configured", Text, nullable=False),
    Column("redis_identity", Text, nullable=False),
    Column("redis_former", Text, nullable=False),
    Column("ledger_id", Text, nullable=False),
    Column("deleted_at", BigInteger),
    Column("refusals_before_passing", BigInteger, nullable=False, server_default=text("3")),
    Column("stood_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("stood_at", BigInteger, nullable=False, server_default=text("0")),
    Column("queue_max_per_user", BigInteger, nullable=False, server_default=text("0")),
    Column("clock_ahead_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("accounts", Text, nullable=False, server_default=text("''")),
    Column("room", BigInteger),
    Column("cancel_refunds", Text, nullable=False, server_default="always"),
    CheckConstraint('epoch >= 0 and "limit" >= 0', name="pools_counts"),
)

COMPLETED = text("status = 'completed'")
LIVE = "'queued', 'granted', 'running'"
REFUNDED = "'failed', 'cancelled', 'expired'"

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("pool", Text, ForeignKey("gate.pools.name"), nullable=False),
    Column("status", Text, nullable=False),
    Column("user", Text),
    Column("tool", Text),
    Column("session", Text),
    Column("credits", BigInteger, nullable=False),
    Column("payload", Text),
    Column("ticket", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_id", Text),
    Column("lease_ms", BigInteger, nullable=False),
    Column("enqueued_at", BigInteger, nullable=False),
    Column("granted_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("hard_expires_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("ended_by", Text),
    Column("end_reason", Text),
    Column("error", Text),
    Column("output", Text),
    Column("late_outcome", Text),
    Column("pruned_at", BigInteger),
    Column("provider", Text),
    Column("task_id", Text),
    Column("starts", Boolean, nullable=False, server_default=false()),
    Column("tells", Boolean, nullable=False, server_default=false()),
    Column("settles", Boolean, nullable=False, server_default=false()),
    Column("queue_ms", BigInteger),
    Column("late_output", Text),
    Column("refusals", BigInteger, nullable=False, server_default=text("0")),
    Column("stood_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("presence_ms", BigInteger),
    Column("account", Text),
    Column("cancel_refunds", Text, nullable=False, server_default="always"),
    Column("retries", BigInteger, nullable=False, server_default=text("0")),
    Column("error_kind", Text),
    CheckConstraint(f"status in ({LIVE}, 'completed', {REFUNDED})", name="jobs_status"),
    CheckConstraint(f"(ended_at is null) = (status in ({LIVE}))", name="jobs_ended"),
    CheckConstraint("(ended_at is null) = (ended_by is null)", name="jobs_ended_by"),
    CheckConstraint("credits between 0 and 1000000000", name="jobs_credits"),
    CheckConstraint(
        "status not in ('granted', 'running') or (fence > 0 and lease_id is not null and granted_at is not null"
        " and expires_at is not null and hard_expires_at is not null)",
        name="jobs_lease",
    ),
    CheckConstraint(
        "status <> 'expired' or coalesce(end_reason in ('queue_timeout', 'claim_timeout', 'lease_timeout', 'hold_limit'), false)",
        name="jobs_expired",
    ),
    CheckConstraint(f"late_outcome is null or status in ({REFUNDED})", name="jobs_late"),
    CheckConstraint("pruned_at is null or ended_at is not null", name="jobs_pruned"),
)
Index(
    "jobs_live",
    jobs.c.pool,
    jobs.c.status,
    sqlite_where=text("ended_at is null"),
    postgresql_where=text("ended_at is null"),
)
Index(
    "jobs_live_user",
    jobs.c.user,
    sqlite_where=text("ended_at is null"),
    postgresql_where=text("ended_at is null"),
)

Index("jobs_newest", jobs.c.pool, jobs.c.enqueued_at, jobs.c.ticket)
Index("jobs_user", jobs.c.user, jobs.c.enqueued_at)
UNANSWERED = text("task_id is null and provider is not null")
Index("jobs_unanswered", jobs.c.pool, sqlite_where=UNANSWERED, postgresql_where=UNANSWERED)
Index("jobs_completed", jobs.c.pool, jobs.c.ended_at, sqlite_where=COMPLETED, postgresql_where=COMPLETED)

tasks = Table(
    "tasks",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("task_id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("gate.jobs.job_id"), nullable=False),
    Column("lease_id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("account", Text),
    Column("state", Text),
    Column("stop", Text),
    Column("taken_by", Text),
    Column("asked_since", BigInteger),
    Column("ask_at", BigInteger),
    Column("heard_at", BigInteger),
    Column("silent_since", BigInteger),
    Column("denied_at", BigInteger),
    Column("stop_at", BigInteger),
    Column("taken_until", BigInteger),
    Column("questions", BigInteger, nullable=False, server_default=text("0")),
)
Index("tasks_job", tasks.c.job_id)
ASKED = text("ask_at is not null")
Index("tasks_asked", tasks.c.ask_at, sqlite_where=ASKED, postgresql_where=ASKED)

accounts = Table(
    "accounts",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("next_at", BigInteger, nullable=False),
    Column("pool", Text),
    Column("limit", BigInteger),
    Column("capacity", Text),
    Column("drain_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("provider_limit", BigInteger),
    Column("strangers", BigInteger),
    Column("room", BigInteger),
    Column("seen_room", BigInteger),
    Column("seen_at", BigInteger),
    Column("looked_at", BigInteger),
    Column("look_at", BigInteger, nullable=False, server_default=text("0")),
    Column("refused_at", BigInteger),
    Column("cooling_until", BigInteger),
    Column("down_since", BigInteger),
    Column("why", Text),
)

DUE = text("done_at is null")

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("webhook_id", Text, nullable=False, unique=True),
    Column("job_id", Text, ForeignKey("gate.jobs.job_id"), nullable=False),
    Column("tool", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("body", Text),
    Column("at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("taken_by", Text),
    Column("taken_until", BigInteger),
    Column("done_at", BigInteger),
    Column("result", Text),
    Column("error", Text),
    CheckConstraint("kind in ('start', 'event')", name="deliveries_kind"),
    CheckConstraint("(done_at is null) = (result is null)", name="deliveries_done"),
    CheckConstraint("(taken_by is null) = (taken_until is null)", name="deliveries_taken"),
    sqlite_autoincrement=True,
)
Index("deliveries_due", deliveries.c.due_at, sqlite_where=DUE, postgresql_where=DUE)
Index(
    "deliveries_order",
    deliveries.c.job_id,
    deliveries.c.kind,
    deliveries.c.id,
    sqlite_where=DUE,
    postgresql_where=DUE,
)
Index("deliveries_job", deliveries.c.job_id, deliveries.c.id)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("provider", Text, nullable=False),
    Column("delivery_id", Text, nullable=False),
    Column("pool", Text, ForeignKey("gate.pools.name"), nullable=False),
    Column("task_id", Text),
    Column("job_id", Text),
    Column("outcome", Text, nullable=False),
    Column("error", Text),
    Column("output", Text),
    Column("error_kind", Text),
    Column("body", Text),
    Column("verdict", Text, nullable=False),
    UniqueConstraint("provider", "pool", "delivery_id", name="webhooks_once"),
    CheckConstraint("task_id is not null or job_id is not null", name="webhooks_about"),
    sqlite_autoincrement=True,
)
Index("webhooks_task", webhooks.c.provider, webhooks.c.task_id, webhooks.c.id)
Index("webhooks_job", webhooks.c.job_id, webhooks.c.id)

unread_callbacks = Table(
    "unread_callbacks",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("provider", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("task_id", Text),
    Column("hash", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("applied_at", BigInteger),
    Column("applied_by", Text),
    Column("job_id", Text),
    Column("outcome", Text),
    Column("reason", Text),
    UniqueConstraint("provider", "pool", "hash", name="unread_callbacks_once"),
    CheckConstraint("(applied_at is null) = (outcome is null)", name="unread_callbacks_applied"),
    sqlite_autoincrement=True,
)
Index("unread_callbacks_task", unread_callbacks.c.provider, unread_callbacks.c.task_id)
Index("unread_callbacks_job", unread_callbacks.c.job_id)

owed = Table(
    "owed",
    metadata,
    Column("job_id", Text, ForeignKey("gate.jobs.job_id"), primary_key=True),
    Column("user", Text),
    Column("pool", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("error", Text),
    CheckConstraint("amount > 0", name="owed_amount"),
)
Index("owed_due", owed.c.due_at)

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("shown", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    CheckConstraint("role in ('tool', 'admin', 'read')", name="keys_role"),
)

servers = Table(
    "servers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("clock_ms", BigInteger, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("job_id", Text, ForeignKey("gate.jobs.job_id"), nullable=False),
    Column("user", Text),
    Column("pool", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    UniqueConstraint("job_id", "kind", name="ledger_once"),
    CheckConstraint("kind in ('charge', 'refund')", name="ledger_kind"),
    CheckConstraint("amount > 0", name="ledger_amount"),
    sqlite_autoincrement=True,
)
Index("ledger_user", ledger.c.user, ledger.c.id)

events = Table(
    "events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("pool", Text, nullable=False),
    Column("job_id", Text),
    Column("kind", Text, nullable=False),
    Column("fence", BigInteger),
    Column("by", Text, nullable=False),
    Column("why", Text),
    sqlite_autoincrement=True,
)
Index("events_job", events.c.job_id, events.c.id)
OF_POOLS = text("job_id is null")
Index("events_pools", events.c.id, sqlite_where=OF_POOLS, postgresql_where=OF_POOLS)
OFF_CLOCK = text("clock_ahead_ms <> 0")
Index("pools_off_clock", pools.c.name, sqlite_where=OFF_CLOCK, postgresql_where=OFF_CLOCK)
