"""The lease that the body of a slot works with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from gate.client.errors import LeaseLost, Refused
from gate.client.models import Job
from gate.client.slot_machine import SlotMachine

CLOSED = "the client was closed"
"""Reason of an end by `close`."""
OnPosition = Callable[[int | None, int | None, str | None, float | None], object]
"""Callback with position, queue_length, reason and eta_seconds of a waiter."""


class BaseLease:
    """The lease of a body, which reports its outcome here.

    The last report counts. Without one, the outcome is `completed`, `failed` when the body raised, or `cancelled` when it was
    cancelled.
    """

    def __init__(self, passage: SlotMachine) -> None:
        self._machine = passage

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.job_id} until {self.expires_at:%H:%M:%S} UTC>"

    @property
    def job(self) -> Job:
        """The job, as in gate's last response."""
        return self._machine.job

    @property
    def job_id(self) -> str:
        """Id of the job."""
        return self._machine.job_id

    @property
    def lease_id(self) -> str:
        """Secret of this lease."""
        return self._machine.grant.lease_id

    @property
    def fence(self) -> int:
        """Number that grows with each grant of the pool. A store that keeps it can reject the writes of an older holder."""
        return self._machine.grant.fence

    @property
    def expires_at(self) -> datetime:
        """Deadline after the last renewal, by gate's clock."""
        return self._machine.grant.expires_at

    @property
    def replayed(self) -> bool:
        """Whether another call had the right to start this job before, by the `job_id` that the caller named.

        The job may have been started already: by another worker with the same `job_id`, or by an earlier life of this one.
        It is True as well when the first try of this slot was admitted and its answer was lost.
        """
        return self._machine.replayed

    @property
    def payload(self) -> dict[str, Any] | None:
        """Payload of the job; None when it has none."""
        return self.job.payload

    def check(self) -> None:
        """Do nothing while the lease is held.

        Raises:
            LeaseLost: The lease is lost, or its deadline has passed.
        """
        if self._machine.loss is not None:
            raise self._machine.loss
        if self._machine.clock() >= self._machine.deadline:
            raise LeaseLost(f"the lease of job {self.job_id} is lost: it ran out", job=self.job)

    def complete(self, output: Any = None) -> None:
        """Report success.

        Args:
            output: Result as JSON, at most 64 KiB.

        Raises:
            Invalid: `output` is no JSON.
        """
        self._machine.say("completed", output=output)

    def fail(self, error: str, output: Any = None) -> None:
        """Report a failure. The credits go back.

        Args:
            error: Reason of the failure.
            output: Result as JSON, at most 64 KiB.

        Raises:
            Invalid: `output` is no JSON.
        """
        self._machine.say("failed", error, output)

    def cancel(self) -> None:
        """Report that the result is not wanted any more. The credits go back."""
        self._machine.say("cancelled")

    def refuse(self, error: str | None = None) -> NoReturn:
        """Report that the provider did not take the job, and end the block.

        The job returns to its place in the queue. Nothing is refunded, and the pool cools down. Enter
        `slot(job_id=lease.job_id, …)` again, or cancel the job.

        Args:
            error: Reason that the provider gave.

        Raises:
            Refused: Always.
        """
        self._machine.say("refused", error)
        raise Refused(error or "refused", job=self.job)
