"""What the body of a slot has in its hands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from gate.client.errors import LeaseLost, Refused
from gate.client.models import Job
from gate.client.slot_machine import SlotMachine

OnPosition = Callable[[int | None, int | None, str | None, float | None], object]


class BaseLease:
    """A slot held. What the body says last about its outcome counts; without a word it is `completed`, or `failed` with what
    the body raised, or `cancelled` when it was cancelled.
    """

    def __init__(self, passage: SlotMachine) -> None:
        self._passage = passage

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.job_id} until {self.expires_at:%H:%M:%S} UTC>"

    @property
    def job(self) -> Job:
        """The job as gate told it last."""
        return self._passage.job

    @property
    def job_id(self) -> str:
        return self._passage.job_id

    @property
    def lease_id(self) -> str:
        return self._passage.grant.lease_id

    @property
    def fence(self) -> int:
        """Only grows in a pool: what it is written with can tell an older holder from a newer one."""
        return self._passage.grant.fence

    @property
    def expires_at(self) -> datetime:
        """By gate's clock, as renewed last."""
        return self._passage.grant.expires_at

    @property
    def payload(self) -> dict[str, Any] | None:
        return self.job.payload

    def check(self) -> None:
        """Raises LeaseLost when it is."""
        if self._passage.loss is not None:
            raise self._passage.loss
        if self._passage.clock() >= self._passage.deadline:
            raise LeaseLost(f"the lease of job {self.job_id} is lost: it ran out", job=self.job)

    def complete(self, output: Any = None) -> None:
        """`output`: JSON, at most 64 KiB. Raises Invalid when it is no JSON."""
        self._passage.say("completed", output=output)

    def fail(self, error: str, output: Any = None) -> None:
        """It did not work; the credits go back."""
        self._passage.say("failed", error, output)

    def cancel(self) -> None:
        """It is not wanted any more; the credits go back."""
        self._passage.say("cancelled")

    def refuse(self, error: str | None = None) -> NoReturn:
        """The provider would not take it. Ends the block by raising Refused: the job is back at its place in the queue, nothing
        is refunded, the pool cools down. Come again with `slot(job_id=lease.job_id, …)`, or cancel the job.
        """
        self._passage.say("refused", error)
        raise Refused(error or "refused", job=self.job)
