"""Add the table of servers, by which they share the ticks of the pools, and indexes for what each server reads all the time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the table and the indexes."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    op.create_table(
        "servers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("clock_ms", sa.BigInteger, nullable=False),
        schema=schema,
    )
    for name, table, column, where in (
        ("events_pools", "events", "id", "job_id is null"),
        ("pools_off_clock", "pools", "name", "clock_ahead_ms <> 0"),
    ):
        op.create_index(name, table, [column], schema=schema, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
