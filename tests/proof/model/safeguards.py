"""Every safeguard of the protocol, in one table: what it demands, in which world its loss shows, and its mark in the source.

Those with a mark are guards of tests/proof/guards/guards.py too: the run of the guards removes each from a copy of the code. One mark
may hold several safeguards. One without a mark says in `unmarked` what holds it.
"""

from __future__ import annotations

from tests.proof.model.in_redis import IN_REDIS
from tests.proof.model.in_sql import IN_SQL
from tests.proof.model.on_the_way import ON_THE_WAY
from tests.proof.model.search import Found, explore
from tests.proof.model.state import off
from tests.proof.model.third_truth import THIRD_TRUTH
from tests.proof.model.worlds import Safeguard

TABLE: list[Safeguard] = [*IN_REDIS, *IN_SQL, *ON_THE_WAY, *THIRD_TRUTH]


def without(safeguard: Safeguard) -> Found:
    """The nearest harm that comes of its loss."""
    off.update((safeguard.name, *safeguard.behind))
    try:
        return explore(safeguard.world, only=safeguard.harm)
    finally:
        off.clear()
