"""Redis: each function is one script of lua/, and happens at one moment. It takes the pool as it is there and returns it as
it leaves it, with the reply.

Not here: bounds of a hundred (`more`), the cap per user, queue_max, entries torn from their members, and of the clock all but
its steps: by one ahead each deadline is over, unless the pool's clock does not follow it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.proof.model.state import FRESH, LIFE, Entry, Note, Redis, Reply, of, off

Answered = tuple[Redis, Reply]


def begin(redis: Redis) -> Redis:
    """_prelude.lua: reap who is dead, then promote who waits."""
    if "reap" in off:
        return redis
    dead = [entry for entry in redis.slots if not entry.due and not (entry.draining and "drain_bound" in off)]
    if dead:
        notes = [Note("expired", one.job, one.ticket, one.fence, 0, redis.epoch) for one in dead if not one.draining]
        alive = tuple([entry for entry in redis.slots if entry not in dead])
        redis = _warm(redis._replace(slots=alive, outbox=(*redis.outbox, *notes)))
    return promote(redis)


def _warm(redis: Redis) -> Redis:
    """A lease has ended: the provider takes jobs, and the order counts again."""
    return _in_turn(redis._replace(cooling=False)) if redis.cooling else redis


def _in_turn(redis: Redis) -> Redis:
    return redis._replace(queue=tuple([entry._replace(aside=False) for entry in redis.queue]))


def may_grant(redis: Redis) -> bool:
    return not redis.paused and not redis.cooling and len(redis.slots) < redis.limit


def promote(redis: Redis) -> Redis:
    passed = set[int]()
    while may_grant(redis) and (left := [one for one in redis.queue if one.job not in passed]):
        entry = next((one for one in left if not one.aside), left[0])
        if entry.away and "pass" not in off:
            redis = _pass(redis, entry)
            passed.add(entry.job)
            continue
        rest = redis._replace(queue=tuple([one for one in redis.queue if one is not entry]))
        redis, granted = grant(rest if entry.aside else _in_turn(rest), entry, False)
        note = Note("granted", granted.job, granted.ticket, granted.fence, granted.due, redis.epoch)
        redis = redis._replace(outbox=(*redis.outbox, note))
    return redis


def _pass(redis: Redis, entry: Entry) -> Redis:
    if entry.away == 2:
        return redis
    queue = tuple([one._replace(away=2) if one is entry else one for one in redis.queue])
    if "passed" not in off:
        redis = redis._replace(outbox=(*redis.outbox, Note("passed", entry.job, entry.ticket, 0, 0, redis.epoch)))
    return redis._replace(queue=queue)


def show(redis: Redis, job: int) -> Answered:
    """status.lua, asked by the caller of a waiter."""
    redis = begin(redis)
    queue = tuple([one._replace(away=0) if one.job == job else one for one in redis.queue])
    return promote(redis._replace(queue=queue)), Reply("status", job)


def grant(redis: Redis, entry: Entry, claimed: bool) -> tuple[Redis, Entry]:
    fence = redis.fence + 1
    granted = entry._replace(fence=fence, due=FRESH, claimed=claimed, aside=False, away=0)
    return redis._replace(fence=fence, slots=_in_order((*redis.slots, granted))), granted


def _in_order(slots: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return tuple(sorted(slots))


def _without(redis: Redis, job: int) -> Redis:
    return redis._replace(
        slots=tuple([entry for entry in redis.slots if entry.job != job]),
        queue=tuple([entry for entry in redis.queue if entry.job != job]),
    )


def noted(redis: Redis, job: int) -> Note | None:
    return next((note for note in redis.outbox if note.job == job and note.kind != "passed"), None)


def _held(redis: Redis, job: int, fence: int, draining: bool = False) -> Entry | None:
    """A slot that drains has another lease id."""
    entry = of(redis.slots, job)
    if entry is None or entry.fence != fence or (entry.draining != draining and "drain_lease" not in off):
        return None
    return entry


def acquire(redis: Redis, job: int) -> Answered:
    redis = begin(redis)
    if "known" not in off:
        if entry := of(redis.slots, job):
            if entry.draining:
                return _acquire_draining(redis, entry)
            if not entry.again:
                redis = redis._replace(slots=tuple([one._replace(again=one.again or one is entry) for one in redis.slots]))
            return redis, _stands("running" if entry.claimed else "granted", entry, True)
        if entry := of(redis.queue, job):
            if not entry.again or entry.away:
                shown = entry._replace(again=True, away=0)
                redis = promote(redis._replace(queue=tuple([shown if one is entry else one for one in redis.queue])))
            return redis, _stands("queued", entry, True)
    if (note := noted(redis, job)) and "known_outbox" not in off:
        return redis, Reply("unrecorded", job, note.ticket)
    entry = Entry(job, redis.ticket + 1)
    redis = redis._replace(ticket=entry.ticket)
    if all(waiter.away for waiter in redis.queue) and may_grant(redis):
        redis, entry = grant(redis, entry, True)
        return promote(redis), _stands("running", entry, False)
    return promote(redis._replace(queue=(*redis.queue, entry))), _stands("queued", entry, False)


def _acquire_draining(redis: Redis, entry: Entry) -> Answered:
    if "repeat_drain" not in off:
        return redis, Reply("draining", entry.job, entry.ticket, known=True)
    redis, again = grant(
        _without(redis, entry.job)._replace(ticket=redis.ticket + 1), Entry(entry.job, redis.ticket + 1), True
    )
    return redis, _stands("running", again, False)


def drain(redis: Redis, job: int, fence: int) -> Answered:
    """The slot stays until the provider has confirmed that the task is over, or until its deadline."""
    redis = begin(redis)
    entry = _held(redis, job, fence)
    if entry is None:
        return redis, Reply("stale", job)
    slots = tuple([one for one in redis.slots if one is not entry])
    entry = Entry(job, 0, fence, FRESH, True, draining=True)
    return redis._replace(slots=_in_order((*slots, entry))), Reply("draining", job)


def _stands(word: str, entry: Entry, known: bool) -> Reply:
    return Reply(word, entry.job, entry.ticket, entry.fence, entry.due, known)


def claim(redis: Redis, job: int, fence: int) -> Answered:
    return _extend(redis, job, fence, renewing=False)


def renew(redis: Redis, job: int, fence: int) -> Answered:
    return _extend(redis, job, fence, renewing=True)


def _extend(redis: Redis, job: int, fence: int, renewing: bool) -> Answered:
    redis = begin(redis)
    entry = _held(redis, job, fence)
    if entry is None:
        if "extend_alive" not in off:
            return redis, Reply("lost", job)
        entry = Entry(job, redis.ticket, fence)
    if renewing or not entry.claimed:
        slots = tuple([one for one in redis.slots if one is not entry])
        entry = entry._replace(claimed=True, due=FRESH)
        redis = redis._replace(slots=_in_order((*slots, entry)))
    return redis, Reply("extended", job, 0, fence, entry.due)


def release(redis: Redis, job: int, fence: int, draining: bool = False) -> Answered:
    redis = begin(redis)
    if (_held(redis, job, fence, draining) if "release_lease" not in off else of(redis.slots, job)) is None:
        return redis, Reply("stale", job)
    slots = tuple([entry for entry in redis.slots if entry.job != job])
    return promote(_warm(redis._replace(slots=slots))), Reply("released", job)


def cancel(redis: Redis, job: int) -> Answered:
    redis = begin(redis)
    held, redis = of(redis.slots, job) is not None, _without(redis, job)
    return promote(_warm(redis) if held else redis), Reply("left", job)


def leave(redis: Redis, job: int, ticket: int) -> Answered:
    """A place in the queue is freed, of exactly this ticket."""
    redis = begin(redis)
    entry = of(redis.queue, job)
    if entry is not None and entry.ticket == ticket:
        redis = promote(_without(redis, job))
    return redis, Reply("left", job)


def requeue(redis: Redis, job: int, fence: int, why: str, ticket: int) -> Answered:
    """`ticket` is of the entry to seat when Redis knows nothing of the job."""
    redis = begin(redis)
    entry = of(redis.slots, job)
    if entry:
        if entry.fence != fence and "requeue_fence" not in off:
            return redis, Reply("newer", job)
        ticket, again = entry.ticket, entry.again
    elif of(redis.queue, job):
        return promote(redis), Reply("requeued", job)
    else:
        again = False
    cooling = redis.cooling or why != "lost"
    queue = [*redis.queue, Entry(job, ticket, again=again, aside=why == "refused")]
    if "seat_by_ticket" in off:
        queue = [queue[-1], *queue[:-1]]
    else:
        queue.sort(key=lambda waiter: waiter.ticket)
    redis = _without(redis, job)._replace(cooling=cooling, queue=tuple(queue))
    return promote(redis), Reply("requeued", job)


def restore(redis: Redis, entry: Entry) -> Answered:
    redis = begin(redis)
    if of(redis.slots, entry.job) or noted(redis, entry.job):
        return redis, Reply("known", entry.job)
    if len(redis.slots) >= redis.limit and "restore_room" not in off:
        return redis, Reply("full", entry.job)
    redis = _without(redis, entry.job)
    return promote(redis._replace(slots=_in_order((*redis.slots, entry)))), Reply("restored", entry.job)


def undo(redis: Redis, job: int, ticket: int) -> Answered:
    """Reaps and promotes nothing, because it runs while SQL is away."""
    entry = of(redis.slots, job) or of(redis.queue, job)
    if entry is None or (entry.ticket != ticket and "undo_ticket" not in off) or (entry.again and "undo_again" not in off):
        return redis, Reply("kept", job)
    outbox = tuple([note for note in redis.outbox if note.job != job])
    return _without(redis, job)._replace(outbox=outbox), Reply("undone", job)


def configure(redis: Redis, limit: int, paused: bool) -> Answered:
    return promote(begin(redis._replace(limit=limit, paused=paused))), Reply("configured")


def stepped(redis: Redis) -> Reply | None:
    """What each verb answers by a clock that stepped."""
    step = redis.wall - redis.ahead
    return Reply("stepped", rest=(step, redis.ahead)) if step else None


def believe(redis: Redis) -> Redis:
    """What a verb would make of such a clock."""
    due = 0 if redis.wall > redis.ahead else 1
    return redis._replace(slots=tuple([entry._replace(due=entry.due * due) for entry in redis.slots]), ahead=redis.wall)


def shift(redis: Redis, step: int, ahead: int) -> Answered:
    if redis.ahead != ahead:
        return redis, Reply("moved")
    return redis._replace(ahead=ahead + step), Reply("shifted")


def tick(redis: Redis) -> Answered:
    return begin(redis), Reply("ticked")


def end_wait(redis: Redis, job: int) -> Redis:
    """The end of `begin` for one waiter whose time in the queue is over."""
    entry = of(redis.queue, job)
    assert entry is not None
    return _without(redis, job)._replace(outbox=(*redis.outbox, Note("expired", job, entry.ticket, 0, 0, redis.epoch)))


def load(redis: Redis, epoch: int, limit: int, paused: bool, members: tuple[Entry, ...]) -> Answered:
    """rebuild.lua: everything anew, unless this epoch or a higher one is there already."""
    if redis.epoch >= epoch and "load_guard" not in off:
        return redis, Reply("loaded") if redis.epoch == epoch else Reply("refused", rest=(redis.epoch,))
    floor = epoch * LIFE
    if "fence_floor" in off:
        floor = max((entry.fence for entry in members), default=0)
    slots = _in_order(tuple([entry._replace(due=entry.due or FRESH) for entry in members if entry.fence]))
    queue = tuple(sorted((entry for entry in members if not entry.fence), key=lambda entry: entry.ticket))
    return Redis(redis.identity, epoch, floor, epoch * LIFE, limit, paused, False, slots, queue), Reply("loaded")


VERBS: dict[str, Callable[..., Answered]] = {
    script.__name__: script
    for script in (
        acquire,
        claim,
        renew,
        release,
        drain,
        cancel,
        leave,
        requeue,
        restore,
        undo,
        configure,
        tick,
        show,
        shift,
        load,
    )
}
