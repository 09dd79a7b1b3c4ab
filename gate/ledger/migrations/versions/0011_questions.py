"""Add questions about tasks to their providers, the stops of tasks, and the accounts that share a limit of questions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns and the table."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    op.add_column("jobs", sa.Column("account", sa.Text), schema=schema)
    for name in ("account", "state", "stop", "taken_by"):
        op.add_column("tasks", sa.Column(name, sa.Text), schema=schema)
    for name in ("asked_since", "ask_at", "heard_at", "silent_since", "denied_at", "stop_at", "taken_until"):
        op.add_column("tasks", sa.Column(name, sa.BigInteger), schema=schema)
    questions = sa.Column("questions", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("tasks", questions, schema=schema)
    asked = sa.text("ask_at is not null")
    op.create_index("tasks_asked", "tasks", ["ask_at"], schema=schema, sqlite_where=asked, postgresql_where=asked)
    op.create_table(
        "accounts",
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        schema=schema,
    )
