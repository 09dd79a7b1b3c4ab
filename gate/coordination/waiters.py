"""Who waits for a job to change, and how they wake: by a message, never by asking again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from gate.model.job import Job


def the_line(pool: str) -> str:
    """What wakes those who follow the line of a pool. No job_id has braces."""
    return f"{{{pool}}}"


class Wakeup(asyncio.Event):
    """Rings whenever the job changed. `job` is what it then was, where whoever rang knew that; `known` the status that whoever
    waits knows already.
    """

    job: Job | None = None
    known: str | None = None

    def clear(self) -> None:
        super().clear()
        self.job = None


class Waiters:
    """In this process. Park first, then read the job, then wait: so no change falls between."""

    def __init__(self) -> None:
        self._parked: defaultdict[str, set[Wakeup]] = defaultdict(set)
        self._turn = 0
        self.closing = False

    @contextlib.contextmanager
    def parked(self, job_id: str, known: str | None = None) -> Iterator[Wakeup]:
        """An event that is set whenever the job changed; clear it before reading the job again."""
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
        for job_id in job_ids:
            for event in self._parked.get(job_id, ()):
                event.job = None
                event.set()

    def show(self, job: Job) -> None:
        """The job has changed, and this is what it is by now."""
        for event in self._parked.get(job.job_id, ()):
            event.job = job
            event.set()

    def compare(self, statuses: Mapping[str, str]) -> None:
        """These are the statuses of jobs: whoever knows another one is woken."""
        for job_id, status in statuses.items():
            for event in self._parked.get(job_id, ()):
                if event.known != status:
                    event.job = None
                    event.set()

    def some(self, most: int) -> list[str]:
        """Jobs that somebody waits for, others each time."""
        parked = list(self._parked)
        start = self._turn % len(parked) if parked else 0
        self._turn = start + most
        return (parked[start:] + parked[:start])[:most]

    def wake_all(self) -> None:
        """After messages may have been lost."""
        self.wake(list(self._parked))

    def close(self) -> None:
        """Everybody gets the answer that is true now."""
        self.closing = True
        self.wake_all()
