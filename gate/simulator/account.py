"""An account of the simulated provider: what one key may do, and what it has done."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from gate.simulator.plan import KeyPlan

WINDOW_S: Final = 1.0
"""Time (s) over which requests are counted, for the most in any second and for the rate limit."""


@dataclass(slots=True)
class Meter:
    """The number of requests in the last second, and the most in any second.

    Attributes:
        total: Requests so far.
        most: The most in any second.
    """

    total: int = 0
    most: int = 0
    _times: deque[float] = field(default_factory=deque)

    def note(self) -> None:
        """Count a request."""
        recent = self.recent()
        self._times.append(time.monotonic())
        self.total += 1
        self.most = max(self.most, recent + 1)

    def recent(self) -> int:
        """Return the number of requests in the last second."""
        now = time.monotonic()
        while self._times and self._times[0] <= now - WINDOW_S:
            self._times.popleft()
        return len(self._times)


@dataclass(slots=True)
class Account:
    """An account.

    Attributes:
        plan: Its behaviour.
        most: The most tasks of its own at once.
        refused: Run calls that it refused.
        questions: Its requests but the run calls.
        accepted: Its requests within the rate limit, of all calls.
    """

    plan: KeyPlan = field(default_factory=KeyPlan)
    most: int = 0
    refused: int = 0
    questions: Meter = field(default_factory=Meter)
    accepted: Meter = field(default_factory=Meter)
