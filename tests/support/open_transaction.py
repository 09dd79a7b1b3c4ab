"""A transaction of a server that has written a row and not committed it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

from gate.ledger import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from tests.support.wait import until


class OpenTransaction:
    """Its rows are written, and have their ids. They are committed after `end`."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def end(self) -> None:
        self.may_end.set()


@contextlib.asynccontextmanager
async def open_transaction(database: Database, writes: Callable[[UnitOfWork], object]) -> AsyncIterator[OpenTransaction]:
    """Hold a transaction of a server open between its rows and its commit; it has committed after the block.

    Args:
        database: The server's.
        writes: Writes the rows.
    """
    held, written = OpenTransaction(), threading.Event()

    def work(batch: UnitOfWork) -> None:
        writes(batch)
        batch.flush()
        written.set()
        held.may_end.wait(30)

    task = asyncio.create_task(database.write("", "", work, takes_long=True))
    try:
        await until(written.is_set, "the row is written")
        yield held
    finally:
        held.end()
        await task
