"""Add the Redis of a pool and its former ones, the ledger's ID there, void tickets, and when a job was pruned."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, and give each pool a ledger ID."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    schema = None if sqlite else "gate"
    pools = "pools" if sqlite else "gate.pools"
    for name in ("redis_identity", "redis_former", "ledger_id"):
        op.add_column("pools", sa.Column(name, sa.Text, nullable=False, server_default=""), schema=schema)
    op.add_column("pools", sa.Column("void_ticket", sa.BigInteger, nullable=False, server_default="0"), schema=schema)
    for (name,) in op.get_bind().exec_driver_sql(f"select name from {pools}").fetchall():
        own = sa.text(f"update {pools} set ledger_id = :own where name = :name")
        op.get_bind().execute(own, {"own": secrets.token_hex(8), "name": name})
    pruned = "check (pruned_at is null or ended_at is not null)"
    if sqlite:
        op.execute(f"alter table jobs add column pruned_at bigint constraint jobs_pruned {pruned}")
    else:
        op.execute("alter table gate.jobs add column pruned_at bigint")
        op.execute(f"alter table gate.jobs add constraint jobs_pruned {pruned}")
