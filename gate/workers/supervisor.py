"""Background tasks of a server. Each has a name, is restarted after an error, and stops with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("gate.supervisor")

RESTART_S = 1.0
"""Pause (s) before a worker that failed starts again."""
STOP_AGAIN_S = 0.1
"""Pause (s) between cancellations of a task that does not end.

redis-py checks a connection with a timeout of zero. A cancellation that arrives at that moment is lost."""


class Supervisor:
    """Runs workers until it is stopped."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a worker.

        Args:
            name: Its name in the log.
            work: Runs for ever. When it raises, the error is logged, and it is called again.
        """
        self._tasks.add(asyncio.create_task(_run(name, work), name=name))

    async def stop(self) -> None:
        """Cancel all workers, and return when they have ended."""
        left, self._tasks = self._tasks, set()
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=STOP_AGAIN_S)


async def _run(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("worker.restarted", worker=name)
            await asyncio.sleep(RESTART_S)
