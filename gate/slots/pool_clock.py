"""The clock of a pool as this process expects it, by a clock of its own that is never set.

The clock of Redis may step: an operator sets it, NTP corrects it, a virtual machine resumes. By such a clock leases would end early or
late. So each call tells the script what the caller expects, and a script does nothing while the two disagree (lua/_prelude.lua).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

STEP_MS = 5_000
"""Difference (ms) above which a clock has stepped, as in lua/_prelude.lua. Pauses, slow round trips and slewing explain less."""
LEARN_S = 1.0
"""Longest round trip (s) from which the clock is learned: its error is half of it."""
KEEP_S = 3600.0
"""Age (s) up to which an expectation counts. After it, two clocks may have drifted apart."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_s() -> float:
    """Read a clock (s) that is never set. Unlike `time.monotonic` on Linux it goes on while the machine is suspended.

    A suspended machine is an absence of gate, and no step of the clock.
    """
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Stepped:
    """Reply of a script that did nothing, because the clock and its caller disagree.

    Attributes:
        now_ms: Time by the pool's clock (ms since 1970), if nothing is done about it.
        seen_at_ms: When the pool was last called, by the same clock as it was then (ms since 1970).
        ahead_ms: By how much (ms) the clock of Redis is ahead of the pool's.
        asked: When the call was made, by `elapsed_s` (s).
        heard: When the reply came, likewise.
    """

    now_ms: int
    seen_at_ms: int
    ahead_ms: int
    asked: float
    heard: float


class PoolClock:
    """Expects the time of one pool."""

    __slots__ = ("_at", "_offset_ms")

    def __init__(self) -> None:
        self._offset_ms = 0.0
        self._at: float | None = None

    def expected_ms(self, at: float) -> int | None:
        """Say what the pool's clock shows at a moment.

        Args:
            at: The moment, by `elapsed_s`.

        Returns:
            Time in ms since 1970; None when this process has not learned the clock within the last hour.
        """
        return None if self._at is None or at - self._at > KEEP_S else round(at * 1000 + self._offset_ms)

    def told(self, at: float, present_since: float | None) -> str:
        """Say to a script what this process expects.

        Args:
            at: The moment of the call, by `elapsed_s`.
            present_since: Since when this process has served callers without a break, likewise; None when it has not.

        Returns:
            `~EXPECTED~SINCE`: both by the pool's clock (ms since 1970), each empty when it is not known.
        """
        if (expected := self.expected_ms(at)) is None:
            return "~"
        return f"~{expected}" if present_since is None else f"~{expected}~{expected - round((at - present_since) * 1000)}"

    def learn(self, asked: float, heard: float, now_ms: int) -> None:
        """Take the time of a reply. A reply that took too long is passed over, unless nothing better is known.

        Args:
            asked: When the call was made, by `elapsed_s` (s).
            heard: When the reply came, likewise.
            now_ms: Time in the reply (ms since 1970).
        """
        if heard - asked <= LEARN_S or self.expected_ms(heard) is None:
            self._offset_ms, self._at = now_ms - (asked + heard) * 500, heard

    def step_ms(self, found: Stepped) -> int | None:
        """Say by how much the clock has stepped.

        Args:
            found: The reply of the script.

        Returns:
            The step (ms), negative if it went back. 0 when the clock is as expected at some moment between call and reply: no
            call came for a while. None when this process expects nothing.
        """
        earliest, latest = self.expected_ms(found.asked), self.expected_ms(found.heard)
        if earliest is None or latest is None:
            return None
        if earliest - STEP_MS <= found.now_ms <= latest + STEP_MS:
            return 0
        return found.now_ms - (earliest + latest) // 2
