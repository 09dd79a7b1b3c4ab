"""When the worker that asks providers may rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gate.model.account import Account, Accounts
from gate.workers.asking import REST_S, AskingWorker
from tests.support.wait import until

pytestmark = pytest.mark.anyio


class Looked:
    """Questions of which none is due. A change comes during the first look."""

    def __init__(self) -> None:
        self.looks, self.worker = 0, None

    async def free(self, accounts: Any) -> None:
        pass

    async def due_in_s(self, accounts: Any) -> None:
        self.looks += 1
        if self.looks == 1:
            self.worker.kick()  # type: ignore[attr-defined]


class Idle:
    def is_idle(self, pool: str) -> bool:
        return True


async def test_a_change_during_a_look_is_looked_at_before_the_rest() -> None:
    questions: Any = Looked()
    accounts = Accounts([Account("acme", "first", "default", "a key", "http://acme")])
    nothing: Any = None
    questions.worker = AskingWorker(questions, accounts, {}, nothing, Idle(), nothing)  # type: ignore[arg-type]
    keeping = asyncio.create_task(questions.worker.keep())
    await until(lambda: questions.looks == 2, "it has looked again", within_s=REST_S / 2)
    keeping.cancel()
