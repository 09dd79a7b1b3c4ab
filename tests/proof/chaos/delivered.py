"""What reached the tool, against what SQL says of it: each call that was owed at least once, in order, one for each grant."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import Any

from tests.proof.chaos.account import ENDED
from tests.support.servers import Books
from tests.support.tool import Call, Tool

STATUSES = ("queued", "granted", "running", *ENDED)


def wrong(tool: Tool, books: Books) -> list[str]:
    """Once nothing is owed any more."""
    rows = books.rows("select id, webhook_id, job_id, kind, type, fence, result from @deliveries order by id")
    calls = sorted(tool.calls, key=lambda call: call.at)
    came = {call.webhook_id: call for call in reversed(calls)}
    found = [f"{row.job_id}: {row.type} is {row.result or 'owed'} still" for row in rows if row.result in (None, "given_up")]
    answered = [row for row in rows if row.result in ("delivered", "refused", "failed")]
    found += [f"{row.job_id}: {row.type} is {row.result}, and never came" for row in answered if row.webhook_id not in came]
    known = {row.webhook_id for row in rows}
    found += [f"{call.job['job_id']}: {call.body['type']} was never owed" for call in calls if call.webhook_id not in known]
    other = [call for call in calls if call.body != came[call.webhook_id].body]
    found += [f"{call.job['job_id']}: {call.body['type']} came again with another body" for call in other]
    return found + _starts(calls, books) + _events(calls, rows, books)


def _starts(calls: list[Call], books: Books) -> list[str]:
    ids, fences = defaultdict(set), defaultdict(set)
    for call in calls:
        if call.path == "/start":
            ids[call.job["lease"]["lease_id"]].add(call.webhook_id)
            fences[call.job["job_id"]].add(call.job["lease"]["fence"])
    found = [
        f"lease {lease_id} was started under {len(several)} ids" for lease_id, several in ids.items() if len(several) > 1
    ]
    began = books.rows("select job_id, fence from @events where kind = 'running' and by = 'tool'")
    return found + [
        f"{row.job_id}: runs under fence {row.fence}, which was never started"
        for row in began
        if row.fence not in fences[row.job_id]
    ]


def _events(calls: list[Call], rows: list[Any], books: Books) -> list[str]:
    """What a job's owner was told, without repeats, is its history; what came again came before the next."""
    history, owed, told = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in books.rows("select job_id, kind from @events where job_id is not null order by id"):
        if row.kind in STATUSES or row.kind == "late":
            history[row.job_id].append(f"job.{row.kind}")
    for row in rows:
        if row.kind == "event":
            owed[row.job_id].append((row.webhook_id, row.type))
    for call in calls:
        if call.path == "/events":
            told[call.job["job_id"]].append((call.webhook_id, call.body["type"]))
    found = []
    for job_id, due in owed.items():
        types = [type_ for _, type_ in due]
        if types != history[job_id]:
            found.append(f"{job_id}: {' '.join(types)} were owed, and its history is {' '.join(history[job_id])}")
        if [one for one, _ in groupby(told[job_id])] != due:
            came = " ".join(type_ for _, type_ in told[job_id])
            found.append(f"{job_id}: was told {came}, due were {' '.join(types)}")
    return found
