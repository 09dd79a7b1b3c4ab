"""`gate WORDS` in a fork of a process that has loaded it already: as at a terminal, without the half second that Python takes to
read it and its libraries.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

LIBRARIES = ("rich.table", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "psycopg")


class Warm:
    """One such process. It ends with the one who made it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gate-warm-", ignore_cleanup_errors=True)
        self._address = str(Path(self._folder.name) / "socket")
        words = [sys.executable, "-m", "tests.warm", self._address]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def run(
        self, words: list[str], cwd: Path, environment: dict[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        with socket.socket(socket.AF_UNIX) as call, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            call.settimeout(timeout_s)
            call.connect(self._address)
            told = json.dumps({"words": words, "cwd": str(cwd), "environment": environment}).encode()
            socket.send_fds(call, [len(told).to_bytes(4, "big")], [out.fileno(), errors.fileno()])
            call.sendall(told)
            process = int.from_bytes(call.recv(4), "big")
            try:
                code = int.from_bytes(call.recv(4), "big", signed=True)
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, timeout_s) from None
            out.seek(0), errors.seek(0)
            return subprocess.CompletedProcess(words, code, out.read().decode(), errors.read().decode())


@cache
def warm() -> Warm:
    """That of this process."""
    return Warm()


def load() -> None:
    """Import what the commands of gate import."""

    for name in LIBRARIES:
        importlib.import_module(name)


def main() -> None:
    load()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(16)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those who mind a command ended
        print("warm", flush=True)
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            call = listener.accept()[0]
            if os.fork() == 0:
                break
            call.close()
        else:
            return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _mind(call)


def _mind(call: socket.socket) -> None:
    """A command in a process of its own; then its exit code."""
    size, given, _, _ = socket.recv_fds(call, 4, 2)
    told = json.loads(call.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
    process = os.fork()
    if process:
        call.sendall(process.to_bytes(4, "big"))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        call.sendall(code.to_bytes(4, "big", signed=True))
        return
    call.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, of in enumerate((nothing, *given)):
        os.dup2(of, number)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv[1:] = told["words"]
    runpy.run_module("gate", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
