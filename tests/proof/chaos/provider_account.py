"""The account at the simulated provider, and the truth about its tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gate.simulator import Simulator

POOL = "asked"
LIMIT = 3
LEASE_S = 4
SILENCE_S, DRAIN_S = 3.0, 2.0
KEY, TOKEN = "key-of-the-chaos-0123456789", "t0ken"
CONFIG = f"[pools.{POOL}]\nlimit = {LIMIT}\nlease_seconds = {LEASE_S}\nmax_hold_seconds = 120\n"


def account_config(simulator: Simulator) -> str:
    """Return the lines of gate.toml for the account whose tasks run at the simulator; the provider's own table is open before them."""
    return (
        f'base_url = "{simulator.url}"\nsilence_seconds = {SILENCE_S:g}\ndrain_seconds = {DRAIN_S:g}\n'
        f'questions_per_second = 100\n[providers.runninghub.accounts.first]\nkey = "{KEY}"\npool = "{POOL}"\n'
    )


@dataclass
class Started:
    """A task as its tool started it."""

    job_id: str
    lease_id: str
    plan: dict[str, Any]
    at: float
    is_bound: bool = False


@dataclass
class Record:
    """The truth about the tasks of a run.

    Attributes:
        tasks: The tasks, by their ids.
        lied: Tasks about which the provider has lied.
        forgotten: Tasks that the provider has denied more than once.
        outages: Begin and end of each time in which questions had no answer (s since 1970).
        crowds: Times at which more tasks ran than the limit, each with the tasks.
        kills: Times at which a server was killed, and at which it was back.
        counts: What was done, by its name.
    """

    tasks: dict[str, Started] = field(default_factory=dict)
    lied: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    outages: list[tuple[float, float]] = field(default_factory=list)
    crowds: list[tuple[float, frozenset[str]]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
