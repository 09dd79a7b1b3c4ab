"""Word that a job has changed in SQL: to those who wait here at once, to other servers through Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import RedisError

from gate.coordination.waiters import Waiters, the_line
from gate.model.job import Job
from gate.slots import RedisConnection, keys

log = structlog.get_logger("gate.news")
RETRY_S = 0.5
BETWEEN_S = 0.005
"""Between two messages about a pool. The first goes at once; each is read by every server, its sender too."""
ALONE_S = 0.05
"""The same while nobody but the sender hears them: whoever comes later looks by himself, and then at everything."""
LOOK_UP_S = 1.0


class Notifier:
    def __init__(self, waiters: Waiters, link: RedisConnection) -> None:
        self._waiters, self._link = waiters, link
        self._me = secrets.token_hex(8)
        self._unsaid: dict[str, set[str]] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self.on_change: list[Callable[[], None]] = []
        """Called when a job may have changed, here or at another server."""

    def tell(self, pool: str, job_ids: Sequence[str]) -> None:
        """That these jobs of the pool changed, and so the line."""
        if job_ids:
            self.tell_line(pool, job_ids)

    def show(self, pool: str, jobs: Sequence[Job]) -> None:
        """As `tell`, with the jobs as they are by this change: whoever waits here for one need not read it."""
        if jobs:
            self.tell_line(pool, [job.job_id for job in jobs])
            for job in jobs:
                self._waiters.show(job)

    def tell_line(self, pool: str, job_ids: Sequence[str] = ()) -> None:
        """That the line changed: who waits, or why."""
        self._waiters.wake([*job_ids, the_line(pool)])
        for changed in self.on_change:
            changed()
        self._unsaid.setdefault(pool, set()).update(job_ids)
        if pool not in self._sending:
            self._sending[pool] = asyncio.create_task(self._publish(pool))

    async def _publish(self, pool: str) -> None:
        """One message at a time, and not too often: what changes meanwhile goes into the next."""
        try:
            while (job_ids := self._unsaid.pop(pool, None)) is not None:
                heard = await self._link.pipe.ask("PUBLISH", keys.news(pool), " ".join((self._me, *job_ids)))
                await asyncio.sleep(BETWEEN_S if heard > 1 else ALONE_S)
        except (RedisError, OSError) as error:
            log.warning("others were not told", error=str(error))
        finally:
            del self._sending[pool]

    async def settle(self) -> None:
        await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def listen(self) -> None:
        """For ever. After each new subscription everybody here looks again: what was said meanwhile is lost."""
        away = False
        while True:
            try:
                listener = self._link.listener
                async with listener.pubsub(ignore_subscribe_messages=False) as subscription:
                    await subscription.psubscribe(keys.NEWS_PATTERN)
                    while listener is self._link.listener:  # until another Redis answers
                        message = await subscription.get_message(timeout=LOOK_UP_S)
                        if message is None:
                            continue
                        if message["type"] == "psubscribe":
                            away = False
                            self._waiters.wake_all()
                        else:
                            self._hear(message["channel"].decode(), message["data"].decode(errors="replace"))
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("Redis is away: no news from other servers", error=str(error))
                away = True
                await asyncio.sleep(RETRY_S)

    def _hear(self, channel: str, message: str) -> None:
        sender, *job_ids = message.split(" ")
        if sender != self._me:
            for changed in self.on_change:
                changed()
            self._waiters.wake([*job_ids, the_line(channel[channel.find("{") + 1 : channel.rfind("}")])])
