"""The steps of a slot that its driver executes: a call, a pause, a report of the place in the queue."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from gate.client.requests import Call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Step: make a call.

    Attributes:
        call: The call.
        within: Time (s) for all tries.
        once: True for a single try, when a failure needs no retry.
    """

    call: Call[Any]
    within: float
    once: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Step: wait for a time (s)."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Step: report the place in the queue, which has changed."""

    position: int | None
    queue_length: int | None
    reason: str | None
    eta_seconds: float | None


Step: TypeAlias = Ask | Pause | Tell
Steps: TypeAlias = Generator[Step, Any, T]
