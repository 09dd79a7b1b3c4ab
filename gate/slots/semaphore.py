"""The semaphore: one method a script, one result each. Redis decides who may run now, and nothing else.

Every call names the epoch its caller believes in. Three replies say that nothing was done or written: `cold`, the pool is in
another life here, or in none; `damaged`, a key holds what gate never put there; `elsewhere`, another Redis answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from pydantic_core import from_json
from redis.exceptions import NoScriptError, ReadOnlyError

from gate.jobs import Lease
from gate.slots import keys, scripts
from gate.slots.chance import Chance
from gate.slots.connection import AnotherRedis, Link, answering

log = structlog.get_logger("gate.slots")

NEVER_MS = 2**53
"""A deadline that an operator set to infinity."""
GRANTS_PER_CALL = 8
"""How many waiters one call may promote: 32 random characters travel for each. Ticks carry a hundred."""
GRANTS_PER_TICK = 100
NOT_DONE = frozenset({"cold", "damaged", "elsewhere"})
"""The words of a call that did nothing: its caller has to see to the pool, then come again."""


@dataclass(slots=True)
class Reply:
    """`now_ms` and `next_ms` (the earliest deadline, None when nothing is due) are by Redis's clock; `asked` is by this
    machine's `time.monotonic()`, before the call. `more`: the call stopped at its bound, call `tick`. `emitted`: how many entries
    it put into the outbox; `outbox`: these, when nothing else stood there."""

    word: str
    asked: float = 0
    now_ms: int = 0
    next_ms: int | None = None
    more: bool = False
    emitted: int = 0
    outbox: tuple[Note, ...] = ()


@dataclass(slots=True)
class Acquired(Reply):
    """`running`, `granted`, `queued`, `unrecorded`, `user_busy`, `queue_full`, `no_slot` or `torn`; `known`: it stood there before;
    `by_gate`: gate starts it, by the word of whoever came first."""

    known: bool = False
    by_gate: bool = False
    ticket: int = 0
    queued_at: int = 0
    lease_ms: int = 0
    lease: Lease | None = None
    active: tuple[str, ...] = ()

    @property
    def good_until(self) -> float | None:
        """By time.monotonic(), when the lease is over at the earliest."""
        return self.asked + (self.lease.due - self.now_ms) / 1000 if self.lease else None


@dataclass(slots=True)
class Extended(Reply):
    """`claimed`, `renewed`, `held`, `lost` or `by_gate`; `due` is the deadline that now stands."""

    fence: int = 0
    due: int = 0

    @property
    def good_until(self) -> float:
        return self.asked + (self.due - self.now_ms) / 1000


@dataclass(slots=True)
class Line(Reply):
    """The pool at one moment: `holders` and `queue` are job_ids, `oldest` when the oldest lease was granted (ms)."""

    limit: int = 0
    running: int = 0
    granted: int = 0
    queued: int = 0
    paused: bool = False
    cooling_until: int | None = None
    oldest: int | None = None
    holders: tuple[str, ...] = ()
    queue: tuple[str, ...] = ()
    position: int | None = None
    cooling_tools: frozenset[str] = frozenset()

    @property
    def free(self) -> int:
        return max(self.limit - self.running - self.granted, 0)

    def reason_of(self, tool: str | None) -> str:  # of a job that gate starts
        return "tool_down" if tool in self.cooling_tools and not self.paused else self.reason

    @property
    def reason(self) -> str:
        """Why a job waits here."""
        if self.paused:
            return "paused"
        return "cooling_down" if self.cooling_until else "pool_full"


@dataclass(frozen=True, slots=True)
class Loaded:
    """`loaded` · `refused`: Redis has `epoch` already, or a higher one · `foreign`: a living gate with another ledger has the
    pool there · `elsewhere`. `graced`: the new deadlines of jobs whose own were over."""

    word: str
    epoch: int = 0
    graced: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """An entry of the outbox: what a script did that SQL has to hear of. `fence` 0: its time in the queue was over."""

    entry_id: str
    kind: str
    job_id: str
    fence: int
    at: int
    lease: Lease | None = None
    ticket: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything of a pool at one moment, read and not touched. `entries` has None for what is no entry of gate's;
    `noted` are the jobs that the outbox speaks of, each with the time (ms) of the last entry about it."""

    now_ms: int
    epoch: int
    slots: dict[str, int]
    queue: tuple[str, ...]
    entries: dict[str, dict[str, Any] | None]
    noted: dict[str, int]
    settings: dict[str, int]


class Semaphore:
    """`clock` (a function to milliseconds) is for tests; without it each script reads the server's."""

    def __init__(self, link: Link, clock: Callable[[], int] | None = None) -> None:
        self.link = link
        self._clock = clock
        self._chance = Chance()
        self._ledger_ids: dict[str, str] = {}
        verbs = (*scripts.WITH_PRELUDE, "rebuild")
        self._scripts = {verb: (source := scripts.source(verb), hashlib.sha1(source.encode()).hexdigest()) for verb in verbs}

    def belongs(self, pool: str, ledger_id: str) -> None:
        """Whose pool it is: what another ledger has in this Redis under the same name is `cold` to us."""
        self._ledger_ids[pool] = ledger_id

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
    ) -> Acquired:
        asked = (job_id, user or "", tool or "", lease_ms or "", int(or_wait), int(by_gate), queue_ms or "")
        raw = await self._run("acquire", pool, epoch, *asked)
        return Acquired(
            *_head(raw),
            known=raw.get("known", False),
            by_gate=raw.get("by_gate", False),
            ticket=int(raw.get("ticket", 0)),
            queued_at=int(raw.get("queued_at", 0)),
            lease_ms=int(raw.get("lease_ms", 0)),
            lease=_lease(raw) if raw["word"] in ("running", "granted") else None,
            active=tuple(raw.get("active", ())),
        )

    async def claim(self, pool: str, epoch: int, job_id: str, lease_id: str, by_gate: bool = False) -> Extended:
        return _extended(await self._run("claim", pool, epoch, job_id, lease_id, int(by_gate)))

    async def renew(self, pool: str, epoch: int, job_id: str, lease_id: str, lease_ms: int | None) -> Extended:
        return _extended(await self._run("renew", pool, epoch, job_id, lease_id, lease_ms or ""))

    async def hold(self, pool: str, epoch: int, job_id: str, lease_id: str) -> Extended:
        return _extended(await self._run("hold", pool, epoch, job_id, lease_id))

    async def release(self, pool: str, epoch: int, job_id: str, lease_id: str) -> Reply:
        return Reply(*_head(await self._run("release", pool, epoch, job_id, lease_id)))

    async def requeue(
        self, pool: str, epoch: int, job_id: str, fence: int, why: str, restore: dict[str, Any] | None = None
    ) -> Reply:
        entry = json.dumps(restore) if restore else ""
        return Reply(*_head(await self._run("requeue", pool, epoch, job_id, fence, why, entry)))

    async def restore(self, pool: str, epoch: int, job_id: str, entry: dict[str, Any]) -> Reply:
        return Reply(*_head(await self._run("restore", pool, epoch, job_id, json.dumps(entry))))

    async def configure(self, pool: str, epoch: int, settings: dict[str, int]) -> Reply:
        return Reply(*_head(await self._run("configure", pool, epoch, json.dumps(settings), grants=GRANTS_PER_TICK)))

    async def undo(self, pool: str, epoch: int, job_id: str, ticket: int) -> Reply:
        return Reply(*_head(await self._run("undo", pool, epoch, job_id, ticket)))

    async def cancel(self, pool: str, epoch: int, job_id: str, ticket: int | None = None) -> Reply:
        return Reply(*_head(await self._run("cancel", pool, epoch, job_id, "" if ticket is None else ticket)))

    async def tick(self, pool: str, epoch: int) -> Reply:
        return Reply(*_head(await self._run("tick", pool, epoch, grants=GRANTS_PER_TICK)))

    async def status(self, pool: str, epoch: int, job_id: str | None = None, most: int = 0) -> Line:
        raw = await self._run("status", pool, epoch, job_id or "", most)
        if raw["word"] in NOT_DONE:
            return Line(word=raw["word"])
        cooling = int(raw["cooling_until"])
        return Line(
            *_head(raw),
            limit=int(raw["limit"]),
            running=int(raw["running"]),
            granted=int(raw["granted"]),
            queued=int(raw["queued"]),
            paused=raw["paused"],
            cooling_until=cooling if cooling > int(raw["now"]) else None,
            oldest=int(raw["oldest"]) if "oldest" in raw else None,
            holders=tuple(raw["holders"]),
            queue=tuple(raw["queue"]),
            position=int(raw["position"]) if "position" in raw else None,
            cooling_tools=frozenset(raw.get("tools", ())),
        )

    async def rebuild(
        self,
        pool: str,
        epoch: int,
        settings: dict[str, int],
        leases: Sequence[tuple[str, dict[str, Any]]],
        waiters: Sequence[tuple[str, dict[str, Any]]],
    ) -> Loaded:
        ledger_id = self._ledger_ids.get(pool, "")
        args = [epoch, self._now(), json.dumps(settings), json.dumps(leases), json.dumps(waiters), ledger_id]
        raw = await self._call("rebuild", pool, args)
        graced = {job: int(due) for job, due in raw.get("graced", ())}
        return Loaded(raw["word"], int(raw.get("epoch", epoch)), graced)

    async def survey(self, pool: str) -> Survey:
        slots, queue, jobs, outbox, meta, _ = keys.keys(pool)
        with answering():
            async with self.link.client.pipeline(transaction=True) as asked:
                asked.time()
                asked.zrange(slots, 0, -1, withscores=True)
                asked.lrange(queue, 0, -1)
                asked.hgetall(jobs)
                asked.xrange(outbox)
                asked.hgetall(meta)
                (seconds, micros), held, waiting, entries, noted, settings = await asked.execute()
        numbers = {name.decode(): _number(value) for name, value in settings.items()}
        return Survey(
            self._now() or seconds * 1000 + micros // 1000,
            numbers.get("epoch", 0),
            {job: _ms(due) for raw, due in held if (job := _name(raw)) is not None},
            tuple(job for raw in waiting if (job := _name(raw)) is not None),
            {job: _entry(raw) for name, raw in entries.items() if (job := _name(name)) is not None},
            {note.job_id: note.at for note in (_read_note(entry_id, item.keys(), item.values()) for entry_id, item in noted)},
            numbers,
        )

    async def notes(self, pool: str, after: str | None = None, most: int = 500) -> list[Note]:
        """The oldest entries of the outbox behind `after`, in order."""
        with answering():
            start = f"({after}" if after else "-"
            rows = await self.link.pipe.ask("XRANGE", keys.outbox(pool), start, "+", "COUNT", most)
        return [_read_note(entry_id, fields[::2], fields[1::2]) for entry_id, fields in rows]

    async def delete_notes(self, pool: str, entry_ids: Iterable[str]) -> None:
        with answering():
            await self.link.pipe.ask("XDEL", keys.outbox(pool), *entry_ids)

    async def now_ms(self) -> int:  # by Redis's clock
        with answering():
            seconds, micros = await self.link.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def ping(self) -> None:
        with answering():
            await self.link.client.ping()

    def _now(self) -> int | str:
        return self._clock() if self._clock else ""

    async def _run(self, verb: str, pool: str, epoch: int, *args: int | str, grants: int = GRANTS_PER_CALL) -> dict[str, Any]:
        life = f"{epoch}.{self._ledger_ids.get(pool, '')}"
        return await self._call(verb, pool, [life, self._now(), self._chance.digits(32 * grants), *args])

    async def _call(self, verb: str, pool: str, args: list[Any]) -> dict[str, Any]:
        asked = time.monotonic()
        source, digest = self._scripts[verb]
        pipe, words = self.link.pipe, ("EVALSHA", digest, len(keys.ROLES), *keys.keys(pool), *args)
        with answering():
            try:
                try:
                    raw = from_json(await pipe.ask(*words))
                except NoScriptError:
                    await pipe.ask("SCRIPT", "LOAD", source)
                    raw = from_json(await pipe.ask(*words))
            except AnotherRedis:
                return {"word": "elsewhere"}
            except ReadOnlyError:
                await self.link.part()  # it was made a replica: when it can be written again it is another life
                raise
        if raw["word"] == "damaged":
            log.warning("a key holds what gate never put there", key=raw["key"], found=raw["found"])
        raw["asked"] = asked
        return raw


def _head(raw: dict[str, Any]) -> tuple[str, float, int, int | None, bool, int, tuple[Note, ...]]:
    """What each Reply begins with."""
    due = raw.get("next")
    return (
        raw["word"],
        raw.get("asked", 0),
        int(raw.get("now", 0)),
        None if due is None else int(due),
        raw.get("more", False),
        int(raw.get("emitted", 0)),
        tuple([_note(entry_id, fields[::2], fields[1::2]) for entry_id, fields in raw.get("outbox", ())]),
    )


def _lease(raw: dict[str, Any]) -> Lease:
    return Lease(raw["lease_id"], int(raw["fence"]), int(raw["granted_at"]), int(raw["due"]), int(raw["hard"]))


def _extended(raw: dict[str, Any]) -> Extended:
    return Extended(*_head(raw), fence=int(raw.get("fence", 0)), due=int(raw.get("due", 0)))


def _read_note(entry_id: bytes, names: Iterable[bytes], values: Iterable[bytes]) -> Note:
    """`unreadable` when it is none of gate's: an operator may add to a stream by hand."""
    try:
        return _note(entry_id.decode(), [name.decode() for name in names], [value.decode() for value in values])
    except (KeyError, ValueError):
        return Note(entry_id.decode(), "unreadable", "", 0, 0)


def _note(entry_id: str, names: Iterable[str], values: Iterable[str]) -> Note:
    text = dict(zip(names, values, strict=True))
    fence, at = int(text["fence"]), int(text["at"])
    lease = None
    if text["kind"] == "granted":
        lease = Lease(text["lease_id"], fence, at, int(text["due"]), int(text["hard"]))
    return Note(entry_id, text["kind"], text["job"], fence, at, lease, int(text["ticket"]))


def _name(raw: bytes) -> str | None:
    """None for what is no job_id: no job of gate's, whoever put it there."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        log.warning("a name in Redis is none of gate's", name=raw)
        return None


def _ms(score: float) -> int:
    return int(min(max(score, 0), float(NEVER_MS)))


def _number(value: bytes) -> int:
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        return -1


def _entry(raw: bytes) -> dict[str, Any] | None:
    """None for what the scripts would not take for an entry either."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    if not (isinstance(entry, dict) and {"ticket", "queued_at", "lease_ms"} <= entry.keys()):
        return None
    try:
        if "fence" in entry:
            int(entry["fence"])
    except (TypeError, ValueError):
        return None
    return entry
