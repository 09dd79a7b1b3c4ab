"""Calls of this process that wait for a job to change. A message wakes them, so they do not poll."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from gate.model.job import Job


def the_line(pool: str) -> str:
    """Return the key under which followers of a pool's queue park. It has braces, so it equals no job_id."""
    return f"{{{pool}}}"


class Wakeup(asyncio.Event):
    """An event that is set when a job has changed.

    Attributes:
        job: The job after the change, if the notifying call had it; None otherwise.
        known: The status that the waiting call has already seen; None for none.
    """

    job: Job | None = None
    known: str | None = None

    def clear(self) -> None:
        """Reset the event, and forget the job that came with it."""
        super().clear()
        self.job = None


class Waiters:
    """Parked calls of this process, by job_id.

    Park first, then read the job, then wait. In this order no change is missed.

    Attributes:
        closing: True when the server stops. No call waits any longer then.
        longest_s: Longest time (s) for which a call waits, whatever it asks for.
    """

    def __init__(self) -> None:
        self._parked: defaultdict[str, set[Wakeup]] = defaultdict(set)
        self._turn = 0
        self.closing = False
        self.longest_s = math.inf

    @contextlib.contextmanager
    def parked(self, job_id: str, known: str | None = None) -> Iterator[Wakeup]:
        """Park for the length of a block.

        Args:
            job_id: The job, or the key of a queue.
            known: The status that the caller has already seen; None for none.

        Yields:
            An event that is set when the job has changed. Clear it before you read the job again.
        """
        event = Wakeup()
        event.known = known
        self._parked[job_id].add(event)
        try:
            yield event
        finally:
            self._parked[job_id].discard(event)
            if not self._parked[job_id]:
                del self._parked[job_id]

    def wake(self, job_ids: Iterable[str]) -> None:
        """Wake the calls that wait for these jobs. They read their job again."""
        for job_id in job_ids:
            for event in self._parked.get(job_id, ()):
                event.job = None
                event.set()

    def show(self, job: Job) -> None:
        """Wake the calls that wait for this job, and pass it to them."""
        for event in self._parked.get(job.job_id, ()):
            event.job = job
            event.set()

    def compare(self, statuses: Mapping[str, str]) -> None:
        """Wake the calls that have seen another status than these.

        Args:
            statuses: Status by job_id, as SQL has it.
        """
        for job_id, status in statuses.items():
            for event in self._parked.get(job_id, ()):
                if event.known != status:
                    event.job = None
                    event.set()

    def some(self, most: int) -> list[str]:
        """Return up to `most` jobs for which calls wait. Repeated calls go through all jobs in turn."""
        parked = list(self._parked)
        start = self._turn % len(parked) if parked else 0
        self._turn = start + most
        return (parked[start:] + parked[:start])[:most]

    def wake_all(self) -> None:
        """Wake every call, because messages may have been lost."""
        self.wake(list(self._parked))

    def close(self) -> None:
        """Wake every call because the server stops. Each is answered with the job as it is now."""
        self.closing = True
        self.wake_all()
