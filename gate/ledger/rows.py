"""From a row of `jobs` to a Job and back, and the statements that read jobs together with their refunds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.jobs import HOLDING, LIVE, REFUNDED, Job, Refund
from gate.ledger.prepared import Prepared
from gate.ledger.tables import jobs, ledger, owed

FIELDS = tuple(name for name in Job._fields if name in jobs.c)
"""The first of a Job's, in their order."""
_JSON_FIELDS = ("payload", "output")
_COLUMNS = frozenset(FIELDS)
_JSON = [FIELDS.index(name) for name in _JSON_FIELDS]
_FLAGS = [FIELDS.index(name) for name in ("starts", "tells", "settles")]
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
_held = Prepared(lambda: sa.select(sa.func.count()).where(jobs.c.pool == sa.bindparam("pool"), _literally_holding), ["pool"])


@cache
def _some(count: int) -> Prepared:
    names = [f"id{number}" for number in range(count)]
    return Prepared(lambda: sa.select(*_columns).where(jobs.c.job_id.in_([sa.bindparam(name) for name in names])), names)


def job_of(row: Any) -> Job:
    """From a row of `jobs_with_refund`."""
    refund = Refund(row.refund_amount, row.refund_at) if row.refund_amount is not None else None
    if row.owed_amount is not None:
        refund = Refund(row.owed_amount, None, owed=True)
    return _plain(row[: len(FIELDS)])._replace(refund=refund)


def _plain(row: Sequence[Any]) -> Job:
    values = list(row)
    for place in _JSON:
        if values[place] is not None:
            values[place] = json.loads(values[place])
    for place in _FLAGS:
        values[place] = bool(values[place])  # SQLite has none
    return Job(*values)


def row_of(job: Job) -> list[Any]:
    values = list(job[: len(FIELDS)])
    for place in _JSON:
        if values[place] is not None:
            values[place] = json.dumps(values[place])
    return values


def as_columns(values: dict[str, Any]) -> dict[str, Any]:
    """Those of these fields of a job that are columns, as they are written."""
    return {
        name: json.dumps(value) if name in _JSON_FIELDS and value is not None else value
        for name, value in values.items()
        if name in _COLUMNS
    }


def several(connection: Connection, job_ids: Sequence[str]) -> dict[str, Job]:
    """Those of them that SQL knows. Only who may have a refund is looked up with it: nearly nobody, and it is dear."""
    count = 1 << (len(job_ids) - 1).bit_length()  # few texts: a name that is asked for twice is found once
    asked = [*job_ids, *job_ids[-1:] * (count - len(job_ids))]
    seen = {job.job_id: job for job in map(_plain, _some(count).rows(connection, *asked))}
    if refunded := [job.job_id for job in seen.values() if job.status in REFUNDED and job.credits]:
        seen |= {row.job_id: job_of(row) for row in connection.execute(_refunded, {"job_ids": refunded})}
    return seen


def find(connection: Connection, job_id: str) -> Job | None:
    return several(connection, [job_id]).get(job_id)


def held(connection: Connection, pool: str) -> int:
    """How many slots SQL says are held: granted and running."""
    return _held.rows(connection, pool)[0][0]
