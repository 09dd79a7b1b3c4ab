"""Index the jobs that ended while their start calls were unanswered. A provider without a task marks them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the index."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    unanswered = sa.text("task_id is null and provider is not null")
    op.create_index("jobs_unanswered", "jobs", ["pool"], schema=schema, sqlite_where=unanswered, postgresql_where=unanswered)
