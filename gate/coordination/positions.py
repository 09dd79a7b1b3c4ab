"""Live positions of waiters. One read of the queue for each change serves all followers at this server."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.waiters import Waiters, the_line
from gate.model.errors import GateError, StoreDown
from gate.model.limits import QUEUE_MAX
from gate.slots import QueueState

log = structlog.get_logger("gate.board")

AT_MOST_EVERY_S = 0.1
"""Shortest pause (s) between two reads of a queue, so that many changes in a moment cost one read."""
AT_LEAST_EVERY_S = 5.0
"""Longest pause (s) between two reads, because a notification may be lost."""


@dataclass(slots=True)
class _Board:
    """The positions of one pool.

    Attributes:
        line: The queue as last read; None before the first read.
        places: Position of each waiter by job_id; 1 is next.
        followers: Events of the followers by job_id.
        task: Reads the queue while there are followers.
    """

    line: QueueState | None = None
    places: dict[str, int] = field(default_factory=dict)
    followers: defaultdict[str, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    task: asyncio.Task[None] | None = None


class QueuePositions:
    """Keeps the positions of pools that have followers."""

    def __init__(self, pools: PoolRegistry, waiters: Waiters) -> None:
        self._pools, self._waiters = pools, waiters
        self._boards: defaultdict[str, _Board] = defaultdict(_Board)

    @contextlib.contextmanager
    def followed(self, pool: str, job_id: str, changed: asyncio.Event) -> Iterator[None]:
        """Follow the position of a job for the length of a block.

        Args:
            pool: Name of the pool.
            job_id: The job.
            changed: Set when the job's position, the length of the queue or the reason to wait has changed.
        """
        board = self._boards[pool]
        board.followers[job_id].add(changed)
        if board.task is None:
            board.task = asyncio.create_task(self._keep(pool, board))
        try:
            yield
        finally:
            board.followers[job_id].discard(changed)
            if not board.followers[job_id]:
                del board.followers[job_id]
            if not board.followers:
                board.task.cancel()
                self._boards.pop(pool, None)

    def place(self, pool: str, job_id: str) -> tuple[int, QueueState] | None:
        """Return a job's position and the queue, as last read. None when the job does not wait, or nothing was read yet."""
        board = self._boards.get(pool)
        if board is None or board.line is None or job_id not in board.places:
            return None
        return board.places[job_id], board.line

    async def _keep(self, pool: str, board: _Board) -> None:
        with self._waiters.parked(the_line(pool)) as changed:
            while True:
                changed.clear()
                try:
                    await self._read(pool, board)
                except StoreDown as error:
                    log.debug("positions.store_away", pool=pool, error=str(error))
                except GateError:
                    return
                await asyncio.sleep(AT_MOST_EVERY_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AT_LEAST_EVERY_S):
                        await changed.wait()

    async def _read(self, pool: str, board: _Board) -> None:
        line = await self._pools.pool(pool).status(most=QUEUE_MAX)
        before, moved = board.places, board.line is None or _shown(board.line) != _shown(line)
        board.line, board.places = line, {job_id: place for place, job_id in enumerate(line.queue, 1)}
        for job_id, events in board.followers.items():
            if moved or before.get(job_id) != board.places.get(job_id):
                for event in events:
                    event.set()


def _shown(line: QueueState) -> tuple[object, ...]:
    return line.queued, line.reason, line.cooling_tools, line.down_tools, line.away, line.free > 0
