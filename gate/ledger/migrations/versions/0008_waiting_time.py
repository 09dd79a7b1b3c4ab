"""Count the refusals of a job, and the time in which its pool stood still, which counts against no wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

COLUMNS = {
    "pools": {"refusals_before_passing": "3", "stood_ms": "0", "stood_at": "0"},
    "jobs": {"refusals": "0", "stood_ms": "0"},
}
"""The new columns of each table, with the value that existing rows get."""


def upgrade() -> None:
    """Add the columns. A constant default touches no stored row, on both databases."""
    schema = None if op.get_bind().dialect.name == "sqlite" else "gate"
    for table, columns in COLUMNS.items():
        for name, value in columns.items():
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text(value)), schema=schema)
