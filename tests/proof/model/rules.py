"""What must hold: in each state, over each step, and in the end."""

from __future__ import annotations

from itertools import pairwise

from tests.proof.model.state import ENDED, HOLDING, REFUNDED, Redis, State, of
from tests.proof.model.tasks import drains, has_lease


def broken(state: State) -> str:
    """The invariants of `gate verify`, as far as one moment shows them; '' when all is well."""
    if state.wrong:
        return state.wrong
    for task in state.tasks:
        if task.bound and task.life == "run" and not task.stop and not has_lease(state, task):
            return "a task runs for a lease that is over, and it is owed no stop"
    for redis in state.redises:
        members = [entry.job for entry in (*redis.slots, *redis.queue)]
        if len(set(members)) < len(members):
            return "a job has two places in Redis"
        tickets = [entry.ticket for entry in redis.queue]
        if tickets != sorted(tickets):
            return "the queue does not stand in order of tickets"
    for row in state.rows:
        if row.refunds > 1:
            return "refunded twice"
        if row.charges != bool(row.status):
            return f"charged {row.charges} times"
        if row.retries > state.pool.retry:
            return "tried again more often than the tool says"
        if row.refunds != (row.status in REFUNDED):
            return f"{row.status} with{'' if row.refunds else 'out'} a refund"
        if row.heard and row.status != row.heard:
            return f"a caller was told {row.heard}, and it is {row.status or 'unknown'}"
    if not state.shuffled:
        firsts = sorted((row.ticket, row.first) for row in state.rows if row.first and not row.passed)
        if any(early[1] > late[1] for early, late in pairwise(firsts)):
            return "a first grant went to a later ticket"
    return ""


def harm(before: State, after: State, by_gate: bool) -> str:
    """What one step must not do. `by_gate`: no operator's hand, no loss of Redis."""
    for was, now in zip(before.rows, after.rows, strict=True):
        if was.status in ENDED and now.status != was.status:
            return f"an outcome changed from {was.status} to {now.status}"
    for was, now in zip(before.redises, after.redises, strict=False):
        limit = max(now.limit, before.pool.limit, after.pool.limit)
        if len(now.slots) > max(len(was.slots), limit) or (now.epoch == was.epoch and _over(was, now)):
            return "Redis has given more slots than the limit"
        if now.epoch == was.epoch and _drains_longer(was, now):
            return "a slot drains for longer than its time"
    return _robbed(before, after) or _gave_away(before, after) if by_gate else ""


def _drains_longer(was: Redis, now: Redis) -> bool:
    for entry in now.slots:
        if entry.draining and (before := of(was.slots, entry.job)) and before.draining and entry.due > before.due:
            return True
    return False


def _gave_away(before: State, after: State) -> str:
    """A load brings back each slot that drains."""
    for old, new in zip(before.redises, after.redises, strict=False):
        if new.epoch == old.epoch or (new.epoch, new.identity) != (after.pool.epoch, after.pool.identity):
            continue
        for task in after.tasks:
            if drains(task) and not of(new.slots, task.job):
                return "a load gave away a slot that drains"
    return ""


def _over(was: Redis, now: Redis) -> bool:
    return len(now.slots) > max(len(was.slots), now.limit)


def _robbed(before: State, after: State) -> str:
    """A holder that was told a deadline keeps its lease until then, unless it or an operator ends it."""
    for was, now in zip(before.rows, after.rows, strict=True):
        if not (was.told and was.status in HOLDING and now.status in HOLDING and was.fence == now.fence):
            continue
        for old, new in zip(before.redises, after.redises, strict=False):
            if not (new.epoch == after.pool.epoch and new.identity == after.pool.identity):
                continue
            had, has = of(old.slots, was.job), of(new.slots, was.job)
            if has is not None and has.fence == was.fence:
                continue
            if (had is not None and had.fence == was.fence) or new.epoch != old.epoch:
                return "gate took a live lease from its holder"
    return ""


def over(state: State) -> bool:
    """Everything ended, Redis empty."""
    current = [redis for redis in state.redises if redis.identity == state.pool.identity]
    empty = all(not (redis.slots or redis.queue or redis.outbox) for redis in current)
    stopped = state.absent or all(task.life != "run" and task.stop != "owed" for task in state.tasks if task.bound)
    left = state.pool.rooms == state.pool.accounts or state.strangers or state.stuck
    return empty and stopped and bool(left) and all(row.status in ("", *ENDED) for row in state.rows)


def agreed(state: State) -> bool:
    """Both stores say the same. Excused: a grant of a job that SQL has never seen, and what the outbox says of it, stay until
    its claim time is over, because its commit may be on its way; and an epoch that was raised and never loaded is found by the
    next commit."""
    pool = state.pool
    if pool.hints and _owes_a_question(state):
        return False
    unheard = {row.job for row in state.rows if not row.status}
    for redis in state.redises:
        if redis.identity != pool.identity:
            continue
        if (redis.limit, redis.paused) != (pool.limit, pool.paused):
            return False  # or it is cold
        excused = {note.job for note in redis.outbox if note.job in unheard and of(redis.slots, note.job)}
        if any(note.job not in excused for note in redis.outbox):
            return False
        holding = [(row.job, row.fence) for row in state.rows if row.status in HOLDING]
        draining = {(task.job, task.fence) for task in state.tasks if drains(task)}
        slots = [entry for entry in redis.slots if entry.job not in excused]
        if [(entry.job, entry.fence) for entry in slots if not entry.draining] != holding:
            return False
        if any(entry.draining and (entry.job, entry.fence) not in draining for entry in slots):
            return False
        if sorted(entry.job for entry in redis.queue) != [row.job for row in state.rows if row.status == "queued"]:
            return False
    return True


def _owes_a_question(state: State) -> bool:
    """A hint about an end has come, and no question since. Excused: a process that stands still, and a provider that is away."""
    asks = any(call.path in ("ask", "denied") for call in state.calls)
    return not asks and not state.absent and any(task.hinted and has_lease(state, task) for task in state.tasks)
