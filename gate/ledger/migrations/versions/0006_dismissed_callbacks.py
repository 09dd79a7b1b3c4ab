"""A callback that could not be read may be dismissed: it is settled then, and belongs to no job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

SETTLED_BEFORE = "(applied_at is null) = (job_id is null)"
SETTLED = "(applied_at is null) = (outcome is null)"


def upgrade() -> None:
    """Let a callback be settled without a job."""
    if op.get_bind().dialect.name == "sqlite":
        _replace_check_on_sqlite()
    else:
        op.execute("alter table gate.unread_callbacks drop constraint unread_callbacks_applied")
        op.execute(f"alter table gate.unread_callbacks add constraint unread_callbacks_applied check ({SETTLED})")


def _replace_check_on_sqlite() -> None:
    """Change the text of the constraint in place, as migration 0005 does: each stored row satisfies the new text already."""
    connection = op.get_bind()
    version = connection.exec_driver_sql("pragma schema_version").scalar_one()
    connection.exec_driver_sql("pragma writable_schema = on")
    changed = connection.execute(
        sa.text(
            "update sqlite_master set sql = replace(sql, :before, :after)"
            " where name = 'unread_callbacks' and instr(sql, :before) > 0"
        ),
        {"before": SETTLED_BEFORE, "after": SETTLED},
    )
    connection.exec_driver_sql(f"pragma schema_version = {version + 1}")
    connection.exec_driver_sql("pragma writable_schema = off")
    if changed.rowcount != 1:
        raise RuntimeError("the constraint unread_callbacks_applied is not as migration 0005 made it: put a backup back")
