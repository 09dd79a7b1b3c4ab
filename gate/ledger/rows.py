"""From a row of `jobs` to a Job and back, and the statements that read jobs together with their refunds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.jobs import HOLDING, LIVE, REFUNDED, Job, Refund
from gate.ledger.prepared import Prepared
from gate.ledger.tables import jobs, ledger, owed

FIELDS = tuple(name for name in Job.__dataclass_fields__ if name in jobs.c)
_JSON = frozenset({"payload", "output"})
_FLAGS = frozenset({"starts", "tells", "settles"})
_columns = [jobs.c[name] for name in FIELDS]

jobs_with_refund = (
    sa.select(
        *_columns, ledger.c.amount.label("refund_amount"), ledger.c.at.label("refund_at"), owed.c.amount.label("owed_amount")
    )
    .outerjoin(ledger, (ledger.c.job_id == jobs.c.job_id) & (ledger.c.kind == "refund"))
    .outerjoin(owed, owed.c.job_id == jobs.c.job_id)
)

_refunded = jobs_with_refund.where(jobs.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))

# `ended_at is null` is said as well as the statuses: it is what the partial index is of.
is_live = jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(LIVE))
is_holding = jobs.c.ended_at.is_(None) & jobs.c.status.in_(sorted(HOLDING))

_literally_holding = sa.text("ended_at is null and status in ('granted', 'running')")
_held = Prepared(lambda: sa.select(sa.func.count()).where(jobs.c.pool == sa.bindparam("pool"), _literally_holding))


@cache
def _some(count: int) -> Prepared:
    names = [sa.bindparam(f"id{number}") for number in range(count)]
    return Prepared(lambda: sa.select(*_columns).where(jobs.c.job_id.in_(names)))


def job_of(row: Any) -> Job:
    """From a row of `jobs_with_refund`."""
    refund = Refund(row.refund_amount, row.refund_at) if row.refund_amount is not None else None
    if row.owed_amount is not None:
        refund = Refund(row.owed_amount, None, owed=True)
    return replace(_plain(row), refund=refund)


def _plain(row: Any) -> Job:
    values = dict(zip(FIELDS, row, strict=False))
    for name in _JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    for name in _FLAGS:
        values[name] = bool(values[name])  # SQLite has none
    return Job(**values)


def row_of(job: Job) -> dict[str, Any]:
    return {name: as_column(name, getattr(job, name)) for name in FIELDS}


def as_column(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON and value is not None else value


def several(connection: Connection, job_ids: Sequence[str]) -> dict[str, Job]:
    """Those of them that SQL knows. Only who may have a refund is looked up with it: nearly nobody, and it is dear."""
    count = 1 << (len(job_ids) - 1).bit_length()  # few texts: a name that is asked for twice is found once
    asked = {f"id{number}": job_ids[min(number, len(job_ids) - 1)] for number in range(count)}
    seen = {job.job_id: job for job in map(_plain, _some(count).rows(connection, **asked))}
    if refunded := [job.job_id for job in seen.values() if job.status in REFUNDED and job.credits]:
        seen |= {row.job_id: job_of(row) for row in connection.execute(_refunded, {"job_ids": refunded})}
    return seen


def find(connection: Connection, job_id: str) -> Job | None:
    return several(connection, [job_id]).get(job_id)


def held(connection: Connection, pool: str) -> int:
    """How many slots SQL says are held: granted and running."""
    return _held.rows(connection, pool=pool)[0][0]
