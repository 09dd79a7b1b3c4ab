"""Text that Redis holds, to values and back: the entries of the hash `jobs`, and those of the outbox.

The scripts write the same texts. An operator may write others by hand, so nothing here trusts what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from pydantic import JsonValue

from gate.model.job import Job, Lease
from gate.model.messages import EntryKind, OutboxEntry

log = structlog.get_logger("gate.slots")

NEVER_MS = 2**53
"""Deadline (ms) that stands for one that an operator set to infinity."""

KINDS = {kind.value: kind for kind in (EntryKind.GRANTED, EntryKind.EXPIRED, EntryKind.PASSED)}
"""Kinds that the scripts write."""

Entry = dict[str, JsonValue]
"""What the hash `jobs` holds for one job."""


def waiting(job: Job) -> Entry:
    """Make the entry of a job that waits.

    Args:
        job: The job as SQL has it.
    """
    entry: Entry = {
        "ticket": str(job.ticket),
        "queued_at": job.enqueued_at,
        "lease_ms": job.lease_ms,
    }
    if job.user is not None:
        entry["user"] = job.user
    if job.tool is not None:
        entry["tool"] = job.tool
    if job.queue_ms is not None:
        entry["queue_ms"] = job.queue_ms
    if job.presence_ms is not None:
        entry["presence_ms"] = job.presence_ms
    if job.starts:
        entry["by_gate"] = True
    if job.refusals:
        entry["refused"] = job.refusals
    if job.stood_ms:
        entry["stood"] = job.stood_ms
    return entry


def holding(job: Job) -> Entry:
    """Make the entry of a job that holds a slot.

    Args:
        job: The job as SQL has it, granted or running.
    """
    lease = job.lease
    assert lease is not None
    return waiting(job) | {
        "lease_id": lease.lease_id,
        "fence": str(lease.fence),
        "claimed": job.status == "running",
        "granted_at": lease.granted_at,
        "due": lease.due,
        "hard": lease.hard,
    }


def draining(job: Job, left_ms: int) -> Entry:
    """Make the entry of a job that has ended, whose slot is kept because its task still runs.

    Args:
        job: The job as SQL has it.
        left_ms: How long the slot is kept (ms).
    """
    return {
        "ticket": str(job.ticket),
        "queued_at": job.enqueued_at,
        "lease_ms": job.lease_ms,
        "lease_id": f"drain:{job.lease_id}",
        "fence": str(job.fence),
        "granted_at": job.granted_at,
        "drains": True,
        "left_ms": left_ms,
    }


def loaded(
    make: Callable[[Job], Entry], jobs: Iterable[Job], poison: Mapping[str, int], times: int
) -> list[tuple[str, Entry]]:
    """Make the entries that a rebuild loads.

    Args:
        make: `waiting` or `holding`.
        jobs: The jobs as SQL has them.
        poison: When each poison job was refused last (ms since 1970), by job_id.
        times: Refusals in a row that make a job a poison job.

    Returns:
        Job and entry of each.
    """
    return [
        (
            job.job_id,
            make(job) | ({"beside": times, "poison": True, "refused_at": at} if (at := poison.get(job.job_id)) else {}),
        )
        for job in jobs
    ]


def entry(text: bytes) -> dict[str, Any] | None:
    """Read the entry of a job.

    Returns:
        None for a text that the scripts would not take for an entry either.
    """
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not (isinstance(found, dict) and {"ticket", "queued_at", "lease_ms"} <= found.keys()):
        return None
    try:
        if "fence" in found:
            int(found["fence"])
    except (TypeError, ValueError):
        return None
    return found


def stored_outbox_entry(entry_id: bytes, names: Iterable[bytes], values: Iterable[bytes]) -> OutboxEntry:
    """Read an entry of the outbox from the stream.

    Returns:
        An entry of kind `unreadable` when gate did not write it: an operator may add to a stream by hand.
    """
    try:
        return outbox_entry(entry_id.decode(), [name.decode() for name in names], [value.decode() for value in values])
    except (KeyError, ValueError):
        return OutboxEntry(entry_id.decode(), EntryKind.UNREADABLE, "", 0, 0)


def outbox_entry(entry_id: str, names: Iterable[str], values: Iterable[str]) -> OutboxEntry:
    """Read an entry of the outbox that a script has just written.

    Raises:
        KeyError: A field is missing.
        ValueError: A number cannot be read.
    """
    text = dict(zip(names, values, strict=True))
    fence, at = int(text["fence"]), int(text["at"])
    lease = None
    if text["kind"] == "granted":
        lease = Lease(text["lease_id"], fence, at, int(text["due"]), int(text["hard"]))
    kind = KINDS.get(text["kind"], EntryKind.UNKNOWN)
    return OutboxEntry(entry_id, kind, text["job"], fence, at, lease, int(text["ticket"]))


def job_id(raw: bytes) -> str | None:
    """Read a job_id.

    Returns:
        None for a name that is not UTF-8: no job of gate's.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        log.warning("redis.name_unreadable", name=raw)
        return None


def deadline_ms(score: float) -> int:
    """Read a deadline (ms since 1970) from a score of `slots`."""
    return int(min(max(score, 0), float(NEVER_MS)))


def whole_number(value: bytes) -> int:
    """Read a number of `meta`; -1 for what is no number."""
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        return -1
