"""What a provider's page is handed, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gate.model.messages import ProviderReport

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
class Provider:
    """`read` answers None when nothing happens, and raises Forged or Unreadable, nothing else. `fault` says in a few words
    what is wrong with a configured secret, or None.
    """

    name: str
    read: Callable[[Callback], ProviderReport | None]
    fault: Callable[[str], str | None]
