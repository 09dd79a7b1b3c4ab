"""Wait until something is true. No test sleeps to wait for something: it waits until it is so, and says for what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def until(true: Callable[[], Any], what: str, within_s: float = 10) -> Any:
    """What `true` (a function, async or not) returns, as soon as that is true."""
    give_up = time.monotonic() + within_s
    while True:
        found = true()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < give_up, f"waited {within_s} s in vain until {what}"
        await asyncio.sleep(0.005)
