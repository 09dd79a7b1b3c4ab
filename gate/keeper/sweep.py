"""The sweep: reads Redis, then SQL, and mends what differs. Every ten seconds, and when a server starts.

Between the two reads the world moves, so nothing is done about what only one sweep saw: what two in a row saw, of the same
lease, is no movement but drift (a crash between the stores, an operator with redis-cli, a trimmed stream). Each repair is a
script or a compare-and-set that judges again, and is named in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import structlog

from gate import metrics
from gate.errors import StoreDown
from gate.jobs import HOLDING, Job, Lease
from gate.keeper.news import News
from gate.keeper.pools import Pools
from gate.keeper.recorder import Recorder
from gate.ledger import Ledger, Pool, Reading, Return
from gate.slots import Note, Reply, Semaphore, Survey, entries

log = structlog.get_logger("gate.sweep")

EVERY_S = 10.0
ALL_NOTES = 100_000
STRANGER_MS = 30_000
"""What Redis has and SQL has not may be a commit on its way; so long no commit takes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` names the repair. `fence` is of the grant it is about (0: of a place in the queue)."""

    kind: str
    job_id: str
    fence: int = 0


def examine(seen: Survey, live: dict[str, Job], others: dict[str, Job]) -> Iterator[Finding]:
    """What differs between Redis (`seen`) and SQL (`live` are the pool's live jobs, `others` what else Redis names).

    What the outbox speaks of is on its way, and no difference.
    """
    in_redis = {*seen.slots, *seen.queue}
    in_redis.difference_update(seen.noted)  # guard: sweep-nothing-in-the-outbox
    for job_id in in_redis:
        held = job_id in seen.slots
        entry = seen.entries.get(job_id) or {}
        fence = int(entry.get("fence") or 0) if held else 0
        job = live.get(job_id)
        if job is None:
            other = others.get(job_id)
            since = entry.get("granted_at" if held else "queued_at", 0)
            if other is not None and other.ended:
                yield Finding("ended", job_id)  # guard: sweep-ended-job
            elif seen.now_ms - since > STRANGER_MS:  # guard: sweep-stranger
                yield Finding("stranger", job_id, fence)
        elif job.status == "queued":
            if held and entry and fence > job.fence:
                yield Finding("adopt", job_id, fence)  # guard: sweep-lost-grant
            elif held and entry:
                yield Finding("give_back", job_id, fence)  # guard: sweep-unfinished-refusal
            elif not entry:
                yield Finding("seat", job_id)
        elif held and entry and fence != job.fence:
            yield Finding("stranger", job_id, fence)
        elif not (held and entry):
            yield _lost(seen, job)
    for job_id in live.keys() - seen.slots.keys() - set(seen.queue) - seen.noted.keys():
        job = live[job_id]
        if job.status in HOLDING:
            yield _lost(seen, job)
        else:
            yield Finding("seat", job_id)  # guard: sweep-lost-place
    for job_id in seen.noted.keys() - live.keys() - others.keys() - seen.slots.keys() - set(seen.queue):
        if seen.now_ms - seen.noted[job_id] > STRANGER_MS:
            yield Finding("unheard", job_id)  # guard: sweep-unknown-outbox-entry


def _lost(seen: Survey, job: Job) -> Finding:
    assert job.expires_at is not None
    return Finding("overdue" if job.expires_at <= seen.now_ms else "restore", job.job_id, job.fence)


Mend = Callable[[str, int, Survey, dict[str, Job], Finding, float], Awaitable[bool]]


class Sweep:
    def __init__(
        self, semaphore: Semaphore, ledger: Ledger, reading: Reading, pools: Pools, recorder: Recorder, news: News
    ) -> None:
        self._semaphore, self._ledger, self._reading = semaphore, ledger, reading
        self._pools, self._recorder, self._news = pools, recorder, news
        self._before: dict[str, set[Finding]] = {}

    async def keep(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(StoreDown):
                await self._pools.load()  # another server may have made one
            for pool in self._pools.names:
                try:
                    await self.sweep(pool)
                except StoreDown as error:
                    log.warning("not swept", pool=pool, error=str(error))
                except Exception:
                    log.exception("not swept", pool=pool)  # what one pool holds must not keep the others from being mended
            await asyncio.sleep(EVERY_S)

    async def sweep(self, pool: str) -> list[Finding]:
        """One look at one pool; mends what the look before saw too, and says what that was. Raises StoreDown."""
        return await self._look(pool, self._mend)

    async def drift(self, pool: str) -> list[Finding]:
        """What a look sees that the look before saw too; mends nothing. Raises StoreDown."""
        return await self._look(pool, None)

    async def _look(self, pool: str, mend: Mend | None) -> list[Finding]:
        epoch, _ = await self._pools.run(pool, lambda epoch: self._semaphore.tick(pool, epoch))
        await self._recorder.run(pool)
        looked_at = time.monotonic()
        seen = await self._semaphore.survey(pool)
        live = await self._reading.live(pool)
        named = {*seen.slots, *seen.queue, *seen.noted} - live.keys()
        others = {
            job_id: job
            for job_id, job in (await self._reading.jobs(sorted(named))).items()
            if job.pool == pool  # guard: sweep-only-its-pool
        }
        found = set(examine(seen, live, others))
        settings = await self._settings(pool)
        if any(seen.settings.get(name) != value for name, value in settings.in_redis().items()):
            found.add(Finding("settings", ""))  # guard: sweep-settings
        if seen.epoch != epoch:
            return []  # it was rebuilt meanwhile: the next one sees clearly
        twice = set(found)
        twice &= self._before.get(pool, set())  # guard: sweep-what-two-looks-saw
        if mend is None:
            self._before[pool] = found
            return sorted(twice, key=str)
        self._before[pool] = found - twice
        mended = [finding for finding in sorted(twice, key=str) if await mend(pool, epoch, seen, live, finding, looked_at)]
        for finding in mended:
            metrics.repairs[finding.kind] += 1
            log.warning("mended", pool=pool, repair=finding.kind, job_id=finding.job_id, fence=finding.fence)
        return mended

    async def _settings(self, pool: str) -> Pool:
        return next(one for one in await self._reading.pools() if one.name == pool)

    async def _mend(
        self, pool: str, epoch: int, seen: Survey, live: dict[str, Job], finding: Finding, looked_at: float
    ) -> bool:
        job_id, fence = finding.job_id, finding.fence
        job = live.get(job_id)
        match finding.kind:
            case "settings":
                wanted = (await self._settings(pool)).in_redis()
                await self._run(pool, lambda epoch: self._semaphore.configure(pool, epoch, wanted))
            case "ended":
                await self._ledger.say_ended(pool, job_id)
                await self._run(pool, lambda epoch: self._semaphore.cancel(pool, epoch, job_id))
            case "stranger":
                return await self._free(pool, epoch, seen, finding)
            case "unheard":
                return await self._forget(pool, epoch, job_id)
            case "overdue":
                if not await self._ledger.expire_overdue(pool, epoch, job_id, fence, seen.now_ms):  # guard: sweep-lost-expiry
                    return False
                await self._run(pool, lambda epoch: self._semaphore.cancel(pool, epoch, job_id))
                self._news.tell(pool, [job_id])
            case "restore":
                assert job is not None
                entry = entries.holding(job)
                reply = await self._run(pool, lambda epoch: self._semaphore.restore(pool, epoch, job_id, entry))
                return reply.word == "restored"  # guard: sweep-restored-lease
            case "adopt":
                good_until = looked_at + (seen.slots[job_id] - seen.now_ms) / 1000
                await self._recorder.apply(pool, epoch, [_grant_in(seen, job_id)], good_until)
            case "seat" | "give_back":
                assert job is not None
                if finding.kind == "seat":
                    await self._ledger.seated(pool, job_id)
                await self._recorder.give_back(pool, Return(job, fence, "lost"))
        return True

    async def _free(self, pool: str, epoch: int, seen: Survey, finding: Finding) -> bool:
        """Void in SQL first: a commit that is slower than slow must not find its slot given away."""
        job_id = finding.job_id
        entry = seen.entries.get(job_id) or {}
        ticket = int(entry.get("ticket", 0))
        if not await self._ledger.void(pool, epoch, job_id, finding.fence, ticket):
            return False
        lease_id = entry.get("lease_id")
        if job_id in seen.slots and lease_id:
            await self._run(pool, lambda epoch: self._semaphore.release(pool, epoch, job_id, lease_id))
        else:  # what has no entry has no ticket either; it cannot have come again since
            place = ticket if entry else None
            await self._run(pool, lambda epoch: self._semaphore.cancel(pool, epoch, job_id, place))
        return True

    async def _forget(self, pool: str, epoch: int, job_id: str) -> bool:
        """Entries of the outbox about a job that never reached SQL, and whose slot is gone: nobody was told of it."""
        notes = [note for note in await self._semaphore.notes(pool, most=ALL_NOTES) if note.job_id == job_id]
        if not notes:
            return False
        fence, ticket = max(note.fence for note in notes), max(note.ticket for note in notes)
        if not await self._ledger.void(pool, epoch, job_id, fence, ticket):
            return False
        await self._semaphore.delete_notes(pool, [note.entry_id for note in notes])
        return True

    async def _run(self, pool: str, script) -> Reply:  # type: ignore[no-untyped-def]
        _, reply = await self._pools.run(pool, script)
        return reply


def _grant_in(seen: Survey, job_id: str) -> Note:
    """The outbox entry that is missing, from what Redis holds."""
    entry = seen.entries[job_id]
    assert entry is not None
    fence, granted_at = int(entry["fence"]), int(entry["granted_at"])
    lease = Lease(entry["lease_id"], fence, granted_at, seen.slots[job_id], int(entry["hard"]))
    return Note("0-1", "granted", job_id, fence, granted_at, lease)
