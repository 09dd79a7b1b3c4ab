"""Facts of a job from both stores: the one set that sentences and JSON are made from.

SQL has nearly all of it. Only Redis has the current places in slots and queue. When Redis does not answer, the facts say so,
and the places are those that SQL has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from gate.coordination.queries import JobQueries, PoolSnapshot
from gate.ledger import LedgerQueries
from gate.ledger.reports.timeline import JobTimeline
from gate.model.job import Job, now_ms
from gate.model.job_json import job_body, moment, task_body

LINE_MAX = 1000
"""Most holders and most waiters that are read from Redis, so that the cost of a long queue is bounded."""
TRIES = 5
"""Attempts to read the same status from both stores. A job may move between the two reads."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one job at one moment.

    Attributes:
        story: Everything that SQL has about the job.
        job: The job. Its place is Redis's if `redis` is None.
        now_ms: Time (ms since 1970) by the clock of Redis, or by this machine's if Redis was not asked.
        limit: Limit of the pool.
        slot: Number of its slot, from 1, in the order of `holders`; None if it holds none.
        holders: Jobs that hold a slot.
        ahead: Jobs before it in the queue, the next one first. A long queue is cut.
        ahead_count: Number of all jobs before it.
        cooling_until: End (ms since 1970) of the pool's cooldown if the job waits; else None.
        redis: Reason why Redis was not asked; None if it was, or if it has nothing to add.
        queue_ms: How long the job may wait (ms); None if Redis was not asked, or the job does not wait.
        stood_ms: How much of its wait (ms) does not count, because the pool stood still.
    """

    story: JobTimeline
    job: Job
    now_ms: int
    limit: int
    slot: int | None
    holders: tuple[str, ...]
    ahead: tuple[str, ...]
    ahead_count: int
    cooling_until: int | None = None
    redis: str | None = None
    queue_ms: int | None = None
    stood_ms: int = 0


def by_sql_alone(story: JobTimeline, why: str | None) -> Facts:
    """Collect the facts from SQL alone.

    Args:
        story: Everything that SQL has about the job.
        why: Reason why Redis was not asked; None if the job has ended, because Redis has nothing to add then.
    """
    job, holders = story.job, tuple(story.holders)
    if job.status == "queued":
        reason = "paused" if story.pause else "pool_full" if len(holders) >= story.limit else None
        job = job._replace(position=story.ahead_count + 1, queue_length=story.queued, reason=reason)
    slot = holders.index(job.job_id) + 1 if job.job_id in holders else None
    return Facts(story, job, now_ms(), story.limit, slot, holders, tuple(story.ahead), story.ahead_count, redis=why)


async def by_both(view: JobQueries, rows: LedgerQueries, known: Job) -> Facts:
    """Collect the facts from both stores.

    Args:
        view: Reads both stores.
        rows: Reads SQL.
        known: The job.

    Raises:
        StoreDown: A store does not answer.
    """
    for _ in range(TRIES):
        pool = await view.pool(known.pool, LINE_MAX)  # reaps and records grants, so that SQL has them for the next read
        story = await rows.timelines.of(known.job_id)
        assert story is not None, "no row of a job is ever deleted"
        if (facts := await _in_line(view, story, pool)).job.status == story.job.status:
            break
    return facts


async def _in_line(view: JobQueries, story: JobTimeline, pool: PoolSnapshot) -> Facts:
    job, line = story.job, pool.line
    if job.ended:
        return by_sql_alone(story, None)
    slot = line.holders.index(job.job_id) + 1 if job.job_id in line.holders else None
    ahead: tuple[str, ...] = ()
    if job.status == "queued":
        job = next((one for one in pool.queue if one.job_id == job.job_id), None) or await view.placed(job)
        ahead = line.queue[: (job.position or 1) - 1]
    cooling = line.cooling_until if job.status == "queued" else None
    count = (job.position or 1) - 1
    queue_ms = (job.queue_ms or line.queue_ms) if job.status == "queued" else None
    stood_ms = line.stood_ms - job.stood_ms
    return Facts(
        story, job, line.now_ms, line.limit, slot, line.holders, ahead, count, cooling, queue_ms=queue_ms, stood_ms=stood_ms
    )


def body(facts: Facts) -> dict[str, Any]:
    """Return the facts as one JSON object. Times are RFC 3339."""
    story = facts.story
    return {
        "job": task_body(job_body(facts.job), story.asked),
        "stores": ["sql", "redis"] if facts.redis is None and not facts.job.ended else ["sql"],
        "redis_not_asked": facts.redis,
        "slot": facts.slot,
        "limit": facts.limit,
        "holders": list(facts.holders),
        "ahead": list(facts.ahead),
        "ahead_count": facts.ahead_count,
        "cooling_until": moment(facts.cooling_until),
        "paused": _dated(story.pause),
        "pruned_at": moment(story.pruned_at),
        "history": _all(story.events),
        "money": _all(story.money),
        "owed": _dated(story.debt),
        "deliveries": _all(story.told),
        "callbacks": _all(story.heard),
        "unread_callbacks": _all(story.unread),
    }


def _all(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [_dated(row) for row in rows]


def _dated(row: Any) -> Any:
    if row is None:
        return None
    times = {"at", "since", "due_at", "done_at", "last_at", "applied_at"}
    return {name: moment(value) if name in times else value for name, value in asdict(row).items()}
