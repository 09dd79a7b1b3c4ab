"""gate's books against the account of the owner's side, and against what the provider saw.

What is wrong is said in a line each. Each job ended once, and its owner knows; each end has a cause; each start and each event
arrived, in order; the money is the same in the ledger and at the owner's, once; no fourth was ever started.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.proof.real_callers.account import ENDED, ROW, Account, Refused, Task
from tests.proof.real_callers.money import AT_FIRST
from tests.proof.real_callers.scene import LIMIT, Scene

REFUNDED = ("failed", "cancelled", "expired")
NEXT = {
    "queued": {"granted", "cancelled", "expired"},
    "granted": {"running", "queued", "failed", "cancelled", "expired"},
    "running": {"completed", "failed", "cancelled", "expired"},
}
"""What a job that gate starts may be told next. It is refused while it is granted: its start call says so."""
STATUSES = {"queued", "granted", "running", *ENDED}
SLACK_S = 0.5
"""Between a task's end at the provider and what is known of it here."""


@dataclass(frozen=True, slots=True)
class Books:
    """What gate's SQL says: its jobs, their history, their money."""

    jobs: dict[str, Any]
    events: dict[str, list[Any]]
    booked: dict[tuple[str, str], list[int]]


def read(scene: Scene) -> Books:
    events, booked = defaultdict(list), defaultdict(list)
    for row in scene.books.rows("select job_id, kind, fence, why from @events where job_id is not null order by id"):
        events[row.job_id].append(row)
    for row in scene.books.rows("select job_id, kind, amount from @ledger order by id"):
        booked[row.job_id, row.kind].append(row.amount)
    query = "select job_id, status, credits, end_reason, ended_at, late_outcome, task_id from @jobs"
    return Books({row.job_id: row for row in scene.books.rows(query)}, events, booked)


def judge(scene: Scene) -> list[str]:
    """Once nothing lives and nothing is owed any more: what was wrong."""
    books, account = read(scene), scene.side.account
    found = [*account.wrong, *_fourth(scene, books)]
    seen = _seen(scene)
    for job_id, job in books.jobs.items():
        about = f"{job_id} ({job.status})"
        findings = (
            *_told(account, job_id, job, [row.kind for row in books.events[job_id] if row.kind in STATUSES]),
            *_started(account, job_id, books.events[job_id]),
            *_caused(scene, job_id, job, seen, [row.kind for row in books.events[job_id]]),
        )
        found += [f"{about}: {finding}" for finding in findings]
    found += [f"events of {job_id}, which gate does not know" for job_id in account.told.keys() - books.jobs.keys()]
    return found + list(_money(scene, books))


def _told(account: Account, job_id: str, job: Any, history: list[str]) -> Iterator[str]:
    statuses, told = account.statuses(job_id), account.told.get(job_id, [])
    if statuses != history:
        yield f"its owner was told {' '.join(statuses)}, and its history is {' '.join(history)}"
    for one, after in pairwise(statuses):
        if after not in NEXT.get(one, ()):
            yield f"{after} after {one}"
    ends = [status for status in statuses if status in ENDED]
    if ends != [job.status]:
        yield f"its owner was told that it ended {len(ends)} times: {' '.join(ends)}"
    if account.rows.get(job_id) != ROW.get(job.status, job.status):
        yield f"its row says {account.rows.get(job_id)}"
    for one, after in pairwise(told):
        if after.again and after.webhook_id != one.webhook_id:
            yield f"{after.status} was told again after {one.status}"
    for one in told:
        if one.job["status"] != one.status:
            yield f"{one.status} was told with a job that is {one.job['status']}"


def _started(account: Account, job_id: str, events: list[Any]) -> Iterator[str]:
    """Each grant reached its owner as a start call, unless the job left it before; each task was started by such a call."""
    calls = account.starts_of(job_id)
    by_fence = {call.job["lease"]["fence"]: call for call in calls}
    for number, event in enumerate(events):
        if event.kind == "granted" and event.fence not in by_fence:
            after = next((later.kind for later in events[number + 1 :] if later.kind in STATUSES), None)
            if after not in ("cancelled", "expired"):
                yield f"granted (fence {event.fence}), then {after}, without a start call"
        if event.kind == "running" and not (event.fence in by_fence and by_fence[event.fence].task_id):
            yield f"running (fence {event.fence}), and no start call was answered with a task"
        if event.kind == "task" and event.why.split()[-1] not in {task.task_id for task in account.tasks_of(job_id)}:
            yield f"bound to {event.why}, which its owner has not started"
    ids = defaultdict(set)
    for call in calls:
        ids[call.job["lease"]["fence"]].add(call.webhook_id)
    for fence, several in ids.items():
        if len(several) > 1:
            yield f"one grant (fence {fence}) was started under {len(several)} webhook-ids"
    if len(account.tasks_of(job_id)) > len(ids):
        yield f"{len(account.tasks_of(job_id))} tasks for {len(ids)} grants"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the provider knows: how its tasks ended, and of which gate took a callback."""

    outcomes: dict[str, str]
    answered: set[str]


def _seen(scene: Scene) -> Seen:
    seen, known = scene.simulator.seen(), scene.side.account.tasks
    done = {task["taskId"] for task in seen["tasks"] if task["status"] == "SUCCESS"}
    good = {task_id for task_id in done if known[task_id].plan.get("outcome", "completed") == "completed"}
    outcomes = {task["taskId"]: "completed" if task["taskId"] in good else "failed" for task in seen["tasks"]}
    return Seen(outcomes, {call["taskId"] for call in seen["callbacks"] if call["answer"] == 200})


def _caused(scene: Scene, job_id: str, job: Any, seen: Seen, history: list[str]) -> Iterator[str]:
    """What the provider said, where gate heard it, is how the job ended. A task that was bound after the end came too late for that."""
    account = scene.side.account
    task = account.tasks.get(job.task_id) if job.task_id is not None else None
    said = seen.outcomes[task.task_id] if task is not None and task.plan.get("callback") != "lost" else None
    if job.status == "completed" and said != "completed":
        yield "and its provider has not said so"
    if job.status == "failed" and said != "failed" and not any(call.answered == 400 for call in account.starts_of(job_id)):
        yield "and neither its provider nor its owner has said so"
    if task is None or task.task_id not in seen.answered:
        return
    if job.status == "expired" and job.late_outcome != said:
        yield f"its provider said {said}, too late, and what was kept is {job.late_outcome}"
    bound_before = "task" in history[: history.index("expired")] if "expired" in history else False
    if bound_before and task.plan.get("late", 0) + task.plan.get("seconds", 0) + SLACK_S < scene.lease_s:
        yield "and its provider called back in time"
    if job.status in ("completed", "failed") and job.status != said:
        yield f"its provider said {said}"


def _fourth(scene: Scene, books: Books) -> Iterator[str]:
    """The provider ran as many as it takes. It refused one more only where it still worked at what gate had given up."""
    account, most = scene.side.account, scene.simulator.seen()["most_running"]
    if most > LIMIT:
        yield f"the provider ran {most} at once"
    for refusal in account.refusals:
        if not refusal.planned and not any(_outlives(task, refusal, books) for task in account.tasks.values()):
            yield f"{refusal.job_id} was a fourth at the provider, and each of the three was a job's of gate"


def _outlives(task: Task, refusal: Refused, books: Books) -> bool:
    """Whether its job had lost its slot by the refusal, not by the provider's word, and the task may still have run."""
    job = books.jobs[task.job_id]
    lost = job.status in ("expired", "cancelled") and job.ended_at / 1000 <= refusal.answered
    return lost and task.sent <= refusal.answered and task.answered + task.plan.get("seconds", 0.05) + SLACK_S >= refusal.sent


def _money(scene: Scene, books: Books) -> Iterator[str]:
    """The ledger, and at the owner's: what was charged is there once, what was refunded too, and nothing else."""
    owners = scene.money.charges() if scene.money else {}
    paid = scene.money.refunds() if scene.money else {}
    balances = dict.fromkeys({user for user, _ in owners.values()}, AT_FIRST)
    for job_id, job in books.jobs.items():
        due = [job.credits] if job.credits and job.status in REFUNDED else []
        if books.booked[job_id, "refund"] != due:
            yield f"{job_id} ({job.status}): refunded {books.booked[job_id, 'refund']} in the ledger, due {due}"
        if books.booked[job_id, "charge"] != ([job.credits] if job.credits else []):
            yield f"{job_id}: charged {books.booked[job_id, 'charge']} in the ledger, price {job.credits}"
        if scene.money is None:
            continue
        user, price = owners.get(job_id, (None, None))
        if job.credits != price:
            yield f"{job_id}: {job.credits} credits, and its owner's price is {price}"
        if paid.get(job_id, []) != due:
            yield f"{job_id} ({job.status}): its owner paid {paid.get(job_id, [])} back, due {due}"
        if user is not None:
            balances[user] += sum(due)
    for job_id, (user, price) in owners.items():
        balances[user] -= price
        if job_id not in books.jobs and job_id in paid:
            yield f"{job_id}: gate does not know it, and {paid[job_id]} was paid back"
    if scene.money and balances != scene.money.balances():
        yield f"balances are {scene.money.balances()}, not {balances}"
