"""The clients' account against the ledger, job by job; then `gate verify`; then what the fault promised."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from gate.diagnostics.verify import verify
from tests.proof.chaos.account import ENDED, REFUNDED, Account, Told
from tests.proof.chaos.scene import Options, Scene
from tests.support.servers import Books


@dataclass(frozen=True, slots=True)
class Verdict:
    options: Options
    faults: int
    calls: int
    answers: Counter[str]
    jobs: int
    took_s: float
    slowest: float | None
    losses: int
    rebuilds: int
    most: int
    limit: int
    said: list[str]
    wrong: list[str]
    breaches: list[str]

    @property
    def right(self) -> bool:
        return not self.wrong and not self.breaches

    def __str__(self) -> str:
        given = self.options
        answers = ", ".join(f"{name}: {count:,}" for name, count in sorted(self.answers.items()))
        slowest = "-" if self.slowest is None else f"{self.slowest:.2f} s"
        lines = [
            f"chaos {given.fault}: {self.faults} faults, {given.servers} server{'s' * (given.servers > 1)}, {given.redis},"
            f" {given.sql}, {given.clients} clients, seed {given.seed}, {self.took_s:.0f} s",
            f"  calls {self.calls:,} ({answers}), jobs {self.jobs:,}",
            f"  slowest recovery: {slowest}; rebuilds: {self.rebuilds} for {self.losses} losses;"
            f" most told running at once: {self.most} of {self.limit}",
            *(f"  {line}" for line in self.said),
            f"  wrong: {_few(self.wrong)}",
            f"  verify: {_few(self.breaches) if self.breaches else 'clean'}",
        ]
        return "\n".join(lines)


def _few(found: list[str]) -> str:
    if not found:
        return "nothing"
    more = [f"… and {len(found) - 12} more"] if len(found) > 12 else []
    return f"{len(found)}" + "".join(f"\n    {one}" for one in [*found[:12], *more])


def epochs(books: Books) -> dict[str, int]:
    return {row.name: row.epoch for row in books.rows("select name, epoch from @pools")}


def judge(scene: Scene, epochs_before: dict[str, int], took_s: float) -> Verdict:
    account, books = scene.account, scene.books
    compare(account, books)
    most, who = account.most_at_once()
    account.expect(most <= account.limit, f"{most} were told running at once: {', '.join(who)}")
    rebuilds = epochs(books)["default"] - epochs_before["default"]
    account.expect(0 <= rebuilds - scene.losses <= scene.spare, f"{rebuilds} rebuilds for {scene.losses} losses of Redis")
    for number, server in enumerate(scene.servers):
        log = server.log()
        fell = [place for place, line in enumerate(log) if "Traceback" in line]
        if scene.excused:
            fell = [] if any(scene.excused in line for line in log) else fell
        around = "\n      ".join(log[max(fell[0] - 3, 0) : fell[-1] + 30][-90:]) if fell else ""
        account.expect(not fell, f"server {number} logged {len(fell)} faults of its own:\n      {around}")
    report = verify(scene.servers[0].sql_url, scene.redis_url)
    return Verdict(
        scene.options, scene.faults, len(account.calls), account.answers(), len(account.jobs), took_s,
        max(scene.recoveries, default=None), scene.losses, rebuilds, most, account.limit, scene.said, account.wrong,
        [f"{breach.invariant} {breach.about}: {breach.finding}" for breach in report.breaches],
    )  # fmt: skip


def compare(account: Account, books: Books) -> None:
    """Each job that was acknowledged is there, ended once, as it was told, charged once, refunded once or not at all."""
    rows = {row.job_id: row for row in books.rows("select job_id, status, credits, expires_at from @jobs")}
    booked: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row in books.rows("select job_id, kind, amount from @ledger"):
        booked[row.job_id, row.kind].append(row.amount)
    ends = Counter(row.job_id for row in books.rows("select job_id, kind from @events") if row.kind in ENDED)
    for told in account.jobs.values():
        row = rows.pop(told.job_id, None)
        if row is None:
            account.expect(not told.acknowledged, f"{told.job_id}: told {told.status}, and SQL knows nothing of it")
            continue
        _outcome(account, told, row.status)
        account.expect(ends[told.job_id] == 1, f"{told.job_id}: ended {ends[told.job_id]} times in its history")
        due = {"charge": told.credits, "refund": told.credits if row.status in REFUNDED else 0}
        for kind, amount in due.items():
            found = booked[told.job_id, kind]
            account.expect(
                found == ([amount] if amount else []), f"{told.job_id}: {row.status}, {kind} {found}, not {amount}"
            )
    account.expect(not rows, f"jobs that no client asked for: {sorted(rows)[:5]}")


def _outcome(account: Account, told: Told, status: str) -> None:
    if told.outcome:
        account.expect(status == told.outcome, f"{told.job_id}: told {told.outcome}, and it is {status}")
    else:
        account.expect(status == "expired" or status in told.asked, f"{told.job_id}: {status}, which no caller reported")
