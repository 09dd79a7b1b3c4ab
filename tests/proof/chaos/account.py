"""What the clients were told, all of them together, and what of it cannot be true.

A job is in a client's hands from the answer that told it running until the client asks to release it, or until the
`expires_at` it was told is over: clients, servers and stores share one clock here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.proof.chaos.pulse import Pulse

ENDED = ("completed", "failed", "cancelled", "expired")
REFUNDED = ("failed", "cancelled", "expired")
LATE_S = 0.5
"""How late an answer may be read that was right when it was sent, beside the time for which this process stood still."""
RECORDED_S = 3.0
"""A look is answered with what is on record: an expiry may be on its way there for so long."""

GRACE_S = 2.0
"""The claim time of the servers here."""


@dataclass(slots=True)
class Call:
    """As the client saw it. `code` 0: cut off; -1: not answered in time."""

    server: int
    verb: str
    sent: float
    received: float
    wait_s: float
    code: int


@dataclass(slots=True)
class Hold:
    since: float
    until: float


@dataclass(slots=True)
class Told:
    """One job, as its client knows it."""

    job_id: str
    pool: str
    credits: int
    acknowledged: bool = False
    status: str = ""
    asked: set[str] = field(default_factory=set)
    lease_id: str = ""
    gave_back: bool = False
    holds: list[Hold] = field(default_factory=list)

    @property
    def outcome(self) -> str | None:
        return self.status if self.status in ENDED else None

    def lives_until(self) -> float:
        """Until when its client was told that its slot is its own; 0 when it is not, or was given back."""
        return self.holds[-1].until if self.status == "running" and not self.gave_back else 0


@dataclass
class Account:
    limit: int
    wrong: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    jobs: dict[str, Told] = field(default_factory=dict)
    back: float = 0
    """When the only gate came back: what ran out while it was away may be told until it has recorded that, or for as long as
    it has grace."""
    pulse: Pulse = field(default_factory=Pulse)
    edited: bool = False
    """An operator edits Redis by hand: a lease may be gone until it is mended."""

    def expect(self, true: bool, what: str) -> None:
        if not true:
            self.wrong.append(what)

    def opened(self, job_id: str, pool: str, credits: int) -> Told:
        told = self.jobs[job_id] = Told(job_id, pool, credits)
        return told

    def giving_back(self, told: Told, outcome: str, now: float) -> None:
        """From here on the client counts on nothing."""
        told.asked.add(outcome)
        if told.holds:
            told.holds[-1].until = min(told.holds[-1].until, now)
        told.gave_back = True

    def hear(self, body: dict[str, Any], sent: float, now: float, looked: bool = False) -> Told:
        """A job in an answer to what was sent then, whatever the answer was; `looked`: nothing but to look was asked."""
        told = self.jobs[body["job_id"]]
        status, before = body["status"], told.status
        about = f"{told.job_id}: told {before or 'nothing'}, then {status}"
        told.acknowledged = True
        if told.outcome:
            self.expect(status == told.outcome, f"{about}: an outcome changed")
            return told
        if status == "running":
            self._running(told, body["lease"], now, LATE_S + RECORDED_S * looked + self.pulse.stood_still_s(sent, now), about)
        elif status in ENDED:
            self._ended(told, body, about)
        else:
            self.expect(before != "running" or "refused" in told.asked, f"{about}: a slot was taken from its holder")
        told.status = status
        return told

    def _running(self, told: Told, lease: dict[str, Any], now: float, late: float, about: str) -> None:
        until = moment(lease["expires_at"])
        told_until = max(until, self.back + GRACE_S)
        self.expect(now <= told_until + late, f"{about} by a lease that was over for {now - until:.1f} s")
        if lease["lease_id"] != told.lease_id:
            self.expect(told.status != "running" or told.gave_back, f"{about} under another lease")
            told.lease_id, told.gave_back = lease["lease_id"], False
            told.holds.append(Hold(now, until))
        elif told.status != "running":
            told.holds.append(Hold(now, until))
        elif not told.gave_back:
            told.holds[-1].until = max(told.holds[-1].until, until)

    def _ended(self, told: Told, body: dict[str, Any], about: str) -> None:
        if body["status"] == "expired":
            early = told.lives_until() - moment(body["ended_at"])
            self.expect(early <= 0, f"{about}, {early:.1f} s before the deadline that was told")
        else:
            self.expect(body["status"] in told.asked, f"{about}, which no caller reported")
        if told.holds:
            told.holds[-1].until = min(told.holds[-1].until, moment(body["ended_at"]))

    def most_at_once(self, pool: str = "default") -> tuple[int, list[str]]:
        """How many were in clients' hands at once at most, and which these were."""
        steps = [
            step
            for told in self.jobs.values()
            for hold in told.holds
            if told.pool == pool and hold.until > hold.since
            for step in ((hold.since, 1, told.job_id), (hold.until, 0, told.job_id))
        ]
        at_once: set[str] = set()
        most: list[str] = []
        for _, takes, job_id in sorted(steps):
            (at_once.add if takes else at_once.discard)(job_id)
            if len(at_once) > len(most):
                most = sorted(at_once)
        return len(most), most

    def answers(self) -> Counter[str]:
        names = {0: "cut off", -1: "unanswered"}
        return Counter(names.get(call.code, f"{call.code // 100}xx" if call.code != 503 else "503") for call in self.calls)

    def good(self, server: int | None, since: float) -> Iterator[Call]:
        """Answers 2xx to an acquire or release that was sent after `since`, the newest first."""
        for call in itertools.takewhile(lambda call: call.received >= since, reversed(self.calls)):
            right = call.verb in ("acquire", "release") and 200 <= call.code < 300 and call.sent >= since
            if right and server in (None, call.server):
                yield call


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
