"""The single steps of a path beside the transactions: a script on the Redis of a server, and what a server only thinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.proof.model import provider, rows, scripts, task_rows
from tests.proof.model.state import Reply, State, off, with_redis, with_row, with_server, wrong


def script(state: State, server: int, verb: str, epoch: int, *args: Any) -> tuple[State, Reply]:
    """A script, on the Redis that this server is connected to (`Pools.run`)."""
    link, _, identity = state.servers[server]
    redis = state.redises[link]
    if redis.identity != identity and "identity" not in off:
        return state, Reply("other")
    if redis.epoch != epoch:
        return state, Reply("cold")
    if verb != "shift" and (found := scripts.stepped(redis)):
        if "clock" not in off:
            return state, found
        redis = scripts.believe(redis)
    redis, reply = scripts.VERBS[verb](redis, *args)
    return with_redis(state, link, redis), reply


def load(state: State, server: int, *args: Any) -> tuple[State, Reply]:
    link = state.servers[server].link
    redis, reply = scripts.load(state.redises[link], *args)
    return with_redis(state, link, redis), reply


def notes(state: State, server: int) -> tuple[State, tuple[Any, ...]]:
    return state, state.redises[state.servers[server].link].outbox


def delete_notes(state: State, server: int, done: tuple[Any, ...]) -> tuple[State, None]:
    link = state.servers[server].link
    redis = state.redises[link]
    return with_redis(state, link, redis._replace(outbox=tuple([note for note in redis.outbox if note not in done]))), None


def settings(state: State) -> tuple[State, tuple[int, bool]]:
    return state, (state.pool.limit, state.pool.paused)


# ---- thoughts ---------------------------------------------------------------------------------------------------------


def knows(state: State, server: int) -> tuple[State, int]:
    """The epoch as this server knows it; one that does not know reads it from SQL."""
    if not state.servers[server].epoch:
        state = with_server(state, server, epoch=state.pool.epoch, identity=state.pool.identity)
    return state, state.servers[server].epoch


def learns(state: State, server: int, epoch: int, identity: int) -> tuple[State, None]:
    return with_server(state, server, epoch=epoch, identity=identity), None


def outdated(state: State, server: int, epoch: int) -> tuple[State, None]:
    return (with_server(state, server, epoch=0) if state.servers[server].epoch == epoch else state), None


def connected_to(state: State, server: int) -> tuple[State, int]:
    return state, state.redises[state.servers[server].link].identity


def told(state: State, job: int, fence: int, due: int) -> tuple[State, None]:
    """A caller is told that this job runs, and until when."""
    row = state.rows[job]
    if row.status not in ("running", "granted") or row.fence != fence:
        return wrong(state, "told running under a lease that SQL does not have"), None
    return with_row(state, job, told=max(due, row.told)), None


def heard(state: State, job: int, outcome: str) -> tuple[State, None]:
    """A caller is told how this job ended."""
    return with_row(state, job, heard=outcome), None


MEMORY: set[Callable[..., Any]] = {knows, learns, outdated, connected_to, told, heard}
READS: set[Callable[..., Any]] = {
    notes,
    settings,
    rows.survey,
    rows.live_rows,
    rows.live_tasks,
    provider.query,
    provider.counts,
    task_rows.next_deed,
}
