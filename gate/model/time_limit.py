"""A time limit for a future that other code sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def limit(future: asyncio.Future[Any], within_s: float, over: Callable[[], None]) -> None:
    """Call a function when a future is not done in time.

    Args:
        future: The future, of the running event loop.
        within_s: Time (s) that it has, from now.
        over: Called when it is not done then.
    """
    timer = future.get_loop().call_later(within_s, over)
    future.add_done_callback(lambda _: timer.cancel())
