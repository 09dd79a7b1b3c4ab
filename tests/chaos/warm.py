"""A gate that has imported all it needs, and forks for each life: where gate starts some hundred times, that is most of the work."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.support import ROOT, gate_environment

PR_SET_CHILD_SUBREAPER = 36
ORDER_MAX = 65_536


class Forked:
    """As much of a Popen as a server needs. It is a child of this process, though another one has forked it."""

    def __init__(self, pid: int, stdout: IO[str]) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        give_up = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > give_up:
                raise subprocess.TimeoutExpired(["gate"], timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """`module` is run with the number of a socket that takes orders (`orders`), each answered by the pid of a new process."""

    def __init__(self, module: str) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", module, str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, env=gate_environment(), pass_fds=[theirs.fileno()])

    def start(self, words: list[str], cwd: Path, environment: dict[str, str], errors: IO[str]) -> Forked:
        out, theirs = os.pipe()
        order = json.dumps({"words": words, "cwd": str(cwd), "environment": environment})
        socket.send_fds(self._ours, [order.encode()], [theirs, errors.fileno()])
        os.close(theirs)
        return Forked(int(self._ours.recv(32)), os.fdopen(out))

    def close(self) -> None:
        self._ours.close()
        self._process.wait(20)


@contextlib.contextmanager
def warm(module: str) -> Iterator[Warm]:
    """Meanwhile this process takes in whoever has lost his parent."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with contextlib.closing(Warm(module)) as made:
        yield made
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def orders(door: socket.socket) -> Iterator[list[str]]:
    """Yields in a new process for each order, which is as it says; the one that forks returns when nobody orders any more."""
    while True:
        order, fds, _, _ = socket.recv_fds(door, ORDER_MAX, 2)
        if not order:
            return
        between = os.fork()
        if between == 0:
            if pid := os.fork():  # whose parent goes at once, so that it is the harness's
                door.send(str(pid).encode())
                os._exit(0)
            door.close()
            given = json.loads(order)
            os.chdir(given["cwd"])
            os.environ.clear()
            os.environ.update(given["environment"])
            for number, fd in enumerate(fds, 1):
                os.dup2(fd, number)
                os.close(fd)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
            yield given["words"]
            return
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)
