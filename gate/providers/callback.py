"""The interface of a provider: the callback that it reads, and its functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gate.model.messages import ProviderReport

NO_SECRET = "this gate has no secret of this provider: it goes into gate.toml under [providers], and counts after a restart"
"""Message for the first try without a secret. It is safe to show, because gate then rejects every callback."""


@dataclass(frozen=True, slots=True)
class Callback:
    """A request of a provider, as gate received it.

    Attributes:
        headers: Headers of the request.
        query: Parameters of its query.
        body: Its body.
        secrets: All secrets that are valid now. There are two while a secret is replaced.
        now_s: Time of the request (s since 1970).
    """

    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    secrets: Sequence[str]
    now_s: float


@dataclass(frozen=True, slots=True)
class Provider:
    """The functions of a provider.

    Attributes:
        name: Name of the provider, as in URLs and the configuration.
        read: Reads a callback. It returns None for one that ends no task, and raises only Forged or Unreadable.
        fault: Returns what is wrong with a configured secret, in a few words; None when it is valid.
    """

    name: str
    read: Callable[[Callback], ProviderReport | None]
    fault: Callable[[str], str | None]
