"""Estimates, by the clock of the pool."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gate.coordination.eta import EtaEstimator
from gate.ledger import InLine, LedgerQueries

pytestmark = pytest.mark.anyio
NOW_MS = 5_000_000
"""Long ago by the clock of this machine: a pool's clock does not follow the steps of Redis's."""


class Reading:
    async def runs(self, pool: str) -> list[tuple[str | None, int]]:
        return [(None, 10_000)]

    async def line(self, pool: str, most: int) -> list[InLine]:
        return [InLine("holds", None, NOW_MS - 1_000, NOW_MS + 60_000), InLine("waits", None, None, None)]


async def test_an_estimate_is_by_the_clock_of_the_pool() -> None:
    pace = EtaEstimator(cast(LedgerQueries, cast(Any, Reading())), lambda pool: NOW_MS)
    assert await pace.eta("default", "waits", 1, 1) == NOW_MS + 9_000
