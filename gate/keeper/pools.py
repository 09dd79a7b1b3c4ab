"""The pools as this server knows them: the epoch of each, when it is due next, and how to run a script on one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from gate.errors import PoolUnknown, StoreDown
from gate.ledger import Ledger, Reading
from gate.slots import Reply, Semaphore, entries

log = structlog.get_logger("gate.pools")
R = TypeVar("R", bound=Reply)

COLD_WAIT_S = 5.0
"""How long a call that met `cold` waits for the rebuild and goes on (PROTOCOL, Rebuild)."""


@dataclass(slots=True)
class _Known:
    epoch: int | None = None
    floor: int = 0
    loads: int = 0
    due: float | None = None
    alarm: asyncio.Event = field(default_factory=asyncio.Event)
    rebuilding: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pools:
    """Every call of a script goes through `run`, because of what its reply asks for: an outbox to record, a bound that
    was met, a deadline to be awake at, a Redis that has forgotten the pool."""

    def __init__(self, semaphore: Semaphore, ledger: Ledger, reading: Reading) -> None:
        self._semaphore, self._ledger, self._reading = semaphore, ledger, reading
        self._known: dict[str, _Known] = {}
        self.on_emitted: Callable[[str], None] = lambda pool: None

    @property
    def names(self) -> list[str]:
        return sorted(self._known)

    async def load(self) -> None:
        """Reads from SQL which pools there are, and their epochs."""
        for pool in await self._reading.pools():
            self._known.setdefault(pool.name, _Known()).epoch = pool.epoch

    async def run(self, pool: str, script: Callable[[int], Awaitable[R]], *, grants_or_reaps: bool = True) -> tuple[int, R]:
        """The reply of `script`, which is given the epoch, and that epoch. One that grants or reaps is not run while SQL
        cannot be written.

        Raises PoolUnknown; StoreDown when a store does not answer or the pool stays cold for 5 s.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + COLD_WAIT_S
        if grants_or_reaps:
            await self._ledger.reach()
        while True:
            epoch = await self.epoch(pool)
            loads = self._known[pool].loads
            reply = await script(epoch)
            if reply.word not in ("cold", "damaged"):
                self._heed(pool, reply)
                return epoch, reply
            if loop.time() > give_up:
                raise StoreDown("redis", f"Redis has lost pool {pool!r} and it could not be rebuilt yet")
            await self.rebuild(pool, epoch, loads)

    async def epoch(self, pool: str) -> int:
        known = self._known.get(pool)
        if known is None or known.epoch is None:
            await self.load()
            known = self._known.get(pool)
        if known is None or known.epoch is None:
            raise PoolUnknown(f"there is no pool {pool!r}")
        return known.epoch

    def outdated(self, pool: str, epoch: int) -> None:
        """SQL has another epoch than the one a script answered under: read it anew."""
        known = self._known[pool]
        if known.epoch == epoch:
            known.epoch = None

    async def rebuild(self, pool: str, refused: int, loads: int | None = None) -> None:
        """Loads the pool from SQL under a new epoch, or takes the epoch that somebody else has raised meanwhile.

        Committed first, loaded second: a server that stops between the two leaves an epoch that nobody uses. `loads`: how
        many loads there were when Redis refused; one since may have mended it.
        """
        known = self._known[pool]
        async with known.rebuilding:
            if known.epoch != refused or loads not in (None, known.loads):
                return  # somebody here was faster
            snapshot = await self._ledger.begin_rebuild(pool, refused, known.floor)
            known.epoch = snapshot.epoch
            if not snapshot.raised:
                return
            there = await self._semaphore.rebuild(
                pool,
                snapshot.epoch,
                snapshot.pool.in_redis(),
                [(job.job_id, entries.holding(job)) for job in snapshot.leases],
                [(job.job_id, entries.waiting(job)) for job in snapshot.waiters],
            )
            known.loads += 1
            if there != snapshot.epoch:
                known.epoch, known.floor = None, there
                return
        log.info(
            "loaded into Redis from SQL",
            pool=pool,
            epoch=there,
            leases=len(snapshot.leases),
            waiters=len(snapshot.waiters),
        )

    def _heed(self, pool: str, reply: Reply) -> None:
        known = self._known[pool]
        if reply.emitted:
            self.on_emitted(pool)
        now = asyncio.get_running_loop().time()
        if reply.more:
            due = now
        elif reply.next_ms is not None:
            # One millisecond more: a deadline is over when the clock is past it, not when it is about to be.
            due = now + (reply.next_ms - reply.now_ms + 1) / 1000
        else:
            return
        if known.due is None or due < known.due:
            known.due = due
            known.alarm.set()

    async def sleep_until_due(self, pool: str, at_most_s: float) -> None:
        """Returns at the earliest deadline of the pool, or after `at_most_s`."""
        known = self._known[pool]
        loop = asyncio.get_running_loop()
        end = loop.time() + at_most_s
        while (left := (end if known.due is None else min(end, known.due)) - loop.time()) > 0:
            known.alarm.clear()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may swallow a cancellation that meets the alarm.
                async with asyncio.timeout(left):
                    await known.alarm.wait()
        known.due = None
