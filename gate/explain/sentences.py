"""Sentences of `gate explain`: the facts of a job, section by section.

Names in the sentences are as users gave them. The caller that shows a sentence has to escape it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from gate.explain.facts import Facts
from gate.explain.formatting import clock, names, several, short, span, until
from gate.ledger.reports.asked_tasks import Asked
from gate.ledger.reports.timeline import Event, IncomingCallback, JobTimeline, OutgoingCall, OwedRefund
from gate.ledger.transitions.unread_callbacks import Unread
from gate.model.job import Job, now_ms

COUNTED_MS = 1_000
"""Shortest time (ms) in which a pool stood still that a sentence mentions."""


class Sentence(NamedTuple):
    """A sentence of an explanation.

    Attributes:
        words: The sentence.
        at: Time (ms since 1970) of the event that it tells; None if it tells no event.
    """

    words: str
    at: int | None = None


def sections(facts: Facts) -> dict[str, list[Sentence]]:
    """Return the sentences by title of their section. A section without sentences is left out."""
    story = facts.story
    found = {
        "Where it is": list(_where(facts)),
        "What happened": list(_history(story)) or list(_forgotten(story)),
        "Money": list(_money(story)),
        "What was told to whom": list(_messages(story)),
    }
    return {title: section for title, section in found.items() if section}


def _where(facts: Facts) -> Iterator[Sentence]:
    job = facts.job
    if job.ended:
        yield from _ended(job)
    elif job.status == "queued":
        yield from _waits(facts)
    else:
        yield from _holds(facts)
    if facts.story.asked is not None:
        yield from _asked(facts.story.asked, job)
    if facts.redis is not None:
        yield Sentence(f"This is what SQL alone knows: {facts.redis}.")


def _asked(known: Asked, job: Job) -> Iterator[Sentence]:
    """Say what the provider said last, and whether the task is being stopped."""
    if not job.ended:
        asked = f"gate has asked about it on account {known.account} {several(known.questions, 'time')}"
        if known.silent_since is not None:
            yield Sentence(
                f"{asked}: no answer for {span(now_ms() - known.silent_since)}, since {clock(known.silent_since)}."
            )
        elif known.heard_at is not None:
            said = ANSWERS.get(known.state, known.state)
            yield Sentence(f"{asked}: {span(now_ms() - known.heard_at)} ago the provider said {said}.")
        else:
            yield Sentence(f"gate has not asked about it yet, on account {known.account}.")
    if known.stop is not None:
        yield Sentence(STOPS[known.stop])


def _holds(facts: Facts) -> Iterator[Sentence]:
    job, now = facts.job, facts.now_ms
    lease = job.lease
    assert lease is not None
    slot = f"slot {facts.slot} of {facts.limit}" if facts.slot else f"one of {facts.limit} slots"
    if job.status == "granted":
        who = "gate has to start it at its tool" if job.starts else "its holder has to claim it"
        yield Sentence(
            f"It holds {slot} since {clock(lease.granted_at)} and has not been started: {who} {until(lease.due, now)}."
        )
    else:
        began = _began(facts.story) or lease.granted_at
        yield Sentence(f"It is running: {slot}, since {clock(began)} ({span(now - began)}).")
        renewed = ""
        if lease.due >= lease.hard:
            renewed = "; no renewal goes beyond that"
        elif lease.due - job.lease_ms > began + 1000:
            renewed = f"; it was renewed, at about {clock(lease.due - job.lease_ms)} the last time"
        yield Sentence(f"Its lease {'was' if lease.due < now else 'is'} good {until(lease.due, now)}{renewed}.")
    if lease.due < now:
        yield Sentence("That is over: as soon as gate looks at the pool it expires, and what was charged goes back.")
    if job.task_id is not None:
        yield Sentence(f"Its task at {job.provider} is {job.task_id}.")


def _waits(facts: Facts) -> Iterator[Sentence]:
    job = facts.job
    place = f"at position {job.position} of {job.queue_length}" if job.position else "at no place that Redis knows"
    waited = span(facts.now_ms - job.enqueued_at)
    yield Sentence(f"It waits in the queue, {place}, since {clock(job.enqueued_at)} ({waited}).")
    yield from _time_left(facts)
    yield from _why_it_waits(facts)
    yield from _before_it(facts)
    if job.eta_seconds is not None:
        yield Sentence(
            f"By how long such jobs have run lately, its turn comes in about {span(round(job.eta_seconds * 1000))}."
        )
    if job.likely == "expires":
        yield Sentence("That is after the end of its wait: it is likely to expire.")


def _why_it_waits(facts: Facts) -> Iterator[Sentence]:
    job, story = facts.job, facts.story
    if job.reason == "paused":
        by = f" by the {story.pause.by} at {clock(story.pause.at)}" if story.pause else ""
        why = f": {story.pause.why}" if story.pause and story.pause.why else ", and no reason was given"
        yield Sentence(f"Why: the pool is paused{by}{why}. No job is granted a slot until the pool is resumed.")
    elif job.reason == "cooling_down":
        yield Sentence(
            f"Why: its provider refused a job, so the pool cools down {until(facts.cooling_until or 0, facts.now_ms)}."
        )
    elif job.reason == "tool_down":
        yield Sentence(
            "Why: its tool's start address answers as if it were not there, or as if the secret were wrong. gate tries again each minute at"
            " the latest; the jobs of other tools go on."
        )
    elif job.reason == "refused":
        yield Sentence(
            f"Why: its provider has refused it {several(job.refusals, 'time')}. It keeps its place, others are tried in between, and gate tries it"
            " again each minute at the latest."
        )
    elif job.reason == "absent":
        yield Sentence(
            f"Why: its caller has not shown itself for {span(job.presence_ms or 0)}, so others pass it. It keeps its place, and has its turn when"
            " its caller asks again."
        )
    elif job.reason in SHORT:
        yield Sentence(
            f"Why: {SHORT[job.reason]}, so the pool has {several(facts.limit, 'slot')} now. `gate accounts` shows it."
        )
    elif job.reason == "pool_full" and len(facts.holders) >= facts.limit:
        held = f"all {several(facts.limit, 'slot')} are held" if facts.limit > 1 else "the only slot is held"
        yield Sentence(f"Why: {held if facts.limit else 'the pool has no slots: its limit is 0'}.")
    elif facts.ahead_count:
        yield Sentence("Why: those before it come first.")


SHORT = {
    "account_down": "an account at the provider is down, because its key is refused or its wallet is empty",
    "provider_full": "the accounts at the provider take fewer tasks than the pool may run",
}
"""Why a pool has fewer slots in force than its limit, by the reason of a waiter."""


def _before_it(facts: Facts) -> Iterator[Sentence]:
    """Name the jobs in its way: poison jobs, those that hold the slots, and those ahead of it."""
    job = facts.job
    for poison in facts.story.refused:
        who = "This job" if poison.job_id == job.job_id else f"Job {poison.job_id}"
        yield Sentence(
            f"{who} is a poison job: its provider has refused it {several(poison.refusals, 'time')} in a row since {clock(poison.since)},"
            f" while {several(poison.others, 'other job')} of the pool {'was' if poison.others == 1 else 'were'} started. The others pass it."
        )
    if facts.holders:
        yield Sentence(f"Who holds the slots: {names(facts.holders, len(facts.holders))}.")
    if facts.ahead_count:
        yield Sentence(f"Who is ahead: {names(facts.ahead, facts.ahead_count)}.")
    else:
        yield Sentence("No job is ahead of it: it is next.")


def _time_left(facts: Facts) -> Iterator[Sentence]:
    """What of its time in the queue counts, and when its wait ends."""
    job = facts.job
    if facts.queue_ms is None:
        return
    waited = facts.now_ms - job.enqueued_at
    stood = min(max(facts.stood_ms, 0), waited)
    counts = f"Of that, {span(waited - stood)} count against its {span(facts.queue_ms)} in the queue"
    if stood >= COUNTED_MS:
        counts += f"; in the other {span(stood)} the pool was paused or cooled down, or gate or a store was away"
    if job.reason == "paused":
        yield Sentence(f"{counts}. While the pool is paused its time stands still.")
    elif job.queue_expires_at is not None:
        yield Sentence(f"{counts}. It may wait {until(job.queue_expires_at, facts.now_ms)}.")


def _ended(job: Job) -> Iterator[Sentence]:
    assert job.ended_at is not None
    yield Sentence(f"It has ended: {job.status}, at {clock(job.ended_at)}, {_by_whom(job)}.")
    if job.error is not None:
        kind = f" (kind: {job.error_kind})" if job.error_kind else ""
        yield Sentence(f"The error{kind}: {job.error}")
    if job.output is not None:
        yield Sentence(f"The output: {short(json.dumps(job.output, ensure_ascii=False))}")
    if job.late_outcome is not None:
        yield Sentence(
            f"A report came too late: {job.late_outcome}. It is kept, and changes neither the outcome nor the refund."
        )


TIMEOUTS = {
    "lease_timeout": "its lease was not renewed in time",
    "hold_limit": "it had held its slot as long as a job may hold one (max_hold_seconds)",
    "claim_timeout": "it was granted a slot, and was not started in time",
    "queue_timeout": "it had waited as long as a job may wait",
}
"""Words for the timeout that expired a job, by `end_reason`."""
PASSED = {"absent": "its caller was absent"}
"""Words for the reason why a slot went past a waiter, by that reason."""
UNHEARD = {"caller_gone": "it disconnected before its answer, and only it knew the job"}
"""Words for the reason of a caller's end, by `end_reason`."""
ENDED_BY = {
    "holder": "by its holder",
    "caller": "by its caller",
    "operator": "by an operator",
    "provider": "by its provider",
    "tool": "by its tool's answer to the start call",
}
"""Words for the role that ended a job, by `ended_by`."""


def _by_whom(job: Job) -> str:
    if job.ended_by == "gate":
        until = f", until {clock(job.expires_at)}" if job.end_reason != "queue_timeout" and job.expires_at else ""
        return f"by gate: {TIMEOUTS.get(job.end_reason or '', job.end_reason)}{until}"
    by = ENDED_BY.get(job.ended_by or "", f"by {job.ended_by}")
    return f"{by}: {UNHEARD.get(job.end_reason, job.end_reason)}" if job.end_reason else by


ANSWERS = {
    "queued": "that it waits there",
    "running": "that it is running",
    "ended": "that it has ended",
    "unknown": "that it knows no such task",
}


def in_short(known: Asked, now: int) -> str:
    """Return in a few words what the provider said last about a task.

    Args:
        known: What is known of the task.
        now: The time (ms since 1970).
    """
    if known.silent_since is not None:
        return f"no answer for {span(max(now - known.silent_since, 0))}"
    if known.heard_at is None:
        return "not asked yet"
    return f"asked {span(max(now - known.heard_at, 0))} ago: {SHORTLY.get(known.state, known.state)}"


SHORTLY = {"queued": "waits there", "unknown": "no such task"}
"""Words for an answer of the provider, where they differ from its name."""
STOPS = {
    "owed": "Its task is being stopped at the provider.",
    "confirmed": "The provider has confirmed that its task is over.",
    "given_up": "Its task could not be stopped: stop it at the provider, where it takes room until it ends.",
}
HAPPENED = {
    "queued": "it joined the queue",
    "granted": "it was granted a slot",
    "running": "it is running",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
    "task": "bound to a task",
    "callback": "a report of its end that changed nothing",
    "answer": "the provider was asked",
    "extended": "its lease was extended",
    "stop": "the stop of its task",
    "late": "a report of its end came too late",
    "returned": "its grant was taken back before it was announced; it has its place again",
    "tool_down": "its tool's start address failed",
    "passed": "a free slot went past it",
    "seated": "it was put back at its place in the queue",
    "refunded": "its refund was paid",
}
"""Words for an event of the history, by its kind."""
ROLES = ("caller", "holder", "operator", "owner", "provider", "tool")
"""Roles that a history names; it names gate and each provider by their names."""
RETURNED = {"not_taken": "SQL had no room for it", "lost": "its claim time was over"}
"""Words for the reason why a grant was taken back, by that reason."""


def _history(story: JobTimeline) -> Iterator[Sentence]:
    """Say what happened, in the order of time. What happened again at once is said once."""
    for words, same in groupby(story.events, _happened):
        first, *more = same
        again = f" ({several(len(more), 'more time')}, until {clock(more[-1].at)})" if more else ""
        yield Sentence(words + again, first.at)


def _happened(event: Event) -> str:
    what, why = HAPPENED.get(event.kind, event.kind), event.why
    if event.kind == "queued" and why:
        what = "back in the queue, at its place"
    elif event.kind == "running" and event.by == "caller":
        what = "a slot was free: running at once"
    elif event.kind == "callback" and event.by == "operator":
        what = "a callback that could not be read was applied"
    why = (TIMEOUTS | RETURNED | UNHEARD | PASSED).get(why or "", why)
    by = f"the {event.by}" if event.by in ROLES else event.by
    what = what if event.kind == "answer" else f"{what}, by {by}"
    return what + (f": {why}" if why else "")


def _forgotten(story: JobTimeline) -> Iterator[Sentence]:
    if story.pruned_at is not None:
        yield Sentence("`gate prune` has forgotten its history; its outcome and its money stay.", story.pruned_at)


def _money(story: JobTimeline) -> Iterator[Sentence]:
    job, debt = story.job, story.debt
    if not job.credits:
        yield Sentence("Nothing was charged for it.")
        return
    for row in story.money:
        word = "charged" if row.kind == "charge" else "refunded"
        yield Sentence(f"{several(row.amount, 'credit')} {word}{f' to {job.user}' if job.user else ''}", row.at)
    if debt is not None:
        yield Sentence(_owed(debt), debt.since)
    elif job.status == "completed":
        yield Sentence("It completed, so nothing goes back.")
    elif job.keeps_charge:
        yield Sentence("No refund: it was cancelled after its start, and the pool refunds cancelled jobs until they start.")
    elif not job.ended and job.cancel_refunds == "until_started":
        yield Sentence("They go back if it fails or expires, or is cancelled before it runs.")
    elif not job.ended:
        yield Sentence("They go back if it fails, expires or is cancelled.")


def _owed(debt: OwedRefund) -> str:
    words = f"{several(debt.amount, 'credit')} owed since then, and not paid yet"
    if debt.attempts:
        words += f"; the owner's function was asked {several(debt.attempts, 'time')}"
        words += f", and said last: {debt.error}" if debt.error else ""
        words += f" (next try at {clock(debt.due_at)})"
    return words


ANSWERED = {
    "delivered": "answered",
    "refused": "refused",
    "failed": "failed for good",
    "over": "not made, or too late: that grant was over",
    "given_up": "given up",
}
"""Words for the result of a call to a tool, by that result."""


def _messages(story: JobTimeline) -> Iterator[Sentence]:
    """Calls to tools and callbacks of providers, in the order of time."""
    messages = [Sentence(_call(call), call.at) for call in story.told]
    messages += [Sentence(_callback(callback), callback.at) for callback in story.heard]
    messages += [Sentence(_unread(callback), callback.last_at) for callback in story.unread]
    yield from sorted(messages, key=lambda one: one.at or 0)


def _call(call: OutgoingCall) -> str:
    what = "start call" if call.kind == "start" else f"event {call.type}"
    tries = f" after {call.attempts} tries" if call.attempts > 1 else ""
    if call.result is not None:
        assert call.done_at is not None
        how = f"{ANSWERED.get(call.result, call.result)} at {clock(call.done_at)}{tries}"
    elif call.attempts:
        how = f"tried {several(call.attempts, 'time')}, not answered yet; next at {clock(call.due_at)}"
    else:
        how = "not made yet"
    return f"{what} to {call.tool}: {how}" + (f": {call.error}" if call.error else "")


VERDICTS = {
    "ended": "the job ended by it",
    "late": "too late: kept as its late outcome",
    "waits": "kept until its task is bound",
    "retried": "the job waits again, for another try",
    "history": "nothing happened by it",
    "hint": "not believed by itself: it made gate ask the provider",
    "relayed": "passed on by a call of finish, and not applied by itself",
}
"""Words for what a callback did, by its verdict."""


def _callback(one: IncomingCallback) -> str:
    task = f"task {one.task_id}" if one.task_id else "its task" if one.is_answer else None
    what = f"answer to a question about {task}" if one.is_answer else f"callback of {task}" if task else "callback"
    error = f" ({one.error})" if one.error else ""
    words = f"{what} from {one.provider}: {one.outcome}{error}; {VERDICTS.get(one.verdict, one.verdict)}"
    return words + (f". It said: {short(one.body)}" if one.body and not one.is_answer else "")


def _unread(one: Unread) -> str:
    task = f" of task {one.task_id}" if one.task_id else ""
    times = f", {one.times} times" if one.times > 1 else ""
    words = f"callback {one.id}{task} from {one.provider} that could not be read{times}: {one.why}"
    if one.applied_at is None:
        words += f"; `gate callbacks apply {one.id} JOB --outcome … --reason …` ends the job by it"
    elif one.job_id is None:
        words += f"; dismissed at {clock(one.applied_at)} by {one.applied_by}: {one.reason}"
    else:
        words += f"; applied as {one.outcome} at {clock(one.applied_at)} by {one.applied_by}: {one.reason}"
    return f"{words}. It said: {short(one.body)}"


def _began(story: JobTimeline) -> int | None:
    return next((event.at for event in reversed(story.events) if event.kind == "running"), None)
