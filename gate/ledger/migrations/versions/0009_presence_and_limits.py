"""Add the presence of a job's caller, the cap of waiting jobs per user, and `hold_limit` as the reason of an end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

REASONS_BEFORE = "end_reason in ('queue_timeout', 'claim_timeout', 'lease_timeout')"
REASONS = "end_reason in ('queue_timeout', 'claim_timeout', 'lease_timeout', 'hold_limit')"


def upgrade() -> None:
    """Add the columns, and allow the new reason."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    op.add_column("jobs", sa.Column("presence_ms", sa.BigInteger), schema=schema)
    cap = sa.Column("queue_max_per_user", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("pools", cap, schema=schema)
    if sqlite:
        _replace_check_on_sqlite()
    else:
        op.execute("alter table gate.jobs drop constraint jobs_expired")
        check = f"check (status <> 'expired' or coalesce({REASONS}, false))"
        op.execute(f"alter table gate.jobs add constraint jobs_expired {check}")


def _replace_check_on_sqlite() -> None:
    """Change the text of the constraint in place, as migration 0005 does: each stored row satisfies the new text already."""
    connection = op.get_bind()
    version = connection.exec_driver_sql("pragma schema_version").scalar_one()
    connection.exec_driver_sql("pragma writable_schema = on")
    changed = connection.execute(
        sa.text(
            "update sqlite_master set sql = replace(sql, :before, :after) where name = 'jobs' and instr(sql, :before) > 0"
        ),
        {"before": REASONS_BEFORE, "after": REASONS},
    )
    connection.exec_driver_sql(f"pragma schema_version = {version + 1}")
    connection.exec_driver_sql("pragma writable_schema = off")
    if changed.rowcount != 1:
        raise RuntimeError("the constraint jobs_expired is not as the first schema made it: put a backup back")
