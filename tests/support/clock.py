"""Redis's clock, as a test turns it."""

from __future__ import annotations


class Clock:
    """Redis's clock as a test turns it, in milliseconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def turn(self, ms: int) -> None:
        self.now += ms
