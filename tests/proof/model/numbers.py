"""Numbers anew: of fences, tickets and deadlines only the order matters, so two states that differ in nothing else are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.proof.model.state import LIFE, Call, Entry, Lease, Note, Pool, Redis, Reply, Row, State, Task
from tests.proof.model.sweeping import Finding
from tests.proof.model.tasks import matters

Number = Callable[[int], int]
Deadline = Callable[[int, int], int]
Change = Callable[[Any, Number, Number, Deadline], Any]


def _row(x: Row, fence: Number, ticket: Number, due: Deadline) -> Row:
    job, status, number, grant, deadline, told, first, *rest = x
    return Row(job, status, ticket(number), fence(grant), due(job, deadline), due(job, told), fence(first), *rest)


def _entry(x: Entry, fence: Number, ticket: Number, due: Deadline) -> Entry:
    job, number, grant, deadline, *rest = x
    return Entry(job, ticket(number), fence(grant), due(job, deadline), *rest)


def _note(x: Note, fence: Number, ticket: Number, due: Deadline) -> Note:
    kind, job, number, grant, deadline, epoch = x
    return Note(kind, job, ticket(number), fence(grant), due(job, deadline), epoch)


def _task(x: Task, fence: Number, ticket: Number, due: Deadline) -> Task:
    job, grant, account, life, bound, stop, deadline, *rest = x
    return Task(job, fence(grant), account, life, bound, stop, due(job, deadline), *rest)


def _lease(x: Lease, fence: Number, ticket: Number, due: Deadline) -> Lease:
    return Lease(x[0], fence(x[1]), ticket(x[2]), x[3])


def _finding(x: Finding, fence: Number, ticket: Number, due: Deadline) -> Finding:
    return Finding(x[0], x[1], fence(x[2]))


def _reply(x: Reply, fence: Number, ticket: Number, due: Deadline) -> Reply:
    rest = tuple([each(one, fence, ticket, due) for one in x.rest])
    return Reply(x.word, x.job, ticket(x.ticket), fence(x.fence), due(x.job, x.due), x.known, rest)


def _redis(x: Redis, fence: Number, ticket: Number, due: Deadline) -> Redis:
    return Redis(
        x[0], x[1], fence(x[2]), ticket(x[3]), x[4], x[5], x[6],
        tuple([_entry(one, fence, ticket, due) for one in x[7]]),
        tuple([_entry(one, fence, ticket, due) for one in x[8]]),
        tuple([_note(one, fence, ticket, due) for one in x[9]]),
        x[10], x[11],
    )  # fmt: skip


def _pool(x: Pool, fence: Number, ticket: Number, due: Deadline) -> Pool:
    return x._replace(void=fence(x[4])) if x[4] else x


def _tuple(x: tuple[Any, ...], fence: Number, ticket: Number, due: Deadline) -> tuple[Any, ...]:
    return tuple([each(one, fence, ticket, due) for one in x])


def _call(x: Call, fence: Number, ticket: Number, due: Deadline) -> Call:
    return Call(x[0], _tuple(x[1], fence, ticket, due), _tuple(x[2], fence, ticket, due))


def _same(x: Any, fence: Number, ticket: Number, due: Deadline) -> Any:
    return x


KINDS: dict[type, Change] = {
    Row: _row, Entry: _entry, Note: _note, Lease: _lease, Finding: _finding, Reply: _reply, Redis: _redis, Pool: _pool, Task: _task, tuple: _tuple, Call: _call,
}  # fmt: skip


def each(x: Any, fence: Number, ticket: Number, due: Deadline) -> Any:
    """`x` with each fence, ticket and deadline in it replaced."""
    return KINDS.get(type(x), _same)(x, fence, ticket, due)


def whole(state: State, fence: Number, ticket: Number, due: Deadline) -> State:
    return state._replace(
        rows=tuple([_row(row, fence, ticket, due) for row in state.rows]),
        pool=_pool(state.pool, fence, ticket, due),
        redises=tuple([_redis(redis, fence, ticket, due) for redis in state.redises]),
        calls=tuple([_call(call, fence, ticket, due) for call in state.calls]),
        lagging=state.lagging and _redis(state.lagging, fence, ticket, due),
        tasks=tuple([_task(task, fence, ticket, due) for task in state.tasks]),
    )


def pass_time(state: State, job: int) -> State:
    """The earliest deadline of a job is over, wherever it is noted."""
    return whole(state, _keep, _keep, lambda whose, due: due - 1 if whose == job and due else due)


def _keep(number: int) -> int:
    return number


def canonical(state: State) -> State:
    """The one state that stands for all that differ from `state` by their numbers only."""
    if state.tasks:
        state = state._replace(tasks=tuple(sorted(task for task in state.tasks if matters(state, task))))
    fences: set[int] = set()
    tickets: set[int] = set()
    dues: dict[int, set[int]] = {}

    def fence(number: int) -> int:
        fences.add(number)
        return number

    def ticket(number: int) -> int:
        tickets.add(number)
        return number

    def due(job: int, number: int) -> int:
        if number:
            dues.setdefault(job, set()).add(number)
        return number

    whole(state, fence, ticket, due)
    new_fence, new_ticket = _ranks(fences), _ranks(tickets)
    new_due = {(job, number): n for job, numbers in dues.items() for n, number in enumerate(sorted(numbers), 1)}
    if not new_fence and not new_ticket and all(number == n for (_, number), n in new_due.items()):
        return _sorted(state)
    changed = whole(
        state,
        lambda number: new_fence.get(number, number),
        lambda number: new_ticket.get(number, number),
        lambda job, number: new_due.get((job, number), 0),
    )
    return _sorted(changed)


def _sorted(state: State) -> State:
    return state if len(state.calls) < 2 else state._replace(calls=tuple(sorted(state.calls, key=repr)))


def _ranks(numbers: set[int]) -> dict[int, int]:
    """Those that change: within each epoch from 1 on; n = 0 is where a life begins, and stays."""
    new, last, n = {}, -1, 0
    for number in sorted(numbers):
        life, own = divmod(number, LIFE)
        if life != last:
            last, n = life, 0
        if own:
            n += 1
            if n != own:
                new[number] = life * LIFE + n
    return new
