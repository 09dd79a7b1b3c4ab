"""The provider: it has the tasks, and answers or does not."""

from __future__ import annotations

from tests.proof.model.state import Lease, State, Task
from tests.proof.model.tasks import drains, has_lease, task_of, with_task


def running_at(state: State, account: int) -> list[Task]:
    return [task for task in state.tasks if task.account == account and task.life == "run"]


def is_full(state: State, account: int) -> bool:
    others = state.strangers if account == 0 else 0
    return len(running_at(state, account)) + others >= state.pool.accounts[account]


def may_refuse(state: State, account: int) -> bool:
    """Something that gate has no slot for may run there: a stranger, a task that outlived its lease or its drain, one whose start
    has not been answered."""
    if state.strangers and account == 0:
        return True
    return any(not has_lease(state, task) and not drains(task) for task in running_at(state, account))


def begin_task(state: State, job: int, fence: int) -> tuple[State, str]:
    row = state.rows[job]
    if state.absent or task_of(state, job, fence) is not None or is_full(state, row.account):
        return state, "refused"
    return state._replace(tasks=tuple(sorted((*state.tasks, Task(job, fence, row.account))))), "started"


def query(state: State, lease: Lease) -> tuple[State, str]:
    """The state of a task: running, done, bad, silent, unknown."""
    task = task_of(state, lease.job, lease.fence)
    if task is not None and (task.nudged or task.hinted):  # a question that is taken is no longer due
        state = with_task(state, task, nudged=False, hinted=False)
    if state.absent:
        return state, "silent"
    if task is None:
        return state, "unknown"
    return state, {"run": "running", "done": "done", "bad": "bad", "gone": "bad"}[task.life]


def count(state: State, account: int) -> int:
    """How many tasks it counts for an account; -1: it does not answer."""
    if state.absent:
        return -1
    if state.stuck and account == 0:
        return state.pool.accounts[0]
    return len(running_at(state, account)) + (state.strangers if account == 0 else 0)


def counts(state: State) -> tuple[State, tuple[int, ...]]:
    return state, tuple([count(state, account) for account in range(len(state.pool.accounts))])


def stop(state: State, job: int, fence: int) -> tuple[State, str]:
    """It is stopped, or has been over before."""
    task = task_of(state, job, fence)
    if state.absent:
        return state, "silent"
    if task is not None and task.life == "run":
        state = with_task(state, task, life="gone")
    return state, "over"
