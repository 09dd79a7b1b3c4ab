"""The stop of a server process: not ready first, then no new connection, then the answers that are still owed.

A wait of a caller is answered at once when the port closes, with the job as it is then. That answer may be repeated at any server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from gate.coordination.shutdown import Shutdown
from gate.runtime.listener import refuse_new

if TYPE_CHECKING:
    import uvicorn

    from gate.coordination.waiters import Waiters

GRACE_S = 7
"""Time (s) that requests under way have to end when the server stops."""
STOP_S = 9.5
"""Time (s) that the stop may take from the close of the listener, less than the 10 s after which Docker kills a container."""
HANDSHAKE_S = 0.3
"""Time (s) in which connections that have begun are completed and accepted, before the listener closes. It is more than a round trip."""


class GracefulStop:
    """Stops one server process when a signal or a caller asks for it."""

    def __init__(self, shutdown: Shutdown, waiters: Waiters, server: uvicorn.Server, listener: socket.socket) -> None:
        self._shutdown, self._waiters, self._server, self._listener = shutdown, waiters, server, listener

    def on_signals(self) -> None:
        """Handle SIGTERM, which may come several times, and SIGINT (Ctrl-C), which also ends the delay."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._shutdown.begin)
        loop.add_signal_handler(signal.SIGINT, self._shutdown.hurry)

    async def keep(self) -> None:
        """Wait for the stop, and carry it out when its delay is over."""
        await self._shutdown.wait()
        last_resort = threading.Timer(STOP_S, _force)
        last_resort.daemon = True
        last_resort.start()
        await self.close()

    async def close(self) -> None:
        """Close the listener, and let the server answer what it has accepted."""
        if self._shutdown.delay_s:
            refuse_new(self._listener)
            await asyncio.sleep(HANDSHAKE_S)
        self._server.should_exit = True
        self._waiters.close()


def _force() -> None:
    """End the process although a store hangs, because its thread cannot be ended. Callers know only what is committed."""
    print(f"gate: a store does not answer; stopped by force after {STOP_S:g} s", file=sys.stderr, flush=True)
    os._exit(1)
