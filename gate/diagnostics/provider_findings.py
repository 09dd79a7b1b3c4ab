"""Findings about the providers that gate asks, and about the accounts there."""

from __future__ import annotations

from collections.abc import Iterator

from gate.diagnostics.diagnosis import Diagnosis
from gate.ledger import AccountState, OrphanTasks, ProviderTroubles
from gate.model.account import Accounts

ENDS_MIN = 10
"""Fewest ends by questions from which missing callbacks are reported."""


def provider_findings(found: ProviderTroubles, accounts: Accounts) -> Iterator[Diagnosis]:
    """Find accounts that are refused, limits that differ, strangers, missing callbacks, tasks that run on, and jobs without a task.

    Args:
        found: What the ledger has.
        accounts: The accounts that are configured.
    """
    for pool, several in sorted(found.accounts.items()):
        for one in several:
            yield from _account(pool, one, accounts)
    for name in sorted({one.provider for one in accounts if one.calls_back}):
        called, asked = found.ends.get(name, (0, 0))
        if asked >= ENDS_MIN and not called:
            says = f"in the last day it has not called back once, and questions have brought {asked} ends"
            helps = f"give it the address /v1/webhooks/{name}/POOL with its secret, or set callbacks = false of [providers.{name}]"
            yield Diagnosis("silent", name, says, helps)
    for name, (count, job_id) in sorted(found.given_up.items()):
        says = f"tasks that could not be stopped in the last day: {count}, such as that of job {job_id}"
        yield Diagnosis("stop", name, says, "stop them at the provider: they take room from later jobs until they end")
    for pool, (count, job_id) in sorted(found.without_task.items()):
        says = f"jobs that have held a slot for half of their lease without a task: {count}, such as {job_id}"
        helps = (
            "let the tool send its task_id (PUT …/task, or in its answer to the start call), else gate cannot ask about it"
        )
        yield Diagnosis("no_task", pool, says, helps)


def orphan_findings(found: list[OrphanTasks]) -> Iterator[Diagnosis]:
    """Find accounts that have tasks and are not configured any more.

    Args:
        found: The tasks that no configured account can be asked about.
    """
    for one in found:
        says = f"it is not in gate.toml, and gate asks nowhere about its tasks: {one.tasks} in pool {one.pool!r}, such as that of job {one.job_id}"
        helps = f"put [providers.{one.provider}.accounts.{one.account}] back until they have ended, or name another account of pool {one.pool!r}"
        yield Diagnosis("no_account", f"{one.provider} {one.account}", says, helps)


def _account(pool: str, one: AccountState, accounts: Accounts) -> Iterator[Diagnosis]:
    about = f"{one.provider} {one.name}"
    if one.state == "down":
        says = f"the provider refuses the account, so pool {pool!r} starts nothing on it: {one.why}"
        yield Diagnosis("account", about, says, "look at its key and its wallet; gate tries it again every minute")
    known = accounts.get(one.provider, one.name)
    own = known.limit if known is not None else None
    if one.provider_limit is not None and own is not None and one.provider_limit != own:
        says = f"the provider allows it {one.provider_limit} tasks at once, and its configured limit is {own}"
        helps = f"set limit = {one.provider_limit} of [providers.{one.provider}.accounts.{one.name}], and the limit of pool {pool!r}"
        yield Diagnosis("allowed", about, says, helps)
    if one.strangers:
        says = f"tasks on it that are not gate's: {one.strangers}; pool {pool!r} has fewer slots for it"
        yield Diagnosis("strangers", about, says, "give the other callers an account of their own, or let them use gate")
