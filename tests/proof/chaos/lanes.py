"""Many pools side by side, each with three slots: what happens seldom in one pool happens often in a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.proof.chaos.account import REFUNDED, Account
from tests.proof.chaos.clients import Answer

LIMIT = 3


def named(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(count)]


def config(pools: list[str], **settings: float) -> str:
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    return "".join(f"[pools.{pool}]\nlimit = {LIMIT}\n{lines}" for pool in pools)


async def at(moment: float, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """What the call is answered that is sent then, by time.time()."""
    await asyncio.sleep(moment - time.time())
    return await call()


def expect_room(account: Account, pools: list[str]) -> None:
    for pool in pools:
        most, who = account.most_at_once(pool)
        account.expect(most <= LIMIT, f"{pool}: {most} were told running at once: {', '.join(who)}")


def expect_refund(account: Account, answer: Answer) -> None:
    """Where an answer shows how the job ended, it shows the refund that belongs to it."""
    job, told = answer.job, answer.told
    if job is None or told.outcome is None:
        return
    due = told.credits if told.outcome in REFUNDED else 0
    shown = (job["refund"] or {}).get("amount", 0)
    account.expect(shown == due, f"{told.job_id}: {told.outcome} is told with a refund of {shown}, not {due}")
