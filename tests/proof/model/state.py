"""What the model remembers: both stores, the memory of each server, and the calls that stand still between two steps.

Numbers are kept small so that the search ends. A fence or a ticket is `epoch * LIFE + n`, as in lua/rebuild.lua with 2**32. A
deadline is a rank among the deadlines of its own job: 0 is over, a higher one is later, and time makes the lowest one over.
`lease_id` is left out: it is drawn with the fence, and names the same grant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

LIFE = 100
FRESH = 9
"""A deadline that is later than each other of its job."""
HARD = 1
"""How often an answer extends a lease before its hard limit."""
HOLDS = 1
"""How often silence extends a lease before it counts as too long."""
HOLDING = ("granted", "running")
LIVE = ("queued", *HOLDING)
REFUNDED = ("failed", "cancelled", "expired")
ENDED = (*REFUNDED, "completed")

off: set[str] = set()
"""The safeguards that are switched off at the moment (see safeguards.py)."""


class Row(NamedTuple):
    """A row of `jobs` with its refunds. `first`: the fence of the first grant in the history, as `gate verify` reads it.
    `passed`: the history says that later tickets went past it. `told` and `heard` are in no table: the deadline that the holder was
    told, the outcome that a caller was told. `account`: of the provider, chosen with the grant. `charges` counts charges, `retries`
    how often a failure of its provider was tried again."""

    job: int
    status: str = ""
    ticket: int = 0
    fence: int = 0
    due: int = 0
    told: int = 0
    first: int = 0
    refunds: int = 0
    heard: str = ""
    passed: bool = False
    account: int = 0
    charges: int = 0
    retries: int = 0


class Pool(NamedTuple):
    """The pool's row. `identity` is of the Redis under which the epoch was raised, `replaced` are those before it.
    `accounts` are the limits of the provider's accounts, `rooms` what others leave of them, and `limit` is that in force.
    `retry` is how often a failure is tried again, and by `hints` a callback is not believed: both are settings."""

    epoch: int
    identity: int
    limit: int
    paused: bool = False
    void: int = 0
    replaced: tuple[int, ...] = ()
    accounts: tuple[int, ...] = ()
    rooms: tuple[int, ...] = ()
    retry: int = 0
    hints: bool = False


class Task(NamedTuple):
    """A task at the provider, started for one lease, with the row that SQL has of it once it is bound.

    `life` is the provider's truth: run, done, bad, gone (stopped). `stop`: '' (none), owed, over; while it is owed and `due` is a
    deadline, the slot drains. `longer`, `silent` and `denied` count answers since the last that changed them. `given_up`: at
    this deadline no further answer can help. `nudged`: a hint has made its question due. `kept`: the inbox has the delivery id of
    its end. `early`: its callback came before its binding. `hinted` is in no table: a hint about its end has come since the last question.
    """

    job: int
    fence: int
    account: int = 0
    life: str = "run"
    bound: bool = False
    stop: str = ""
    due: int = 0
    longer: int = 0
    silent: int = 0
    denied: int = 0
    given_up: bool = False
    nudged: bool = False
    kept: bool = False
    early: bool = False
    hinted: bool = False


class Entry(NamedTuple):
    """A member of slots or queue with its JSON in `jobs`; a waiter has no fence.

    One that was refused is `aside`: others are tried first. Here one refusal is enough. `away`: its caller is absent (1), and it
    was passed (2). `draining`: its job is over, and its task is not known to be.
    """

    job: int
    ticket: int
    fence: int = 0
    due: int = 0
    claimed: bool = False
    again: bool = False
    aside: bool = False
    away: int = 0
    draining: bool = False


class Note(NamedTuple):
    """An entry of the outbox. `epoch` stands for its stream id: no two lives share one."""

    kind: str
    job: int
    ticket: int
    fence: int
    due: int
    epoch: int


class Lease(NamedTuple):
    """What a holder shows; or a grant that goes back to its place, and `why` (lua/requeue.lua)."""

    job: int
    fence: int
    ticket: int = 0
    why: str = ""


class Redis(NamedTuple):
    """One pool in one Redis; epoch 0 is cold. `identity` is its run id and replication id. `wall` counts the steps of its clock,
    `ahead` those that the pool's clock does not follow."""

    identity: int
    epoch: int = 0
    fence: int = 0
    ticket: int = 0
    limit: int = 0
    paused: bool = False
    cooling: bool = False
    slots: tuple[Entry, ...] = ()
    queue: tuple[Entry, ...] = ()
    outbox: tuple[Note, ...] = ()
    wall: int = 0
    ahead: int = 0


class Reply(NamedTuple):
    """What a script or a transaction answers."""

    word: str
    job: int = -1
    ticket: int = 0
    fence: int = 0
    due: int = 0
    known: bool = False
    rest: tuple[Any, ...] = ()


class Server(NamedTuple):
    """A gate process: the Redis that it is connected to, and what it believes of the pool; epoch 0: read it anew."""

    link: int
    epoch: int
    identity: int


class Call(NamedTuple):
    """A call that stands still: which path, of what, and each answer that it has had so far."""

    path: str
    args: tuple[Any, ...]
    answers: tuple[Any, ...]


class State(NamedTuple):
    """`faults` are left of `budget`. `outages` are faults that the provider may still have; `absent`: it does not answer, `stuck`:
    its counter of tasks is wrong, `refused`: it has refused a start within the last minute. `strangers` are tasks of others on the first account."""

    rows: tuple[Row, ...]
    pool: Pool
    redises: tuple[Redis, ...]
    servers: tuple[Server, ...]
    calls: tuple[Call, ...]
    faults: int
    refusals: int
    changes: int
    lagging: Redis | None = None
    shuffled: bool = False
    wrong: str = ""
    tasks: tuple[Task, ...] = ()
    absent: bool = False
    outages: int = 0
    strangers: int = 0
    stuck: bool = False
    refused: bool = False
    budget: int = 0


def wrong(state: State, what: str) -> State:
    return state if state.wrong else state._replace(wrong=what)


def of(entries: tuple[Entry, ...], job: int) -> Entry | None:
    for entry in entries:
        if entry.job == job:
            return entry
    return None


def held(state: State) -> int:
    """How many slots SQL says are held."""
    return sum(row.status in HOLDING for row in state.rows)


def with_row(state: State, job: int, **values: Any) -> State:
    rows = state.rows
    return state._replace(rows=(*rows[:job], rows[job]._replace(**values), *rows[job + 1 :]))


def with_redis(state: State, link: int, redis: Redis) -> State:
    return state._replace(redises=(*state.redises[:link], redis, *state.redises[link + 1 :]))


def with_server(state: State, number: int, **values: Any) -> State:
    servers = state.servers
    return state._replace(servers=(*servers[:number], servers[number]._replace(**values), *servers[number + 1 :]))
