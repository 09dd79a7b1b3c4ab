"""Run the Lua scripts over the pipeline, and count them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import structlog
from pydantic_core import from_json
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from gate.model.errors import StoreDown
from gate.slots import keys, scripts
from gate.slots.connection import AnotherRedis, RedisConnection, store_down
from gate.slots.results import UNDONE, Undone
from gate.telemetry import counters

log = structlog.get_logger("gate.slots")

PROBE = "#!lua\nreturn 1"
"""A script that may write and does not. Redis refuses it before it runs, for each reason for which it would refuse a write."""


class ScriptRunner:
    """Runs scripts by name. Redis gets the text of a script only when it does not have it."""

    def __init__(self, link: RedisConnection) -> None:
        """Read the texts of the scripts.

        Args:
            link: The connection to Redis.
        """
        self._link = link
        self._texts: dict[str, tuple[str, str]] = {}
        for verb in (*scripts.WITH_PRELUDE, "rebuild"):
            text = scripts.source(verb)
            self._texts[verb] = text, hashlib.sha1(text.encode()).hexdigest()
            counters.scripts.setdefault(verb, counters.Histogram())

    async def call(self, verb: str, pool: str, args: list[Any]) -> dict[str, Any]:
        """Run a script on the keys of a pool.

        Args:
            verb: Name of the script.
            pool: Name of the pool.
            args: Its further arguments.

        Returns:
            Its reply. `asked` is the time of the call, by `time.monotonic()` (s).

        Raises:
            StoreDown: Redis does not answer, or refuses the script.
        """
        asked = time.monotonic()
        text, digest = self._texts[verb]
        try:
            while True:
                link = self._link.of(pool)
                try:
                    raw: dict[str, Any] = from_json(
                        await self._ask(link, text, digest, len(keys.ROLES), *keys.keys(pool), *args)
                    )
                    break
                except (RedisError, OSError) as error:
                    await self._link.settle(pool, link, error, asked)
        except AnotherRedis:
            raw = {"word": Undone.ELSEWHERE.value}
        except (RedisError, OSError) as error:
            raise store_down(error) from error
        raw["asked"] = asked
        counters.scripts[verb].add(time.monotonic() - asked)
        if (word := raw["word"]) in UNDONE:
            counters.undone[word] += 1
            if word == Undone.DAMAGED:
                log.warning("redis.key_damaged", key=raw["key"], found=raw["found"])
        elif verb == "rebuild":
            counters.rebuilds[pool, word] += 1
        return raw

    async def ask(self, pool: str, *words: Any) -> Any:
        """Send a command about a pool to the primary that has it.

        Raises:
            AnotherRedis: Another primary has the pool now, or another life of Redis answers.
            RedisError: Redis refuses the command, or does not answer.
        """
        asked = time.monotonic()
        while True:
            link = self._link.of(pool)
            try:
                return await link.pipe.ask(*words)
            except (RedisError, OSError) as error:
                await self._link.settle(pool, link, error, asked)

    async def probe(self, pool: str | None) -> None:
        """Raise StoreDown unless the primary of a pool, or one of all primaries, answers and takes writes."""
        primaries = self._link.primaries if pool is None else [self._link.of(pool)]
        found = await asyncio.gather(*(self._probe(one) for one in primaries))
        for primary, error in zip(primaries, found, strict=True):
            self._link.note(primary, None if error is None else error.detail)
        failed = [error for error in found if error is not None]
        if failed:
            if len(failed) == len(primaries):  # guard: one-primary-is-enough
                raise failed[0]
            await self._link.look()

    async def _probe(self, link: RedisConnection) -> StoreDown | None:
        try:
            await self._ask(link, PROBE, hashlib.sha1(PROBE.encode()).hexdigest(), 0)
        except (RedisError, OSError) as error:
            return store_down(error)
        return None

    async def _ask(self, link: RedisConnection, text: str, digest: str, *args: Any) -> Any:
        """Run a script, and load it first when Redis does not have it."""
        pipe, words = link.pipe, ("EVALSHA", digest, *args)
        try:
            try:
                return await pipe.ask(*words)
            except NoScriptError:
                await pipe.ask("SCRIPT", "LOAD", text)
                return await pipe.ask(*words)
        except ReadOnlyError:
            await link.part()  # now a replica: once it is writable again, its identity must be checked
            raise
