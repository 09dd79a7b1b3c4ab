"""Accounts at providers, as the configuration has them: the keys by which gate asks about tasks, and stops them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gate.model.job import Job


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a provider. Its repr does not show the key.

    Attributes:
        provider: Name of the provider.
        name: Name of the account, unique for its provider. It is shown; the key never is.
        pool: Pool whose tasks run on this account.
        key: Key of the account.
        base_url: Address of the provider for this account, without a slash at its end.
        calls_back: Whether the provider tells of the end of each task by itself.
        silence_ms: How long a lease is extended (ms) while the provider does not answer.
        drain_ms: How long a stopped task keeps its slot at most (ms).
        questions_per_second: Most questions a second, over all servers.
    """

    provider: str
    name: str
    pool: str
    key: str = field(repr=False)
    base_url: str
    calls_back: bool = True
    silence_ms: int = 600_000
    drain_ms: int = 30_000
    questions_per_second: float = 5


class Accounts:
    """The accounts, by provider and name."""

    def __init__(self, configured: Iterable[Account] = ()) -> None:
        self._accounts = {(one.provider, one.name): one for one in configured}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def get(self, provider: str | None, name: str | None) -> Account | None:
        """Return an account; None when the configuration does not have it."""
        return self._accounts.get((provider or "", name or ""))

    def drain_ms(self, job: Job) -> int:
        """Return how long (ms) the slot of a job that has ended is kept for its task; 0 when its provider has ended it."""
        account = self.get(job.provider, job.account)
        is_over = job.ended_by == "provider" or job.status == "completed"
        return account.drain_ms if account is not None and not is_over else 0

    def of(self, provider: str | None, pool: str) -> Account | None:
        """Return the first account of a provider for the tasks of a pool; None when there is none."""
        return next((one for one in self if (one.provider, one.pool) == (provider, pool)), None)
