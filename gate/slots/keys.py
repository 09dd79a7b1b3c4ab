"""The names of a pool's keys. One hash tag, so that one node of a cluster holds them all."""

from __future__ import annotations

ROLES = ("slots", "queue", "jobs", "outbox", "meta", "users")
"""In the order in which every script takes them."""


def keys(pool: str) -> list[str]:
    return [f"gate:{{{pool}}}:{role}" for role in ROLES]


def outbox(pool: str) -> str:
    return f"gate:{{{pool}}}:outbox"


def news(pool: str) -> str:
    """The channel on which servers tell each other that a job has changed in SQL."""
    return f"gate:{{{pool}}}:news"


NEWS_PATTERN = "gate:{*}:news"
