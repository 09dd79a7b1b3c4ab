"""The rules of the line in plain Python: what the scripts should do, said a second time and much more simply.

No Redis, no JSON, no bounds; one pool, times in milliseconds. Written from the protocol, not from the Lua.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Waiter:
    ticket: int
    user: str | None
    lease_ms: int
    queued_at: int
    waited: int = 0
    """How long it has waited (ms) while the pool gave out slots."""
    refused: int = 0
    beside: int = 0
    refused_at: int | None = None
    passed_since: int | None = None
    """The grant whose refusal made others pass it."""
    alone_until: int = 0


@dataclass
class Holder:
    job: Waiter
    grant: int
    due: int
    hard: int
    claimed: bool
    granted_at: int


@dataclass
class Rules:
    limit: int
    claim_ms: int
    max_hold_ms: int
    queue_ms: int
    queue_max: int
    cooldown_ms: int
    cap: int
    now: int
    passing: int = 3
    """Refusals of one job in a row, after which others are tried."""
    last_fresh: int | None = None
    """The last grant to a job that was not refused so often; None while the order counts as ever."""
    well_at: int = 0
    paused: bool = False
    cooling_until: int = 0
    refusals: int = 0
    tickets: int = 0
    grants: int = 0
    slots: dict[str, Holder] = field(default_factory=dict)
    queue: dict[str, Waiter] = field(default_factory=dict)
    outbox: list[tuple[str, str]] = field(default_factory=list)

    # ---- time --------------------------------------------------------------------------------------------------

    def passes(self, ms: int) -> None:
        """A wait goes on while the pool is neither paused nor cooling."""
        counts = 0 if self.paused else self.now + ms - max(self.now, min(self.cooling_until, self.now + ms))
        self.now += ms
        for waiter in [*self.queue.values(), *(holder.job for holder in self.slots.values())]:
            waiter.waited += counts

    # ---- what every call does --------------------------------------------------------------------------------

    def begin(self) -> None:
        for job in sorted(self.slots, key=lambda job: (self.slots[job].due, job)):
            if self.slots[job].due <= self.now:
                del self.slots[job]
                self.outbox.append(("expired", job))
                self.warm_up()
        self.promote()
        for job, waiter in list(self.queue.items()):
            if waiter.waited < self.queue_ms:
                break
            del self.queue[job]
            self.outbox.append(("expired", job))

    def promote(self) -> None:
        while self.open_slot() and (job := self.next()) is not None:
            self.grant(job, self.queue.pop(job), claimed=False)
            self.outbox.append(("granted", job))

    def next(self) -> str | None:
        """The first that may be tried now; of those that others pass, when none else is there, the one that was tried longest ago."""
        able = {job: waiter for job, waiter in self.queue.items() if waiter.alone_until <= self.now}
        first = next((job for job, waiter in able.items() if not self.is_passed(waiter)), None)
        return first or min(able, key=lambda job: able[job].passed_since or 0, default=None)

    def is_passed(self, waiter: Waiter) -> bool:
        return self.last_fresh is not None and waiter.passed_since is not None and waiter.passed_since >= self.last_fresh

    def open_slot(self) -> bool:
        return not self.paused and self.cooling_until <= self.now and len(self.slots) < self.limit

    def grant(self, job: str, waiter: Waiter, *, claimed: bool) -> None:
        self.grants += 1
        hard = self.now + self.max_hold_ms
        due = min(self.now + (waiter.lease_ms if claimed else self.claim_ms), hard)
        self.slots[job] = Holder(waiter, self.grants, due, hard, claimed, self.now)
        if self.last_fresh is not None and waiter.refused < self.passing:
            self.last_fresh = self.grants

    def warm_up(self) -> None:
        if self.cooling_until:
            self.well_at, self.last_fresh = self.now, None
        self.refusals = self.cooling_until = 0

    # ---- the verbs ------------------------------------------------------------------------------------------

    def acquire(self, job: str, user: str | None, lease_ms: int) -> str:
        self.begin()
        word = self._acquire(job, user, lease_ms)
        self.promote()
        return word

    def _acquire(self, job: str, user: str | None, lease_ms: int) -> str:
        if job in self.slots:
            return "running" if self.slots[job].claimed else "granted"
        if job in self.queue:
            return "queued"
        if job in (noted for _, noted in self.outbox):
            return "unrecorded"
        live = [waiter.user for waiter in self.queue.values()] + [holder.job.user for holder in self.slots.values()]
        if user and self.cap and live.count(user) >= self.cap:
            return "user_busy"
        free = self.next() is None and self.open_slot()
        if not free and len(self.queue) >= self.queue_max:
            return "queue_full"
        self.tickets += 1
        waiter = Waiter(self.tickets, user, lease_ms, self.now)
        if free:
            self.grant(job, waiter, claimed=True)
            return "running"
        self.queue[job] = waiter
        return "queued"

    def extend(self, job: str, grant: int, lease_ms: int | None) -> str:
        """Claim (lease_ms None) or renew."""
        self.begin()
        holder = self.slots.get(job)
        if holder is None or holder.grant != grant:
            self.promote()
            return "lost"
        due = min(self.now + (lease_ms or holder.job.lease_ms), holder.hard)
        if not holder.claimed:
            holder.due = due
        elif lease_ms is not None:
            holder.due = max(holder.due, due)
        holder.claimed = True
        self.promote()
        return "claimed" if lease_ms is None else "renewed"

    def release(self, job: str, grant: int) -> str:
        self.begin()
        holder = self.slots.get(job)
        if holder is None or holder.grant != grant:
            self.promote()
            return "stale"
        del self.slots[job]
        self.warm_up()
        self.promote()
        return "released"

    def requeue(self, job: str, grant: int) -> str:
        self.begin()
        word = self._requeue(job, grant)
        self.promote()
        return word

    def _requeue(self, job: str, grant: int) -> str:
        holder = self.slots.get(job)
        if holder is None:
            return "requeued" if job in self.queue else "absent"
        if holder.grant != grant:
            return "newer"
        self.refuse(job, holder)
        del self.slots[job]
        self.queue[job] = holder.job
        self.queue = dict(sorted(self.queue.items(), key=lambda item: item[1].ticket))
        return "requeued"

    def refuse(self, job: str, holder: Holder) -> None:
        waiter, since = holder.job, holder.job.refused_at
        runs = (other for name, other in self.slots.items() if name != job and other.claimed)
        well = since is not None and (
            self.refusals == 0
            or self.well_at >= since
            or any(since <= one.granted_at <= self.now - self.cooldown_ms for one in runs)
        )
        waiter.refused, waiter.refused_at, waiter.beside = waiter.refused + 1, self.now, waiter.beside + 1 if well else 0
        if waiter.beside >= self.passing:
            waiter.alone_until = self.now + min(self.cooldown_ms * 2 ** (waiter.beside - self.passing), 60_000)
            return
        waiter.alone_until = 0
        self.refusals += 1
        self.cooling_until = max(self.cooling_until, self.now + min(self.cooldown_ms * 2 ** (self.refusals - 1), 60_000))
        if waiter.refused >= self.passing:
            waiter.passed_since = holder.grant
            self.last_fresh = holder.grant if self.last_fresh is None else self.last_fresh

    def cancel(self, job: str) -> str:
        self.begin()
        word = "left_slot" if job in self.slots else "left_queue" if job in self.queue else "absent"
        self.slots.pop(job, None)
        self.queue.pop(job, None)
        if word == "left_slot":
            self.warm_up()
        self.promote()
        return word

    def tick(self) -> str:
        self.begin()
        self.promote()
        return "ticked"

    def pause_or_resume(self) -> str:
        self.paused = not self.paused
        self.begin()
        self.promote()
        return "configured"
