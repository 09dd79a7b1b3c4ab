"""The provider's truth against the ledger: which ends, refunds and slots were right."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from tests.proof.chaos import lanes
from tests.proof.chaos.provider_account import DRAIN_S, LIMIT, POOL, SILENCE_S, Record, Started
from tests.proof.chaos.scene import Scene
from tests.support.wait import until

SETTLED_S = 60.0
"""Time (s) for all stops. The pause between two stops of a task grows to half of the time since its end."""
LATE_S = 0.15
"""Time (s) by which the look at the tasks and the commit of an end may differ."""


async def settle(scene: Scene) -> None:
    """Wait until no job of the pool lives, no task is asked about, and each slot is free."""
    live = f"select count(*) as n from @jobs where pool = '{POOL}' and ended_at is null"
    due = "select count(*) as n from @tasks where ask_at is not null"

    async def quiet() -> bool:
        return not any([(await asyncio.to_thread(scene.books.rows, query))[0].n for query in (live, due)])

    async def free() -> bool:
        try:
            reply = await scene.http.get(f"{scene.servers[0].address}/v1/pools/{POOL}")
        except httpx2.TransportError:
            return False
        found = reply.json()
        return (found["free"], found["draining"], found["running"], found["queued"]) == (LIMIT, 0, 0, 0)

    for true, what in ((quiet, "no job lives, and no question is due"), (free, "each slot is free")):
        try:
            await until(true, what, SETTLED_S)
        except AssertionError as error:
            scene.account.wrong.append(f"{error}: {scene.books.rows('select * from @tasks where ask_at is not null')[:3]}")


def judge(scene: Scene, record: Record, seen: dict[str, Any]) -> None:
    """Compare what SQL has with the provider's tasks. What is wrong goes into the account."""
    query = """select t.task_id, t.stop, t.lease_id, j.job_id, j.status, j.ended_at, j.ended_by, j.end_reason, j.expires_at,
        j.lease_id as last, (select min(e.at) from @events e where e.job_id = t.job_id and e.kind = 'task'
        and e.why like '%' || t.task_id) as bound_at from @tasks t join @jobs j on j.job_id = t.job_id"""
    rows = {row.task_id: row for row in scene.books.rows(query)}
    ended = {one["taskId"] for one in seen["tasks"] if one["status"] in ("SUCCESS", "FAILED")}
    excused = record.lied | record.forgotten
    for task_id, task in record.tasks.items():
        row = rows.get(task_id)
        if row is None:
            scene.account.expect(not task.is_bound, f"{task.job_id}: task {task_id} was bound, and SQL does not have it")
            continue
        _end(scene, record, task_id, task, row)
        scene.account.expect(task_id in ended or task_id in excused, f"{task.job_id}: task {task_id} runs on, {row.stop}")
    _crowds(scene, record, rows)
    _callbacks(scene, record, seen)
    lanes.expect_room(scene.account, [POOL])
    _say(scene, record, rows)


def _end(scene: Scene, record: Record, task_id: str, task: Started, row: Any) -> None:
    """No end contradicts the provider, and no job is refunded for a lost callback."""
    about = f"{task.job_id}: {row.status} by {row.ended_by}, task {task_id}"
    if row.ended_by == "provider" and task_id not in record.lied and row.last == task.lease_id:
        scene.account.expect(row.status == task.plan["outcome"], f"{about} was {task.plan['outcome']}")
    # gate cannot ask about a task that is named after the end of its job.
    is_known = row.bound_at is not None and row.ended_at is not None and row.bound_at < row.ended_at
    if row.status == "expired" and is_known and row.last == task.lease_id and task_id not in record.forgotten | record.lied:
        silent_s = max((min(end, row.ended_at / 1000) - max(begin, task.at) for begin, end in record.outages), default=0)
        record.counts["expired after silence"] += 1
        scene.account.expect(
            silent_s > SILENCE_S - LATE_S,
            f"{about} although the provider was silent for {silent_s:.1f} s only{_history(scene, record, task)}",
        )


def _crowds(scene: Scene, record: Record, rows: dict[str, Any]) -> None:
    """No more tasks run than the limit, but those that gate could not stop in the time it has."""
    most = 0
    for at, alive in record.crowds:
        counted = [task_id for task_id in alive if _has_slot(record, rows.get(task_id), task_id, at)]
        most = max(most, len(counted))
        if len(counted) > LIMIT:
            facts = [tuple(rows[task_id]) for task_id in counted]
            scene.account.wrong.append(f"{len(counted)} tasks ran at once at {at:.2f}: {facts}")
            break
    record.counts["most tasks at once"] = most


def _has_slot(record: Record, row: Any, task_id: str, at: float) -> bool:
    """Say whether gate had to keep a slot for a task then."""
    if row is None or task_id in record.lied | record.forgotten or not record.tasks[task_id].is_bound:
        return False
    if row.status == "expired" or row.last != row.lease_id:
        return bool(at < row.ended_at / 1000 - LATE_S)
    return bool(at < min(row.ended_at / 1000 + DRAIN_S, row.expires_at / 1000) - LATE_S)


def _callbacks(scene: Scene, record: Record, seen: dict[str, Any]) -> None:
    """Each callback that was answered 200 is kept, the true one after a lie too."""
    kept = {(row.task_id, row.outcome) for row in scene.books.rows("select task_id, outcome from @webhooks")}
    for one in seen["callbacks"]:
        task = record.tasks.get(one["taskId"])
        if one["answer"] == 200 and task is not None:
            found = {outcome for task_id, outcome in kept if task_id == one["taskId"]}
            scene.account.expect(bool(found), f"{task.job_id}: the callback of {one['taskId']} is not kept")
            record.counts["callbacks kept after a lie"] += one["taskId"] in record.lied and len(found) > 1


def _say(scene: Scene, record: Record, rows: dict[str, Any]) -> None:
    ends = record.counts
    for row in rows.values():
        ends[f"ended by {row.ended_by} as {row.status}"] += 1
        if row.stop is not None:
            ends[f"stops {row.stop}"] += 1
    ends["tasks"], ends["lied about"], ends["forgotten"] = len(record.tasks), len(record.lied), len(record.forgotten)
    scene.said.append(", ".join(f"{name}: {count}" for name, count in sorted(ends.items())))


def _history(scene: Scene, record: Record, task: Started) -> str:
    """Say what happened to a job, in seconds since the start of its task."""
    query = "select at, kind, by, why from @events where job_id = :job order by id"
    events = [f"{row.at / 1000 - task.at:.2f} {row.kind} {row.why or ''}" for row in scene.books.rows(query, job=task.job_id)]
    outages = [f"{begin - task.at:.2f} to {end - task.at:.2f}" for begin, end in record.outages]
    kills = [f"{at - task.at:.2f}" for at in record.kills]
    return f":\n      {'; '.join(events)}\n      no answers {', '.join(outages)}; kills {', '.join(kills)}; {task.plan}"
