"""Run the Lua scripts over the pipeline, and count them."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import structlog
from pydantic_core import from_json
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

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
        try:
            raw: dict[str, Any] = from_json(await self._ask(*self._texts[verb], len(keys.ROLES), *keys.keys(pool), *args))
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

    async def probe(self) -> None:
        """Raise StoreDown unless Redis answers and takes writes."""
        try:
            await self._ask(PROBE, hashlib.sha1(PROBE.encode()).hexdigest(), 0)
        except (RedisError, OSError) as error:
            raise store_down(error) from error

    async def _ask(self, text: str, digest: str, *args: Any) -> Any:
        """Run a script, and load it first when Redis does not have it."""
        pipe, words = self._link.pipe, ("EVALSHA", digest, *args)
        try:
            try:
                return await pipe.ask(*words)
            except NoScriptError:
                await pipe.ask("SCRIPT", "LOAD", text)
                return await pipe.ask(*words)
        except ReadOnlyError:
            await self._link.part()  # now a replica: once it is writable again, its identity must be checked
            raise
