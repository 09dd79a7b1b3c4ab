"""The pause between two looks for due questions."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from gate.model.account import Account, Accounts
from gate.workers.asking import AskingWorker

pytestmark = pytest.mark.anyio


class Looks:
    """Questions of which none is due. It counts the looks."""

    def __init__(self) -> None:
        self.count = 0
        self.first = asyncio.Event()

    async def free(self, *_: Any) -> None:
        pass

    async def due_in_s(self, *_: Any) -> None:
        self.count += 1
        self.first.set()


async def test_changes_of_a_busy_pool_share_a_look() -> None:
    looks = Looks()
    accounts = Accounts([Account("runninghub", "primary", "default", "key", "http://localhost")])
    unused: Any = None
    worker = AskingWorker(looks, accounts, {}, unused, unused, unused)  # type: ignore[arg-type]
    keeping = asyncio.create_task(worker.keep())
    await looks.first.wait()
    for _ in range(100):
        worker.kick()
        await asyncio.sleep(0)  # the worker has its turn
    assert looks.count <= 3
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
