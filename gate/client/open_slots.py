"""The slots that are open in this process, and what happens to them when the process ends or forks.

Without this, SIGTERM would end the process inside the body of a slot. No `with` block would be left, so gate would keep the slot
until its lease runs out.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Protocol

from gate.client.errors import GateError

REPEAT_S = 5.0
"""Time (s) for which a second SIGTERM is ignored. Many supervisors send two, and the second would interrupt the releases."""


class OpenSlot(Protocol):
    """A slot between its entry and its release."""

    def give_back_at_exit(self) -> None:
        """Release the slot, when the interpreter ends."""


OPEN: set[OpenSlot] = set()
"""The open slots of this process, of all clients."""
_terminated_at_s = -REPEAT_S


def heed_sigterm() -> None:
    """Let SIGTERM raise SystemExit while a slot is open, so that each block releases its slot.

    It does nothing in a process that handles the signal itself, and outside of the main thread.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    global _terminated_at_s
    if not OPEN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif time.monotonic() - _terminated_at_s >= REPEAT_S:
        _terminated_at_s = time.monotonic()
        raise SystemExit(128 + number)


@atexit.register
def _give_back() -> None:
    """Release the slots of daemon threads, and those whose block was never left."""
    for slot in list(OPEN):
        with contextlib.suppress(GateError):
            slot.give_back_at_exit()


# The slots belong to the parent: a child that releases them would give away slots at work.
os.register_at_fork(after_in_child=OPEN.clear)
