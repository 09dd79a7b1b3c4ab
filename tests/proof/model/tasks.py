"""What SQL knows of the provider's tasks: their stops, their drains, and the account of a grant."""

from __future__ import annotations

from typing import Any

from tests.proof.model.state import HARD, HOLDING, HOLDS, Row, State, Task, off, wrong


def task_of(state: State, job: int, fence: int) -> Task | None:
    for task in state.tasks:
        if task.job == job and task.fence == fence:
            return task
    return None


def with_task(state: State, task: Task, **values: Any) -> State:
    return state._replace(tasks=tuple([one._replace(**values) if one is task else one for one in state.tasks]))


def has_lease(state: State, task: Task) -> bool:
    """SQL has a live job for it."""
    row = state.rows[task.job]
    return row.status in HOLDING and row.fence == task.fence


def drains(task: Task) -> bool:
    """Its job is over, its stop is not confirmed, and the time of its drain is not over."""
    return task.stop == "owed" and task.due > 0


def matters(state: State, task: Task) -> bool:
    """Something can still come of it."""
    return task.life == "run" or task.stop == "owed" or not task.bound or has_lease(state, task)


def let_go(state: State, row: Row, due: int) -> State:
    """The lease of `row` ends without the provider's word: a stop is owed, and the slot drains until `due`
    (0: it is free). A lease that is over by the clock of SQL has no slot to drain."""
    task = task_of(state, row.job, row.fence)
    if row.status not in HOLDING or task is None or not task.bound or task.stop:
        return state
    return with_task(state, task, stop="owed", due=due if row.due else 0)


def _used(state: State, but: int) -> list[tuple[int, int]]:
    """Of each account: leases and drains; and unconfirmed stops, which decide only between equals."""
    leases, stops = [0] * len(state.pool.accounts), [0] * len(state.pool.accounts)
    for row in state.rows:
        if row.status in HOLDING and row.job != but:
            leases[row.account] += 1
    for task in state.tasks:
        if drains(task) and "account_drain" not in off:
            leases[task.account] += 1
        stops[task.account] += task.stop == "owed"
    return list(zip(leases, stops, strict=True))


def has_account(state: State) -> bool:
    """Without accounts there is always one."""
    if not state.pool.accounts or "account_room" in off:
        return True
    return any(leases < room for (leases, _), room in zip(_used(state, -1), rooms(state), strict=True))


def rooms(state: State) -> tuple[int, ...]:
    """How many tasks of gate each account takes."""
    return state.pool.accounts if "account_strangers" in off else state.pool.rooms


def room_of(state: State, account: int, total: int) -> int:
    """What strangers leave of the account whose provider counts `total` tasks."""
    held = sum(row.status in HOLDING and row.account == account for row in state.rows)
    if "held_drains" not in off:
        held += sum(drains(task) and task.account == account for task in state.tasks)
    room = max(0, state.pool.accounts[account] - max(0, total - held))
    return room if state.refused or "room_floor" in off else max(1, room)


def account_for(state: State, job: int) -> tuple[State, int]:
    """The emptiest account that has room."""
    limits = state.pool.accounts
    if not limits:
        return state, 0
    used, left = _used(state, job), rooms(state)
    chosen = min(range(len(left)), key=lambda one: (used[one][0] >= left[one], used[one])) if "account" not in off else 0
    there = sum(row.status in HOLDING and row.account == chosen and row.job != job for row in state.rows)
    there += sum(drains(task) and task.account == chosen for task in state.tasks)
    if there >= limits[chosen]:
        state = wrong(state, "an account has more leases and drains than its limit")
    if there >= state.pool.rooms[chosen]:
        state = wrong(state, "a grant went to an account that strangers fill")
    return state, chosen


def judge_expiry(state: State, job: int) -> State:
    """A lease must not expire while its task lives or has ended well, and gate could have known. It could not when one of its
    processes stood still, when the provider was silent too long, and when it denied the task twice."""
    task = task_of(state, job, state.rows[job].fence)
    if task is None or not task.bound or not has_lease(state, task) or task.life not in ("run", "done"):
        return state
    excused = state.faults < state.budget or task.longer >= HARD or task.silent >= HOLDS or task.denied > 1
    what = "runs" if task.life == "run" else "has ended well"
    return state if excused else wrong(state, f"expired and refunded, though its task {what}")
