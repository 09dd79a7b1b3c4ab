"""What a provider's page is handed, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["completed", "failed", "cancelled"]
NO_SECRET = "this gate has no secret of this provider: it goes into gate.toml under [providers], and counts after a restart"
"""For whoever tries it the first time: it tells nobody anything of use, as nothing is let in."""


@dataclass(frozen=True, slots=True)
class Callback:
    """One call of a provider, as it came. `now_s` is seconds since 1970; `secrets` are all that are good at the moment."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    secrets: Sequence[str]
    now_s: float


@dataclass(frozen=True, slots=True)
class Said:
    """How a task ended. Either `task_id` or `job_id` is named, the other is None. Two of one provider with the same
    `delivery_id` are the same. `understood` is false for a success whose output has a shape that gate does not know: the
    output then carries the callback itself.
    """

    outcome: Outcome
    delivery_id: str
    task_id: str | None = None
    job_id: str | None = None
    error: str | None = None
    output: Any = None
    understood: bool = True


@dataclass(frozen=True, slots=True)
class Provider:
    """`read` answers None when nothing happens, and raises Forged or Unreadable, nothing else. `fault` says in a few words
    what is wrong with a configured secret, or None.
    """

    name: str
    read: Callable[[Callback], Said | None]
    fault: Callable[[str], str | None]
