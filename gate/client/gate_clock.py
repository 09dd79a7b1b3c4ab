"""The estimate of gate's clock, by which a client knows how long its lease still lasts."""

from __future__ import annotations

import math
from datetime import datetime


class GateClock:
    """Estimate of gate's clock relative to this machine's monotonic clock.

    An event that happened after a local time, and that gate has stamped, bounds how far gate's clock is ahead. The estimate
    therefore never puts a deadline of gate later than it is. The wall clock of this machine is not used, because it may be
    wrong.
    """

    def __init__(self) -> None:
        self._ahead = math.inf

    @property
    def known(self) -> bool:
        """Whether any stamp has bounded the clock yet."""
        return self._ahead < math.inf

    def saw(self, stamp: float, after: float) -> None:
        """Use a stamp of gate as a bound.

        Args:
            stamp: Time of an event by gate's clock (s since 1970).
            after: Local time before that event, by the monotonic clock (s).
        """
        self._ahead = min(self._ahead, stamp - after)

    def here(self, moment: datetime) -> float:
        """Convert a time of gate to the monotonic clock of this machine (s)."""
        return moment.timestamp() - self._ahead
