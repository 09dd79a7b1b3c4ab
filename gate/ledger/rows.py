"""From a row of `jobs` to a Job, and the statement that reads one together with its refund."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.jobs import HOLDING, LIVE, Job, Refund
from gate.ledger.tables import jobs, ledger, owed

_COPIED = tuple(name for name in Job.__dataclass_fields__ if name in jobs.c and name not in ("payload", "output"))

jobs_with_refund = (
    sa.select(
        jobs, ledger.c.amount.label("refund_amount"), ledger.c.at.label("refund_at"), owed.c.amount.label("owed_amount")
    )
    .outerjoin(ledger, (ledger.c.job_id == jobs.c.job_id) & (ledger.c.kind == "refund"))
    .outerjoin(owed, owed.c.job_id == jobs.c.job_id)
)

_one = jobs_with_refund.where(jobs.c.job_id == sa.bindparam("job_id"))

# `ended_at is null` is said as well as the statuses: it is what the partial index is of.
is_live = jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(LIVE))
is_holding = jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(HOLDING))

_held = sa.select(sa.func.count()).where(jobs.c.pool == sa.bindparam("pool"), is_holding)


def job_of(row: Any) -> Job:
    refund = Refund(row.refund_amount, row.refund_at) if row.refund_amount is not None else None
    if row.owed_amount is not None:
        refund = Refund(row.owed_amount, None, owed=True)
    return Job(
        **{name: getattr(row, name) for name in _COPIED},
        payload=json.loads(row.payload) if row.payload is not None else None,
        output=json.loads(row.output) if row.output is not None else None,
        refund=refund,
    )


def find(connection: Connection, job_id: str) -> Job | None:
    row = connection.execute(_one, {"job_id": job_id}).first()
    return job_of(row) if row is not None else None


def held(connection: Connection, pool: str) -> int:
    """How many slots SQL says are held: granted and running."""
    return connection.execute(_held, {"pool": pool}).scalar_one()
