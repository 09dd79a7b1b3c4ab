"""Accounts at providers, as the configuration has them: the keys by which gate asks about tasks, and stops them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from gate.model.job import Job

Capacity = Literal["follow", "watch", "off"]
"""What gate does with a provider's count of tasks: it follows it, or only shows it, or does not ask for it."""


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
        limit: Number of tasks that gate runs on this account at once; None for no limit but that of the pool.
        capacity: What gate does with the provider's count of the tasks of this account.
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
    limit: int | None = None
    capacity: Capacity = "follow"


class Accounts:
    """The accounts, by provider and name."""

    def __init__(self, configured: Iterable[Account] = ()) -> None:
        self._accounts = {(one.provider, one.name): one for one in configured}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def __bool__(self) -> bool:
        return bool(self._accounts)

    @property
    def pools(self) -> list[str]:
        """Names of the pools that have accounts, sorted."""
        return sorted({one.pool for one in self})

    def get(self, provider: str | None, name: str | None) -> Account | None:
        """Return an account; None when the configuration does not have it."""
        return self._accounts.get((provider or "", name or ""))

    def drain_ms(self, job: Job) -> int:
        """Return how long (ms) the slot of a job that has ended is kept for its task; 0 when its provider has ended it."""
        account = self.get(job.provider, job.account)
        is_over = job.ended_by == "provider" or job.status == "completed"
        return account.drain_ms if account is not None and not is_over else 0

    def of(self, provider: str | None, pool: str, name: str | None = None) -> Account | None:
        """Return the account of a provider for the tasks of a pool.

        Args:
            provider: Name of the provider.
            pool: Name of the pool.
            name: The account that was chosen with the grant; None for none. When the provider has no such account there, the first
                one counts.

        Returns:
            None when there is none.
        """
        known = [one for one in self if (one.provider, one.pool) == (provider, pool)]
        return next((one for one in known if one.name == name), known[0] if known else None)

    def beside(self, account: Account) -> list[Account]:
        """Return the other accounts of the same provider and pool."""
        return [one for one in self if (one.provider, one.pool) == (account.provider, account.pool) and one is not account]

    def chosen_among(self, pool: str) -> list[Account]:
        """Return the accounts among which the grant of a slot of a pool chooses.

        Returns:
            None of them when they are of several providers: only the tool decides then which provider runs a task.
        """
        known = [one for one in self if one.pool == pool]
        return known if len({one.provider for one in known}) == 1 else []
