"""What can happen at a provider, and what gate does about it. The provider may do everything at any time, or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from tests.proof.model import provider
from tests.proof.model.calls import Next, begin
from tests.proof.model.provider import is_full, may_refuse
from tests.proof.model.state import ENDED, Lease, Redis, State, Task, of, off
from tests.proof.model.task_rows import new_room
from tests.proof.model.tasks import drains, has_lease, task_of, with_task

Kinds = frozenset[str]
REFUSED_START = "the provider refuses a start: it still runs the task whose slot was given away"


def must_ask(state: State, job: int) -> bool:
    """A question is due before the deadline of this job's lease, and no asker stands still."""
    task = _unanswered(state, job)
    return task is not None and not any(call.path in ("ask", "denied") for call in state.calls)


def _unanswered(state: State, job: int) -> Task | None:
    """The task whose lease is near its deadline, as long as an answer can still help."""
    task = task_of(state, job, state.rows[job].fence)
    if "ask" in off or task is None or not task.bound or not has_lease(state, task) or task.given_up or task.denied > 1:
        return None
    for redis in state.redises:
        entry = of(redis.slots, job)
        if _current(state, redis) and entry and entry.fence == task.fence and entry.due == 1:
            return task
    return None


def _current(state: State, redis: Redis) -> bool:
    return redis.identity == state.pool.identity and redis.epoch == state.pool.epoch


def callers(state: State, kinds: Kinds, strangers: int) -> Iterator[Next]:
    """Holders start tasks; the provider works on them, and calls back or does not."""
    for job, row in enumerate(state.rows):
        if row.status == "running" and row.told and task_of(state, job, row.fence) is None and not state.absent:
            name = "abc"[job]
            if not is_full(state, row.account):
                yield from begin(state, f"start {name}", kinds, "start", 0, Lease(job, row.fence))
            elif state.faults == state.budget and not may_refuse(state, row.account):
                yield f"start {name}", state._replace(wrong=REFUSED_START)
    for task in state.tasks:
        name = "abc"[task.job]
        if task.life == "run":
            yield f"the task of {name} ends well", with_task(state, task, life="done")
            yield f"the task of {name} ends badly", with_task(state, task, life="bad")
        if not task.bound and not task.early and task.life in ("done", "bad") and not state.pool.hints:
            yield f"callback of {name}, before its binding", with_task(state, task, early=True)
        elif task.bound and has_lease(state, task) and state.pool.hints:
            outcome = "completed" if task.life == "done" else "failed"
            label = f"{'a forged' if task.life == 'run' else 'the'} hint about {name}"
            yield from begin(state, label, kinds, "hint", 0, Lease(task.job, task.fence), outcome)
        elif task.bound and task.life in ("done", "bad") and has_lease(state, task):
            outcome = "completed" if task.life == "done" else "failed"
            yield from begin(state, f"callback of {name}", kinds, "callback", 0, Lease(task.job, task.fence), outcome)
    if state.strangers:
        yield "a stranger leaves", state._replace(strangers=state.strangers - 1)
    if state.strangers < strangers and not is_full(state, 0):
        yield "a stranger comes", state._replace(strangers=state.strangers + 1)
    if state.refused:
        yield "a refusal is a minute old", state._replace(refused=False)
    if state.stuck:
        yield "the counter is right again", state._replace(stuck=False)
    if state.absent:
        tasks = tuple([task._replace(given_up=False) for task in state.tasks])
        yield "the provider is back", state._replace(absent=False, tasks=tasks)


def gate(state: State, kinds: Kinds, server: int, by: str) -> Iterator[Next]:
    for task in state.tasks:
        name, lease = "abc"[task.job], Lease(task.job, task.fence)
        if task.bound and has_lease(state, task) and "ask" not in off:
            over = task.nudged if state.pool.hints else task.life != "run" and not task.given_up
            if (over and not state.absent) or _unanswered(state, task.job) is task:
                yield from begin(state, f"ask about {name}{by}", kinds, "ask", server, lease)
        if task.stop == "owed" and not state.absent:
            yield from begin(state, f"stop the task of {name}{by}", kinds, "stop_task", server, lease)


def look(state: State, kinds: Kinds, server: int, by: str) -> Iterator[Next]:
    counts = provider.counts(state)[1]
    if tuple([new_room(state, account, total) for account, total in enumerate(counts)]) != state.pool.rooms:
        yield from begin(state, f"count the tasks{by}", kinds, "look", server)


def trouble(state: State, kinds: Kinds) -> Iterator[Next]:
    if not state.outages or state.absent:
        return
    less = state._replace(outages=state.outages - 1)
    if "stuck" in kinds and not state.stuck:
        yield "the provider's counter is stuck", less._replace(stuck=True)
    if not state.tasks and "stuck" not in kinds:
        return
    yield "the provider is away", less._replace(absent=True)
    for task in state.tasks:
        if task.bound and has_lease(state, task):
            label = f"ask about {'abc'[task.job]}, the provider denies it"
            yield from begin(less, label, kinds, "denied", 0, Lease(task.job, task.fence))


def is_draining(state: State, job: int) -> bool:
    return state.rows[job].status in ENDED and any(task.job == job and drains(task) for task in state.tasks)
