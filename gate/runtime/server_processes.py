"""Several processes behind one port: a parent that starts them, starts a dead one again, and passes on signals.

Each process has a listening socket of its own on the port (SO_REUSEPORT), so the kernel deals the connections evenly. The parent keeps all
of them open: the connections that wait at the socket of a dead process wait for its successor. The parent serves nothing itself.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog

from gate.model.errors import CannotStart

log = structlog.get_logger("gate.runtime")

RESTART_PAUSE_S = 1.0
"""Shortest life (s) of a process. A successor waits for the rest of it, so that one that cannot start does not use up a core."""
HANDLED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a server, as it knows itself.

    Attributes:
        number: Its number, from 1.
        is_to_announce: It says where the server is, once it is ready.
        stop_all: Asks the parent to stop all processes; None when there is no parent.
        ready_pipe: File descriptor on which the parent waits for its first process; None for none.
        parent_pipe: File descriptor that ends with the parent; None when there is no parent.
    """

    number: int = 1
    is_to_announce: bool = True
    stop_all: Callable[[], None] | None = None
    ready_pipe: int | None = None
    parent_pipe: int | None = None

    def own(self, name: str) -> str:
        """Return a name that no other process of the server has. The first one keeps the name."""
        return name if self.number == 1 else f"{self.number}-{name}"

    def ready(self) -> None:
        """Tell the parent that this process serves."""
        if self.ready_pipe is not None:
            os.write(self.ready_pipe, b"1")
            os.close(self.ready_pipe)

    def on_lost_parent(self, call: Callable[[], None]) -> None:
        """Call a function when the parent has died. No process may keep the port and the data directory without it."""
        if self.parent_pipe is None:
            return
        loop, pipe = asyncio.get_running_loop(), self.parent_pipe

        def ended() -> None:
            loop.remove_reader(pipe)
            call()

        loop.add_reader(pipe, ended)  # nothing is ever written: it is readable when the other end is closed


ONLY = Process()
"""The process of a server that has one."""


class ServerProcesses:
    """Starts and keeps the processes of one server."""

    def __init__(self, listeners: Sequence[socket.socket], run: Callable[[socket.socket, Process], None]) -> None:
        """Prepare the processes; `keep` starts them.

        Args:
            listeners: One socket for each process. They are closed when the server stops.
            run: Serves on a socket until the process has to stop.
        """
        self._listeners, self._run = list(listeners), run
        self._numbers: dict[int, int] = {}
        self._began: dict[int, float] = {}
        self._is_stopping = False
        self._ends_with_parent, self._held_by_parent = os.pipe()

    def keep(self) -> None:
        """Serve until SIGTERM or SIGINT, which every process gets.

        Raises:
            SystemExit: The first process cannot start. It has said why.
        """
        former = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            gc.freeze()  # a collection in a process would copy each page that it looks at
            self._start_first()
            for number in range(2, len(self._listeners) + 1):
                self._start(number)
            while self._numbers:
                self._handle(signal.Signals(signal.sigwait(HANDLED)))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def _start_first(self) -> None:
        """Start the first process, and wait until it serves: it configures the pools, and it says what is wrong with the stores."""
        reads, writes = os.pipe()
        pid = self._start(1, writes)
        os.close(writes)
        is_ready = os.read(reads, 1) == b"1"
        os.close(reads)
        if not is_ready:
            os.waitpid(pid, 0)
            raise SystemExit(1)

    def _start(self, number: int, ready_pipe: int | None = None) -> int:
        pid = os.fork()
        if pid == 0:
            self._become(number, ready_pipe)
        self._numbers[pid], self._began[pid] = number, time.monotonic()
        return pid

    def _become(self, number: int, ready_pipe: int | None) -> NoReturn:
        """Be one of the processes, and end without the parent's own clean-up."""
        code = 1
        try:
            os.close(self._held_by_parent)
            own = self._listeners[number - 1]
            for other in self._listeners:
                if other is not own:
                    other.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            parent = os.getppid()
            process = Process(
                number, ready_pipe is not None, lambda: os.kill(parent, signal.SIGTERM), ready_pipe, self._ends_with_parent
            )  # fmt: skip
            self._run(own, process)
            code = 0
        except CannotStart as error:
            print(f"gate: {error.detail}", file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _handle(self, number: signal.Signals) -> None:
        if number != signal.SIGCHLD:
            self._is_stopping = True
            for listener in self._listeners:  # else connections would wait at a port that no process serves
                listener.close()
            for pid in self._numbers:
                os.kill(pid, number)
            return
        for pid in list(self._numbers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._replace(pid, os.waitstatus_to_exitcode(status))

    def _replace(self, pid: int, code: int) -> None:
        """Start another process for one that has ended, unless all of them are to end."""
        number, lived_s = self._numbers.pop(pid), time.monotonic() - self._began.pop(pid)
        if self._is_stopping:
            return
        log.error("server_process.ended", process=number, pid=pid, code=code)
        time.sleep(max(0.0, RESTART_PAUSE_S - lived_s))
        self._start(number)  # guard: dead-server-process-is-replaced
