"""Names of the Redis keys of a pool.

All keys of a pool share one hash tag, so one node of a cluster holds them all.
"""

from __future__ import annotations

from functools import lru_cache

ROLES = ("slots", "queue", "jobs", "outbox", "meta", "users")
"""Last parts of the key names, in the order in which every script takes the keys."""


@lru_cache(maxsize=1024)
def keys(pool: str) -> tuple[str, ...]:
    """Return all keys of a pool, in the order of `ROLES`. They are cached, because every script of the pool needs them."""
    return tuple([f"gate:{{{pool}}}:{role}" for role in ROLES])


def outbox(pool: str) -> str:
    """Return the key of a pool's outbox, a stream."""
    return f"gate:{{{pool}}}:outbox"


def news(pool: str) -> str:
    """Return the channel on which a server announces to the others that a job has changed in SQL."""
    return f"gate:{{{pool}}}:news"


NEWS_PATTERN = "gate:{*}:news"
"""Pattern that matches the channels of all pools, for one subscription to all of them."""
