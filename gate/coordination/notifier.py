"""Notifications that a job has changed in SQL. Local waiters are woken at once; other servers get a message through Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import RedisError

from gate.coordination.waiters import Waiters, the_line
from gate.model.errors import StoreDown
from gate.model.job import Job
from gate.slots import RedisConnection, keys

log = structlog.get_logger("gate.news")
RETRY_S = 0.5
"""Pause (s) before a lost subscription is made again."""
BETWEEN_S = 0.005
"""Pause (s) after a message about a pool. Every server reads every message, the sender's own too, so changes are batched."""
ALONE_S = 0.05
"""The same pause (s) while no other server subscribes. A server that subscribes later wakes all its waiters first."""
LOOK_UP_S = 1.0
"""Longest wait (s) for a message before the listener looks whether it still listens at the right Redis."""


class Notifier:
    """Publishes changes of jobs, and wakes local waiters on changes from other servers."""

    def __init__(self, waiters: Waiters, link: RedisConnection) -> None:
        self._waiters, self._link = waiters, link
        self._me = secrets.token_hex(8)
        self._pending: dict[str, set[str]] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self.on_change: list[Callable[[], None]] = []
        """Callbacks that run when a job may have changed, by this server or another."""

    def tell(self, pool: str, job_ids: Sequence[str]) -> None:
        """Announce that jobs of the pool have changed, and with them its queue.

        Args:
            pool: Name of the pool.
            job_ids: The jobs. When there are none, nothing is announced.
        """
        if job_ids:
            self.tell_line(pool, job_ids)

    def show(self, pool: str, jobs: Sequence[Job]) -> None:
        """Announce jobs as `tell` does, and pass them to local waiters, so that these do not read them again."""
        if jobs:
            self.tell_line(pool, [job.job_id for job in jobs])
            for job in jobs:
                self._waiters.show(job)

    def tell_line(self, pool: str, job_ids: Sequence[str] = ()) -> None:
        """Announce that the queue of the pool has changed: its waiters, or the reason why they wait.

        Args:
            pool: Name of the pool.
            job_ids: Jobs that have changed too.
        """
        self._waiters.wake([*job_ids, the_line(pool)])
        for changed in self.on_change:
            changed()
        self._pending.setdefault(pool, set()).update(job_ids)
        if pool not in self._sending:
            self._sending[pool] = asyncio.create_task(self._publish(pool))

    async def _publish(self, pool: str) -> None:
        """Publish one message at a time, with a pause after each. Changes during the pause go into the next message."""
        try:
            while (job_ids := self._pending.pop(pool, None)) is not None:
                message = " ".join((self._me, *job_ids))
                receivers = await self._link.of(pool).pipe.ask("PUBLISH", keys.news(pool), message)
                await asyncio.sleep(BETWEEN_S if receivers > 1 or not self._link.counts_servers else ALONE_S)
        except (RedisError, OSError, StoreDown) as error:
            log.warning("notifier.publish_failed", error=str(error))
        finally:
            del self._sending[pool]

    async def settle(self) -> None:
        """Return when every announcement made so far was published, or has failed."""
        await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def listen(self) -> None:
        """Wake local waiters on messages of other servers, for ever.

        Messages are lost while there is no subscription. So each new subscription wakes every local waiter once.
        """
        away = False
        while True:
            try:
                listener = self._link.speaker.listener
                async with listener.pubsub(ignore_subscribe_messages=False) as subscription:
                    await subscription.psubscribe(keys.NEWS_PATTERN)
                    while listener is self._link.speaker.listener:  # it is replaced when another Redis answers
                        message = await subscription.get_message(timeout=LOOK_UP_S)
                        if message is None:
                            continue
                        if message["type"] == "psubscribe":
                            away = False
                            self._waiters.wake_all()
                        else:
                            self._on_message(message["channel"].decode(), message["data"].decode(errors="replace"))
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("notifier.redis_away", error=str(error))
                away = True
                self._link.listen_elsewhere()
                await asyncio.sleep(RETRY_S)

    def _on_message(self, channel: str, message: str) -> None:
        sender, *job_ids = message.split(" ")
        if sender != self._me:
            for changed in self.on_change:
                changed()
            self._waiters.wake([*job_ids, the_line(channel[channel.find("{") + 1 : channel.rfind("}")])])
