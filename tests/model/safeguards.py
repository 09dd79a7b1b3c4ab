"""Every safeguard, in one table: what it demands, in which world its loss shows, and where it stands in the code.

`tests/races/test_guards.py` takes each one that lives in the code out of it, in a copy, and its test has to go red.
"""

from __future__ import annotations

from tests.model.in_redis import IN_REDIS
from tests.model.in_sql import IN_SQL
from tests.model.on_the_way import ON_THE_WAY
from tests.model.search import Found, explore
from tests.model.state import off
from tests.model.worlds import Guard, Safeguard

TABLE: list[Safeguard] = [*IN_REDIS, *IN_SQL, *ON_THE_WAY]
IN_CODE = [(safeguard.name, *safeguard.where) for safeguard in TABLE if isinstance(safeguard.where, Guard)]


def without(safeguard: Safeguard) -> Found:
    """The nearest harm that comes of its loss."""
    off.update((safeguard.name, *safeguard.behind))
    try:
        return explore(safeguard.world, only=safeguard.harm)
    finally:
        off.clear()
