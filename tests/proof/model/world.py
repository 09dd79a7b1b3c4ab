"""Everything that can happen next: callers, holders and operators; time; gate by itself; and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.proof.model import provider_world
from tests.proof.model.calls import Next, begin, resume
from tests.proof.model.numbers import pass_time
from tests.proof.model.provider_world import is_draining, must_ask
from tests.proof.model.rows import live_tasks
from tests.proof.model.scripts import begin as reap
from tests.proof.model.scripts import end_wait
from tests.proof.model.state import ENDED, HOLDING, LIFE, LIVE, Lease, Pool, Redis, Row, Server, State, of, off, with_redis
from tests.proof.model.sweeping import examine

NO_FAULT: frozenset[str] = frozenset()
ALL_CALLS = frozenset({"again", "renew", "completed", "failed", "cancel"})


@dataclass(frozen=True)
class World:
    """How much there is of everything. `kinds` of faults: stop, twice, down, doubt (calls.py), flush, hands (an operator with
    redis-cli), rebuild (of a healthy Redis), clock (that of Redis steps), failover (to a Redis that lags, the old one living on).
    `accounts` are the limits of those at the provider; without any, gate knows of no task. `outages` are the provider's own faults,
    `strangers` the most tasks of others at its first account. `capacity`: gate counts its tasks, and its counter may be `stuck`.
    `retry`: how often a failure is tried again. `hints`: callbacks are not believed."""

    jobs: int = 2
    limit: int = 1
    faults: int = 1
    kinds: frozenset[str] = frozenset({"stop"})
    refusals: int = 0
    changes: int = 0
    servers: int = 1
    calls: frozenset[str] = ALL_CALLS
    accounts: tuple[int, ...] = ()
    outages: int = 0
    strangers: int = 0
    capacity: bool = False
    retry: int = 0
    hints: bool = False

    def start(self) -> State:
        redis = Redis(0, 1, LIFE, LIFE, self.limit)
        pool = Pool(1, 0, self.limit, accounts=self.accounts, rooms=self.accounts, retry=self.retry, hints=self.hints)
        return State(
            tuple(Row(job) for job in range(self.jobs)), pool, (redis,), (Server(0, 1, 0),) * self.servers, (),
            self.faults, self.refusals, self.changes, outages=self.outages, budget=self.faults,
        )  # fmt: skip


def callers(world: World, state: State) -> Iterator[Next]:
    """None of this has to happen, and all of it at any time. The jobs come in order."""
    for server in range(world.servers):
        by = f" at {server}" if server else ""
        for job, row in enumerate(state.rows):
            name = "abc"[job]
            yield from _comes(world, state, server, job, f"acquire {name}{by}")
            lease = Lease(job, row.fence)
            if row.status == "granted":
                yield from begin(state, f"claim {name}{by}", world.kinds, "extend", server, "claim", lease)
            if row.status == "running" and "renew" in world.calls:
                yield from begin(state, f"renew {name}{by}", world.kinds, "extend", server, "renew", lease)
            if row.status in HOLDING:
                for outcome in ("completed", "failed"):
                    if outcome in world.calls:
                        label = f"release {name} {outcome}{by}"
                        yield from begin(state, label, world.kinds, "release", server, lease, outcome)
                if state.refusals:
                    less = state._replace(refusals=state.refusals - 1)
                    yield from begin(less, f"{name} is refused{by}", world.kinds, "refuse", server, lease)
            if "away" in world.calls and any(entry.away for redis in state.redises if (entry := of(redis.queue, job))):
                yield from begin(state, f"the caller of {name} shows itself{by}", world.kinds, "show", server, job)
            if "cancel" in world.calls and (row.status in LIVE or (row.status == "cancelled" and is_draining(state, job))):
                yield from begin(state, f"cancel {name}{by}", world.kinds, "cancel", server, job)
        if world.accounts and not server:
            yield from provider_world.callers(state, world.kinds, world.strangers)
        if state.changes:
            less = state._replace(changes=state.changes - 1)
            limit, paused = state.pool.limit, state.pool.paused
            yield from begin(
                less, f"resume{by}" if paused else f"pause{by}", world.kinds, "change", server, limit, not paused
            )
            if limit > 1:
                yield from begin(less, f"limit {limit - 1}{by}", world.kinds, "change", server, limit - 1, paused)
            if limit < world.limit:
                yield from begin(less, f"limit {limit + 1}{by}", world.kinds, "change", server, limit + 1, paused)


def _comes(world: World, state: State, server: int, job: int, label: str) -> Iterator[Next]:
    row = state.rows[job]
    here = [redis for redis in state.redises if of(redis.slots, job) or of(redis.queue, job)]
    earlier = not job or state.rows[job - 1].status or any(of((*r.slots, *r.queue), job - 1) for r in state.redises)
    if earlier and ("again" in world.calls or not (row.status or here)) and _may_come(world, row, here):
        yield from begin(state, label, world.kinds, "acquire", server, job)


def _may_come(world: World, row: Row, here: list[Redis]) -> bool:
    """A repeat for a job that is over shows nothing new, unless its slot drains."""
    return row.status not in ENDED or (bool(world.accounts) and bool(here))


def time(world: World, state: State) -> Iterator[Next]:
    for job in range(world.jobs):
        name = "abc"[job]
        if (later := pass_time(state, job)) != state and not must_ask(state, job):
            yield f"a deadline of {name} passes", later
        for link, redis in enumerate(state.redises):
            if of(redis.queue, job):
                yield f"the queue time of {name} is over", with_redis(state, link, end_wait(redis, job))
    for link, redis in enumerate(state.redises):
        for entry in redis.queue if "away" in world.calls else ():
            if not entry.away:
                queue = tuple([one._replace(away=1) if one is entry else one for one in redis.queue])
                yield f"the caller of {'abc'[entry.job]} is away", with_redis(state, link, redis._replace(queue=queue))
        if redis.cooling:
            yield "the pool has cooled down", with_redis(state, link, redis._replace(cooling=False))


def gate(world: World, state: State) -> Iterator[Next]:
    """What gate does by itself: the tick, the recorder, the sweep. A cold Redis is loaded by the first caller."""
    for server, (link, epoch, identity) in enumerate(state.servers):
        redis = state.redises[link]
        by = f" at {server}" if server else ""
        if redis.epoch != (epoch or state.pool.epoch) or redis.identity != identity or _due(redis):
            if "tick" not in off:
                yield from begin(state, f"tick{by}", world.kinds, "tick", server)
            continue
        if redis.outbox:
            yield from begin(state, f"record{by}", world.kinds, "record", server)
        for finding in examine(redis, state.rows, live_tasks(state)[1]):
            label = f"sweep: {finding.kind} {'abc'[finding.job]}{by}"
            yield from begin(state, label, world.kinds, "sweep", server, finding)
        if (redis.limit, redis.paused) != (state.pool.limit, state.pool.paused) and "sweep_settings" not in off:
            yield from begin(state, f"sweep: settings{by}", world.kinds, "settle", server)
        if world.accounts:
            yield from provider_world.gate(state, world.kinds, server, by)
        if world.capacity:
            yield from provider_world.look(state, world.kinds, server, by)


def _due(redis: Redis) -> bool:
    return reap(redis) != redis or redis.wall != redis.ahead


def trouble(world: World, state: State) -> Iterator[Next]:
    for number, call in enumerate(state.calls):
        if call not in state.calls[:number]:
            yield from resume(state, number, world.kinds)
    if "failover" in world.kinds:
        yield from _failover(state)
    if world.accounts:
        yield from provider_world.trouble(state, world.kinds)
    if not state.faults:
        return
    less = state._replace(faults=state.faults - 1)
    for link, redis in enumerate(state.redises):
        if not redis.epoch:
            continue
        if "flush" in world.kinds:
            yield "FLUSHALL", with_redis(less, link, Redis(redis.identity))
        if "rebuild" in world.kinds:
            yield from begin(less, "gate rebuild", world.kinds, "rebuild", 0, state.servers[0].epoch)
        if "clock" in world.kinds:
            yield "the clock of Redis goes ahead", with_redis(less, link, redis._replace(wall=redis.wall + 1))
            yield "the clock of Redis goes back", with_redis(less, link, redis._replace(wall=redis.wall - 1))
        if "hands" in world.kinds:
            yield from _hands(less._replace(shuffled=True), link, redis)


def _hands(state: State, link: int, redis: Redis) -> Iterator[Next]:
    for entry in (*redis.slots, *redis.queue):
        slots = tuple([one for one in redis.slots if one is not entry])
        queue = tuple([one for one in redis.queue if one is not entry])
        what = f"redis-cli takes out {'abc'[entry.job]}"
        yield what, with_redis(state, link, redis._replace(slots=slots, queue=queue))
    if redis.outbox:
        note = redis.outbox[0]
        what = f"redis-cli deletes the entry {note.kind} {'abc'[note.job]}"
        yield what, with_redis(state, link, redis._replace(outbox=redis.outbox[1:]))


def _failover(state: State) -> Iterator[Next]:
    """A replica that has fallen behind is promoted under another replication id; the servers come to it one by one."""
    if state.lagging is None and len(state.redises) == 1 and state.faults:
        yield "the replica falls behind", state._replace(lagging=state.redises[0])
    if state.lagging is not None and state.faults:
        promoted = state.lagging._replace(identity=1)
        yield "failover", state._replace(redises=(*state.redises, promoted), lagging=None, faults=state.faults - 1)
    if len(state.redises) > 1:
        for server, (link, epoch, identity) in enumerate(state.servers):
            if link == 0:
                moved = (*state.servers[:server], Server(1, epoch, identity), *state.servers[server + 1 :])
                yield f"server {server} reconnects", state._replace(servers=moved)
