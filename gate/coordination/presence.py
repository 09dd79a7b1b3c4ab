"""Since when this server has served callers without a break, as its looks at the stores show.

A tick that comes late may mean that gate was away, so that no holder could renew, or only that this server was late with that tick. The
scripts cannot tell. So each call says since when its server has been present, and then a late tick gives no grace
(lua/_prelude.lua, `mind_absence`).
"""

from __future__ import annotations

from collections.abc import Callable

from gate.slots.pool_clock import elapsed_s

BREAK_S = 2.5
"""Longest time (s) between the ends of two good looks: what the scripts take for an absence. Looks come each second."""
FRESH_S = 1.75
"""Age (s) of the last good look up to which it proves that this server is present. A call may then be 0.75 s on its way."""


class Presence:
    """Knows since when the stores have answered each look."""

    def __init__(self, clock: Callable[[], float] = elapsed_s) -> None:
        self._clock = clock
        self._since: float | None = None
        self._last = 0.0

    def since(self) -> float | None:
        """Return since when this server has been present, by `elapsed_s` (s); None when it is not, or that is not known."""
        return self._since if self._clock() - self._last <= FRESH_S else None

    def looked(self, is_good: bool) -> None:
        """Note a look at both stores that has just ended.

        Args:
            is_good: Both stores answered and took a write.
        """
        now = self._clock()
        if not is_good:
            self._since = None
        elif self._since is None or now - self._last > BREAK_S:  # guard: presence-ends-with-a-break
            self._since = now  # not the begin of the look: the store may have hung since
        self._last = now
