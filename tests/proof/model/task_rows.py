"""SQL, of tasks: each function is one transaction of the ledger, as in rows.py."""

from __future__ import annotations

from tests.proof.model import rows
from tests.proof.model.rows import Answered
from tests.proof.model.state import FRESH, HARD, HOLDING, HOLDS, Lease, Reply, Row, State, off, with_row, wrong
from tests.proof.model.tasks import drains, has_lease, room_of, task_of, with_task


def bind(state: State, job: int, fence: int) -> Answered:
    """The answer of a start: SQL learns of the task, and applies a callback that came before. Too late, it owes the task a stop."""
    task = task_of(state, job, fence)
    if task is None:
        return state, Reply("unknown", job)
    if has_lease(state, task):
        bound = with_task(state, task, bound=True)
        if task.early:
            return provider_ended(bound, job, fence, "completed" if task.life == "done" else "failed", "ended")
        return bound, Reply("bound", job)
    if "late_start" in off:
        return with_task(state, task, bound=True), Reply("late", job)
    return with_task(state, task, bound=True, stop="owed"), Reply("late", job)


def provider_ended(state: State, job: int, fence: int, outcome: str, why: str) -> Answered:
    """A callback, or an answer that the task has ended. It ends only the lease that its task was started for."""
    row, task = state.rows[job], task_of(state, job, fence)
    if why != "ended" and (task is None or task.life not in ("bad", "gone")):
        state = wrong(state, f"failed and refunded without a named end ({why})")
    if task is not None and task.kept:
        return state, Reply("known", job)
    if _is_tried_again(state, row, fence, outcome):
        return again(state, job, fence)
    if outcome == "failed" and row.status in HOLDING and row.fence == fence and row.retries < state.pool.retry:
        state = wrong(state, "failed and refunded, though a try was left")
    if "answer_lease" in off and row.status in HOLDING and row.fence != fence:
        state = wrong(state, "an answer about an earlier task ended a newer lease")
    state, ended = rows.end(state, job, outcome, None if "answer_lease" in off else fence)
    if ended.word == "ended" and (task := task_of(state, job, fence)):
        state = with_task(state, task, stop="", due=0)  # its provider says that it is over
    return state, ended._replace(rest=(outcome,))


def _is_tried_again(state: State, row: Row, fence: int, outcome: str) -> bool:
    """The failure is one that the tool has tried again, of the current lease, and a try is left."""
    if outcome != "failed" or row.status not in HOLDING or not state.pool.retry or "retry" in off:
        return False
    current = row.fence == fence or "retry_lease" in off
    return current and (row.retries < state.pool.retry or "retry_bound" in off)


def again(state: State, job: int, fence: int) -> Answered:
    """The job is queued again by its ticket, and nothing is booked. Its task is over."""
    row = state.rows[job]
    if row.fence != fence:
        state = wrong(state, "a report about an earlier try took the slot of the next one")
    refunds = row.refunds + ("retry_books" in off)
    state = with_row(state, job, status="queued", due=0, told=0, retries=row.retries + 1, refunds=refunds)
    return state, Reply("retried", job, row.ticket, row.fence)


def hint(state: State, job: int, fence: int) -> Answered:
    """A callback that is not believed. It makes the question due, and is kept under an id of its own."""
    task = task_of(state, job, fence)
    if task is None or not has_lease(state, task):
        return state, Reply("nothing", job)
    over = task.life != "run"
    nudged, kept = "nudge" not in off, over and "hint_id" in off
    return with_task(state, task, nudged=nudged, hinted=over, kept=kept), Reply("hint", job)


def next_deed(state: State, lease: Lease, answer: str) -> tuple[State, str]:
    """What the asker makes of an answer, by the row as it reads it: end, extend, note, or nothing."""
    job, fence, *_ = lease
    task = task_of(state, job, fence)
    if task is None or not (has_lease(state, task) or "answer_lease" in off):
        return state, "nothing"
    if answer in ("done", "bad"):
        return state, "end" if "settle" not in off else "note"
    if answer == "running":
        further = "extend" not in off and (task.longer < HARD or "hard" in off)
    elif answer == "silent":
        if "verdict" in off:
            return state, "end"
        further = "hold" not in off and (task.silent < HOLDS or "hold_bound" in off)
    else:
        return state, "end" if "unknown" in off else "note"
    return state, "extend" if further else "note"


def note(state: State, job: int, fence: int, answer: str) -> Answered:
    """An answer that extends nothing."""
    task = task_of(state, job, fence)
    if task is None or not has_lease(state, task):
        return state, Reply("lost", job)
    nudged = task.nudged and "nudge_stays" not in off
    if answer == "unknown" and "unknown_twice" not in off:
        return with_task(state, task, denied=min(task.denied + 1, 2), nudged=nudged), Reply("noted", job)
    return with_task(state, task, given_up=True, nudged=nudged), Reply("noted", job)


def extend(state: State, epoch: int, job: int, fence: int, due: int, answer: str) -> Answered:
    """The deadline that Redis has now, and the answer that it comes of, together."""
    state, reply = rows.extend(state, epoch, job, fence, due)
    task = task_of(state, job, fence)
    if reply.word == "extended" and task is not None:
        longer = min(task.longer + (answer == "running"), HARD)
        silent = min(task.silent + 1, HOLDS) if answer == "silent" else 0
        nudged = task.nudged and "nudge_stays" not in off
        state = with_task(state, task, longer=longer, silent=silent, nudged=nudged)
    return state, reply


def set_rooms(state: State, counts: tuple[int, ...]) -> Answered:
    """The limit in force follows what the provider counts. What it does not say for long is forgotten."""
    pool = state.pool
    rooms = tuple([new_room(state, account, total) for account, total in enumerate(counts)])
    ours = any(not has_lease(state, task) and not drains(task) and task.life == "run" for task in state.tasks)
    if not sum(rooms) and not state.refused:
        state = wrong(state, "every job waits because of a counter alone")
    if rooms[0] < min(pool.rooms[0], pool.accounts[0] - state.strangers) and not (state.stuck or ours):
        state = wrong(state, "gate takes its own task for a stranger")
    limit = min(sum(pool.accounts), sum(rooms))
    return state._replace(pool=pool._replace(rooms=rooms, limit=limit)), Reply("changed", rest=(limit, pool.paused))


def new_room(state: State, account: int, total: int) -> int:
    if total < 0:
        return state.pool.rooms[account] if "forget_room" in off else state.pool.accounts[account]
    return room_of(state, account, total)


def owe(state: State, job: int, fence: int) -> Answered:
    """Only with `stop_same` switched off: the stop, in a transaction of its own."""
    task = task_of(state, job, fence)
    return (with_task(state, task, stop="owed", due=FRESH) if task else state), Reply("owed", job, fence=fence)


def stopped(state: State, job: int, fence: int) -> Answered:
    """The provider has confirmed that the task is over."""
    task = task_of(state, job, fence)
    return (with_task(state, task, stop="over", due=0) if task else state), Reply("over", job)
