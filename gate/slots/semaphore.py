"""The semaphore of a pool in Redis: three run, the fourth waits.

Redis decides who may run now, and nothing else. Each method runs one Lua script, which decides and acts in one step. Its
header in lua/ lists its results. Every script first reaps the leases that have run out, then grants free slots to waiters.

Every call names the epoch under which its caller has loaded the pool. When Redis does not have the pool under that epoch, the
call does nothing and raises NotDone.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from gate.model.job import Lease, RequeueReason, now_ms
from gate.model.messages import EntryKind, OutboxEntry
from gate.slots import entry_codec, keys, looks
from gate.slots.connection import AnotherRedis, RedisConnection, answering
from gate.slots.entry_codec import Entry
from gate.slots.pool_clock import PoolClock, Stepped, elapsed_s
from gate.slots.results import (
    UNDONE,
    AcquireReply,
    AcquireResult,
    CancelResult,
    DrainResult,
    ExtendReply,
    ExtendResult,
    LedgerMark,
    NotDone,
    PoolLook,
    QueueState,
    RebuildReply,
    RebuildResult,
    RedisSnapshot,
    ReleaseResult,
    RequeueResult,
    RestoreResult,
    ScriptReply,
    ShiftReply,
    ShiftResult,
    Undone,
    UndoResult,
    UpkeepResult,
)
from gate.slots.script_runner import ScriptRunner

GRANTS_PER_CALL = 8
"""Waiters that one call may grant a slot. 32 random characters travel for each."""
GRANTS_PER_TICK = 100
"""Waiters that one tick may grant a slot."""


class Semaphore:
    """The semaphores of all pools in one Redis.

    Every method raises StoreDown when Redis does not answer, and all that name an epoch raise NotDone.

    Attributes:
        ledger_ids: The id of the ledger of each pool that was named.
        present_since: Says since when this process has served callers without a break, by `elapsed_s` (s); None when it has not.
    """

    def __init__(self, link: RedisConnection, clock: Callable[[], int] | None = None) -> None:
        """Use a connection.

        Args:
            link: The connection to Redis.
            clock: For tests: the time (ms since 1970). Without it each script reads the clock of Redis.
        """
        self.link = link
        self._clock = clock
        self.ledger_ids: dict[str, str] = {}
        self._clocks: defaultdict[str, PoolClock] = defaultdict(PoolClock)
        self.present_since: Callable[[], float | None] = lambda: None
        self._scripts = ScriptRunner(link)

    def belongs(self, pool: str, ledger_id: str) -> None:
        """Name the ledger of a pool. A pool of the same name that another ledger has loaded counts as not loaded."""
        self.ledger_ids[pool] = ledger_id

    def clock_of(self, pool: str) -> PoolClock:
        """Return the clock of a pool, as this process expects it."""
        return self._clocks[pool]

    def forget_clock(self, pool: str) -> None:
        """Forget the clock of a pool that was deleted."""
        self._clocks.pop(pool, None)

    def expected_ms(self, pool: str) -> int:
        """Say what the pool's clock shows now (ms since 1970), without a call; this machine's clock if no reply has told it."""
        known = self._clocks.get(pool)
        return (known and known.expected_ms(elapsed_s())) or now_ms()

    async def acquire(
        self,
        pool: str,
        epoch: int,
        job_id: str,
        user: str | None,
        tool: str | None,
        lease_ms: int | None,
        or_wait: bool = True,
        by_gate: bool = False,
        queue_ms: int | None = None,
        presence_ms: int | None = None,
    ) -> AcquireReply:
        """Take a slot, or join the queue. A repeat for the same job is answered with where the job stands.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the pool was loaded.
            job_id: The job.
            user: Its user; None for a job that no limit per user applies to.
            tool: Its tool.
            lease_ms: Length of its leases (ms); None for the pool's.
            or_wait: False to take a free slot now or nothing.
            by_gate: gate starts the job, so it is granted through the queue and only gate claims it.
            queue_ms: How long it may wait (ms); None for the pool's.
            presence_ms: Time (ms) without a sign of its caller after which others pass it; None for no such time.
        """
        own = (lease_ms or "", int(or_wait), int(by_gate), queue_ms or "", presence_ms or "")
        asked = (job_id, user or "", tool or "", *own)
        raw = await self._run("acquire", pool, epoch, *asked)
        result = AcquireResult(raw["word"])
        lease = _lease(raw) if result in (AcquireResult.RUNNING, AcquireResult.GRANTED) else None
        return AcquireReply(
            *_head(raw, result),
            known=raw.get("known", False),
            by_gate=raw.get("by_gate", False),
            ticket=int(raw.get("ticket", 0)),
            queued_at=int(raw.get("queued_at", 0)),
            lease_ms=int(raw.get("lease_ms", 0)),
            stood_ms=int(raw.get("stood", 0)),
            lease=lease,
            active=tuple(raw.get("active", ())),
            good_until=_good_until(raw, lease.due) if lease else None,
        )

    async def claim(self, pool: str, epoch: int, job_id: str, lease_id: str, by_gate: bool = False) -> ExtendReply:
        """Say that a granted job has started: it has a full lease from now on.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the pool was loaded.
            job_id: The job.
            lease_id: Its lease, as the grant named it.
            by_gate: The caller is gate, which alone claims the jobs that it starts.
        """
        return _extended(await self._run("claim", pool, epoch, job_id, lease_id, int(by_gate)))

    async def renew(self, pool: str, epoch: int, job_id: str, lease_id: str, lease_ms: int | None) -> ExtendReply:
        """Extend a lease by `lease_ms` from now; None for the job's own length. A renewal never shortens."""
        return _extended(await self._run("renew", pool, epoch, job_id, lease_id, lease_ms or ""))

    async def hold(self, pool: str, epoch: int, job_id: str, lease_id: str) -> ExtendReply:
        """Keep a grant whose start call is under way, by one more claim time from now. Nothing is claimed."""
        return _extended(await self._run("hold", pool, epoch, job_id, lease_id))

    async def release(self, pool: str, epoch: int, job_id: str, lease_id: str) -> ScriptReply[ReleaseResult]:
        """Give the slot of a lease back. The next waiter has it before this returns."""
        return _reply(await self._run("release", pool, epoch, job_id, lease_id), ReleaseResult)

    async def drain(self, pool: str, epoch: int, job_id: str, lease_id: str, drain_ms: int) -> ScriptReply[DrainResult]:
        """Keep the slot of a lease whose job has ended for at most `drain_ms`, because its task still runs."""
        return _reply(await self._run("drain", pool, epoch, job_id, lease_id, drain_ms), DrainResult)

    async def requeue(
        self, pool: str, epoch: int, job_id: str, fence: int, why: RequeueReason, restore: Entry | None = None,
        at_least_ms: int = 0,
    ) -> ScriptReply[RequeueResult]:  # fmt: skip
        """Put a job whose grant was given back to its place in the queue.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the pool was loaded.
            job_id: The job.
            fence: Fence of that grant. A job that holds a newer one stays where it is.
            why: `refused` by the provider, `tool_down`, `not_taken` by SQL, or `lost`.
            restore: The job's entry, in case Redis has lost it.
            at_least_ms: Shortest cool-down (ms) after `refused` and `tool_down`.
        """
        entry = json.dumps(restore) if restore else ""
        return _reply(await self._run("requeue", pool, epoch, job_id, fence, why, entry, at_least_ms), RequeueResult)

    async def restore(self, pool: str, epoch: int, job_id: str, entry: Entry) -> ScriptReply[RestoreResult]:
        """Put a lease back that SQL has and Redis has lost."""
        return _reply(await self._run("restore", pool, epoch, job_id, json.dumps(entry)), RestoreResult)

    async def configure(self, pool: str, epoch: int, settings: dict[str, int]) -> ScriptReply[UpkeepResult]:
        """Change settings of the pool. More free slots are granted at once; a lower limit ends no lease."""
        asked = await self._run("configure", pool, epoch, json.dumps(settings), grants=GRANTS_PER_TICK)
        return _reply(asked, UpkeepResult)

    async def undo(self, pool: str, epoch: int, job_id: str, ticket: int) -> ScriptReply[UndoResult]:
        """Take back the place that a first call under `ticket` took, unless another call relies on it."""
        return _reply(await self._run("undo", pool, epoch, job_id, ticket), UndoResult)

    async def cancel(self, pool: str, epoch: int, *job_ids: str, ticket: int | None = None) -> ScriptReply[CancelResult]:
        """Take jobs out, whether they wait or hold slots; with `ticket`, the first only if it came under that ticket.

        The reply is about the first job.
        """
        first, *others = job_ids
        asked = await self._run("cancel", pool, epoch, first, "" if ticket is None else ticket, *others)
        return _reply(asked, CancelResult)

    async def tick(
        self, pool: str, epoch: int, recorded: int | None = None, resets: bool = False
    ) -> ScriptReply[UpkeepResult]:
        """Reap what has run out and grant what is free. Every other call does so too, up to a bound.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the pool was loaded.
            recorded: ID of the newest event that was read from SQL. Redis keeps the highest; None keeps what it has.
            resets: Take the clock of Redis as that of an empty pool again. SQL must have it so already, for a rebuild.
        """
        asked = await self._run("tick", pool, epoch, recorded or "", int(resets), grants=GRANTS_PER_TICK)
        return _reply(asked, UpkeepResult)

    async def shift(self, pool: str, epoch: int, step_ms: int, ahead_ms: int) -> ShiftReply:
        """Keep the pool's clock where it was, though the clock of Redis has stepped.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the pool was loaded.
            step_ms: By how much (ms) it stepped.
            ahead_ms: By how much (ms) it was ahead of the pool's when the step was seen. If it is no longer, nothing is changed.
        """
        raw = await self._run("shift", pool, epoch, step_ms, ahead_ms, checked=False)
        return ShiftReply(*_head(raw, ShiftResult(raw["word"])), ahead_ms=int(raw["ahead_ms"]))

    async def status(
        self, pool: str, epoch: int, job_id: str | None = None, most: int = 0, shows: bool = False, for_good: bool = False
    ) -> QueueState:
        """Read the pool.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the pool was loaded.
            job_id: A waiter whose position is wanted; None for no position.
            most: How many waiters are named at most.
            shows: The caller of this job asks, so it is present.
            for_good: The job needs no presence any longer.
        """
        raw = await self._run("status", pool, epoch, job_id or "", most, 2 if for_good else int(shows))
        cooling = int(raw["cooling_until"])
        return QueueState(
            *_head(raw, UpkeepResult.STATUS),
            limit=int(raw["limit"]),
            queue_ms=int(raw["queue_ms"]),
            claim_ms=int(raw["claim_ms"]),
            loaded_at=int(raw["loaded_at"]),
            stood_ms=int(raw["stood_ms"]),
            refusals_before_passing=int(raw["refusals_before_passing"]),
            aside_until=int(raw["aside_until"]) if "aside_until" in raw else None,
            running=int(raw["running"]),
            granted=int(raw["granted"]),
            draining=int(raw["draining"]),
            queued=int(raw["queued"]),
            paused=raw["paused"],
            cooling_until=cooling if cooling > int(raw["now"]) else None,
            oldest=int(raw["oldest"]) if "oldest" in raw else None,
            holders=tuple(raw["holders"]),
            queue=tuple(raw["queue"]),
            position=int(raw["position"]) if "position" in raw else None,
            cooling_tools=frozenset(raw.get("tools", ())),
            down_tools=frozenset(raw.get("down", ())),
            away=frozenset(raw.get("away", ())),
        )

    async def rebuild(
        self,
        pool: str,
        epoch: int,
        settings: dict[str, int],
        leases: Sequence[tuple[str, Entry]],
        waiters: Sequence[tuple[str, Entry]],
    ) -> RebuildReply:
        """Load a pool under a new epoch, in the place of whatever Redis has of it.

        Args:
            pool: Name of the pool.
            epoch: The new epoch. Redis refuses one that it has already, or has left behind.
            settings: Fields of `meta`.
            leases: Job and entry of each lease.
            waiters: Job and entry of each waiter, in order of their tickets.
        """
        ledger_id = self.ledger_ids.get(pool, "")
        args = [epoch, self._now(), json.dumps(settings), json.dumps(leases), json.dumps(waiters), ledger_id]
        raw = _done(await self._scripts.call("rebuild", pool, args))
        graced = {job: int(due) for job, due in raw.get("graced", ())}
        return RebuildReply(RebuildResult(raw["word"]), int(raw.get("epoch", epoch)), graced)

    async def survey(self, pool: str) -> RedisSnapshot:
        """Read everything of a pool at one moment, without a script: nothing is reaped or granted by it."""
        slots, queue, jobs, outbox, meta, _ = keys.keys(pool)
        with answering():
            async with self.link.of(pool).client.pipeline(transaction=True) as asked:
                asked.time()
                asked.zrange(slots, 0, -1, withscores=True)
                asked.lrange(queue, 0, -1)
                asked.hgetall(jobs)
                asked.xrange(outbox)
                asked.hgetall(meta)
                (seconds, micros), held, waiting, entries, noted, settings = await asked.execute()
        numbers = {name.decode(): entry_codec.whole_number(value) for name, value in settings.items()}
        ahead_ms = numbers.get("ahead_ms", 0)
        reported = [entry_codec.stored_outbox_entry(entry_id, item.keys(), item.values()) for entry_id, item in noted]
        moved = {entry.job_id for entry in reported if entry.kind is not EntryKind.PASSED}
        name = entry_codec.job_id
        return RedisSnapshot(
            self._clock() if self._clock else seconds * 1000 + micros // 1000 - ahead_ms,
            numbers.get("epoch", 0),
            {job: entry_codec.deadline_ms(due) for raw, due in held if (job := name(raw)) is not None},
            tuple(job for raw in waiting if (job := name(raw)) is not None),
            {job: entry_codec.entry(text) for raw, text in entries.items() if (job := name(raw)) is not None},
            {entry.job_id: entry.at for entry in reported},
            numbers,
            frozenset({entry.job_id for entry in reported} - moved),
            ahead_ms,
        )

    async def looks(self, pools: Sequence[str], settings: Sequence[str]) -> dict[str, PoolLook]:
        """Look at pools, and read the fields `settings` of their `meta`. See `looks.looks`."""
        return await looks.looks(self.link, pools, settings)

    async def marks(self, pools: Sequence[str]) -> dict[str, LedgerMark]:
        """Read what Redis has seen of the ledger of each pool, in one round trip. A pool that cannot be read has none."""
        return await looks.marks(self.link, pools)

    async def delete(self, pool: str) -> None:
        """Delete all keys of a pool. If the pool exists in SQL, it is loaded again as after any loss of Redis."""
        with answering():
            await self._scripts.ask(pool, "DEL", *keys.keys(pool))

    async def notes(self, pool: str, after: str | None = None, most: int = 500) -> list[OutboxEntry]:
        """Read the oldest entries of the outbox, in order.

        Args:
            pool: Name of the pool.
            after: ID of the entry behind which to begin; None for the first.
            most: Number of entries at most.

        Raises:
            NotDone: Another Redis has the pool now.
        """
        with answering():
            start = f"({after}" if after else "-"
            rows = await self._ask_here(pool, "XRANGE", keys.outbox(pool), start, "+", "COUNT", most)
        return [entry_codec.stored_outbox_entry(entry_id, fields[::2], fields[1::2]) for entry_id, fields in rows]

    async def delete_notes(self, pool: str, entry_ids: Iterable[str]) -> None:
        """Delete entries of the outbox, which SQL has recorded."""
        with (
            answering(),
            contextlib.suppress(NotDone),
        ):  # entries that stay are recorded already, and are deleted by the next pass
            await self._ask_here(pool, "XDEL", keys.outbox(pool), *entry_ids)

    async def _ask_here(self, pool: str, *words: Any) -> Any:
        """Send a command to the primary of a pool. Raises NotDone when another one of the cluster has it now."""
        asked = self.link.of(pool)
        try:
            return await self._scripts.ask(pool, *words)
        except AnotherRedis as error:
            if self.link.of(pool) is asked:
                raise
            raise NotDone(Undone.ELSEWHERE) from error

    async def now_ms(self, pool: str | None = None) -> int:
        """Read the clock of Redis (ms since 1970): that of the primary of a pool, or of any primary."""
        with answering():
            seconds, micros = await (self.link.of(pool) if pool else self.link.primaries[0]).client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def clock(self, pool: str, ahead_ms: int) -> Stepped:
        """Read the clock of Redis as that of a pool, for a comparison with what this process expects.

        Args:
            pool: Name of the pool.
            ahead_ms: By how much (ms) the clock of Redis is taken to be ahead of the pool's.
        """
        asked = elapsed_s()
        now_ms = await self.now_ms(pool) - ahead_ms
        return Stepped(now_ms, now_ms, ahead_ms, asked, elapsed_s())

    async def ping(self) -> None:
        """Raise StoreDown unless Redis answers; in a cluster, any primary."""
        with answering():
            await self.link.primaries[0].client.ping()

    async def probe(self, pool: str | None = None) -> None:
        """Make sure that Redis answers and takes writes.

        Args:
            pool: The pool whose primary is asked; None to ask all of them, of which one is enough.

        Raises:
            StoreDown: It does not, or no primary does.
        """
        await self._scripts.probe(pool)

    def _now(self) -> int | str:
        return self._clock() if self._clock else ""

    async def _run(
        self, verb: str, pool: str, epoch: int, *args: int | str, grants: int = GRANTS_PER_CALL, checked: bool = True
    ) -> dict[str, Any]:
        life = f"{epoch}.{self.ledger_ids.get(pool, '')}"
        clock, asked = self._clocks[pool], elapsed_s()
        now = self._now() if self._clock or not checked else clock.told(asked, self.present_since())
        raw = await self._scripts.call(verb, pool, [life, now, secrets.token_hex(16 * grants), *args])
        heard = elapsed_s()
        if raw["word"] == Undone.STEPPED:
            stepped = Stepped(int(raw["now"]), int(raw["seen_at"]), int(raw["ahead_ms"]), asked, heard)
            raise NotDone(Undone.STEPPED, stepped)
        if checked and "now" in raw:  # without a check, a clock that has just stepped would be learned
            clock.learn(asked, heard, int(raw["now"]))
        return _done(raw)


R = TypeVar("R", bound=StrEnum)


def _done(raw: dict[str, Any]) -> dict[str, Any]:
    if raw["word"] in UNDONE:
        raise NotDone(Undone(raw["word"]))
    return raw


def _head(raw: dict[str, Any], result: R) -> tuple[R, float, int, int | None, bool, int, tuple[OutboxEntry, ...]]:
    """The fields of ScriptReply."""
    due = raw.get("next")
    return (
        result,
        raw.get("asked", 0),
        int(raw.get("now", 0)),
        None if due is None else int(due),
        raw.get("more", False),
        int(raw.get("emitted", 0)),
        tuple([entry_codec.outbox_entry(entry_id, fields[::2], fields[1::2]) for entry_id, fields in raw.get("outbox", ())]),
    )


def _reply(raw: dict[str, Any], results: type[R]) -> ScriptReply[R]:
    return ScriptReply(*_head(raw, results(raw["word"])))


def _extended(raw: dict[str, Any]) -> ExtendReply:
    due = int(raw.get("due", 0))
    return ExtendReply(
        *_head(raw, ExtendResult(raw["word"])),
        fence=int(raw.get("fence", 0)),
        due=due,
        hard=int(raw.get("hard", 0)),
        good_until=_good_until(raw, due),
    )


def _good_until(raw: dict[str, Any], due: int) -> float:
    """When a lease with this deadline is over at the earliest, by `time.monotonic()` (s): the script ran after it was asked."""
    asked: float = raw["asked"]
    return asked + (due - int(raw.get("now", 0))) / 1000


def _lease(raw: dict[str, Any]) -> Lease:
    return Lease(raw["lease_id"], int(raw["fence"]), int(raw["granted_at"]), int(raw["due"]), int(raw["hard"]))
