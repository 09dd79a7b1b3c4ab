"""From a row of `jobs` to a Job and back, and the statements that read jobs together with their refunds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic_core import from_json, to_json
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPICursor

from gate.ledger.sql.statements import ScalarQuery
from gate.ledger.sql.tables import jobs, ledger, owed
from gate.model.job import HOLDING, LIVE, REFUNDED, Job, Refund

FIELDS = tuple(name for name in Job._fields if name in jobs.c)
"""The first of a Job's, in their order."""
_JSON_FIELDS = ("payload", "output", "late_output")
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

_names = ", ".join(f'"{name}"' for name in FIELDS)
_held = "(select count(*) from {} where pool = {} and ended_at is null and status in ('granted', 'running'))"
_seen = ScalarQuery(
    f"select json_object('held', {_held.format('jobs', '?')}, 'jobs', json_group_array(json_array({_names})))"
    " from jobs where job_id in (select value from json_each(?))",
    f"select json_build_object('held', {_held.format('gate.jobs', '%s')}, 'jobs',"
    f" coalesce(json_agg(json_build_array({_names})), '[]'))::text from gate.jobs"
    " where job_id = any(%s)",
)


def job_of(row: sa.Row[*tuple[Any, ...]]) -> Job:
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


def look(connection: Connection, pool: str, job_ids: Sequence[str]) -> tuple[dict[str, Job], int]:
    """Those of them that SQL knows, and how many slots of the pool it says are held: granted and running."""
    return seen(connection, looking(connection, pool, job_ids))


def looking(connection: Connection, pool: str, job_ids: Sequence[str]) -> DBAPICursor:
    """The cursor that `seen` reads."""
    asked = to_json(job_ids).decode() if connection.dialect.name == "sqlite" else list(job_ids)
    return _seen.ask(connection, pool, asked)


def seen(connection: Connection, looking: DBAPICursor) -> tuple[dict[str, Job], int]:
    """Only who may have a refund is looked up with it: nearly nobody, and it is dear."""
    row = looking.fetchone()
    assert row is not None
    told = from_json(row[0])
    found = {job.job_id: job for job in map(_plain, told["jobs"])}
    if refunded := [job.job_id for job in found.values() if job.status in REFUNDED and job.credits]:
        found |= {row.job_id: job_of(row) for row in connection.execute(_refunded, {"job_ids": refunded})}
    return found, told["held"]


def find(connection: Connection, job_id: str) -> Job | None:
    return look(connection, "", [job_id])[0].get(job_id)
