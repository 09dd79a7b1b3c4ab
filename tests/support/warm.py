"""A process that has imported gate, and becomes `gate WORDS` in a fork of itself: without the half second of CPU of the imports.

`Warm` is the side of the tests, `orders` that of the process. Each fork is a child of the tests' process, as one that `Popen`
starts is, so a test can signal it, wait for it and read its exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import typer.main

import gate.cli.main
from tests.support.paths import ROOT

IMPORTED = (
    "alembic.command", "alembic.config", "anyio._backends._asyncio", "encodings.idna", "httpcore2", "markdown_it", "psycopg",
    "redis.asyncio", "rich._emoji_codes", "rich.markdown", "rich.rule", "rich.table", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "stamina.instrumentation", "truststore", "typer._adapters", "uvicorn", "uvicorn.lifespan.off",
    "uvloop",
    "gate.cli.main", "gate.cli.run",
    "gate.client", "gate.explain.sentences", "gate.demo.acceptance", "gate.diagnostics.doctor",
    "gate.diagnostics.verify", "gate.http.app", "gate.http.panel.pool_feed", "gate.http.server.offers",
    "gate.ledger.admin.migrate", "gate.runtime.serve", "gate.runtime.wiring", "gate.telemetry.logging",
    "gate.workers.delivery", "gate.workers.webhook_client",
)  # fmt: skip
"""What the commands of gate import, without gate.cli.render: it takes the width of the terminal when it is imported."""
PR_SET_CHILD_SUBREAPER = 36
ORDER_MAX = 65_536


class Forked:
    """As much of a Popen as a test of gate needs."""

    def __init__(self, pid: int, stdout: IO[str] | None, stderr: IO[str] | None = None) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
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
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        self.wait(60)


class Warm:
    """`module` is run with the number of a socket that takes orders (`orders`), each answered by the pid of a new process."""

    def __init__(self, module: str = "tests.support.warm") -> None:
        # This process becomes the parent of forks whose own parent has ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._one_at_a_time = threading.Lock()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", module, str(theirs.fileno())]
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
            environment = inherited | {"PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])

    def start(self, words: list[str], cwd: Path, environment: dict[str, str], errors: IO[Any] | None = None) -> Forked:
        """A process whose output can be read line by line, and its errors too if they go into no file."""
        out, theirs = os.pipe()
        its_errors, errors_of_it = os.pipe() if errors is None else (None, errors.fileno())
        try:
            pid = self._ordered(words, cwd, environment, theirs, errors_of_it)
        finally:
            os.close(theirs)
            if errors is None:
                os.close(errors_of_it)
        return Forked(pid, os.fdopen(out), None if its_errors is None else os.fdopen(its_errors))

    def run(
        self, words: list[str], cwd: Path, environment: dict[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` does, with the output captured."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = Forked(self._ordered(words, cwd, environment, out.fileno(), errors.fileno()), None)
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
                raise
            out.seek(0), errors.seek(0)
            return subprocess.CompletedProcess(words, code, out.read().decode(), errors.read().decode())

    def _ordered(self, words: list[str], cwd: Path, environment: dict[str, str], *given: int) -> int:
        order = json.dumps({"words": words, "cwd": str(cwd), "environment": environment})
        with self._one_at_a_time:
            socket.send_fds(self._ours, [order.encode()], given)
            return int(self._ours.recv(32))

    def close(self) -> None:
        self._ours.close()
        self._process.wait(20)


@cache
def warm() -> Warm:
    """That of this process. It ends with this process, because its socket does."""
    return Warm()


def orders(door: socket.socket) -> Iterator[list[str]]:
    """Fork a process for each order, and yield its words there. The process that forks returns when the socket is closed."""
    while True:
        order, given, _, _ = socket.recv_fds(door, ORDER_MAX, 2)
        if not order:
            return
        told, tells = os.pipe()
        between = os.fork()
        if between == 0:
            if pid := os.fork():  # whose parent ends at once, so that it is a child of the tests' process
                os.write(tells, str(pid).encode())
                os._exit(0)
            for number in (told, tells):
                os.close(number)
            door.close()
            _become(json.loads(order), given)
            yield json.loads(order)["words"]
            return
        os.waitpid(between, 0)
        door.send(os.read(told, 32))
        for number in (told, tells, *given):
            os.close(number)


def _become(order: dict[str, Any], given: list[int]) -> None:
    """Take the folder, the environment and the files of the order."""
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, also when this run is in the background
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, of in enumerate((nothing, *given)):
        os.dup2(of, number)
        os.close(of)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="strict")
    sys.stderr = io.TextIOWrapper(
        os.fdopen(2, "wb", 0, closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    get_command = cache(typer.main.get_command)  # of 35 commands
    typer.main.get_command = get_command
    get_command(gate.cli.main.app)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy each page that it looks at
    with contextlib.closing(socket.socket(fileno=int(sys.argv[1]))) as door:
        for words in orders(door):
            sys.argv[1:] = words
            _end(_code_of_gate())


def _code_of_gate() -> int:
    """Run gate as `python -m gate` does, and return the exit code."""
    try:
        runpy.run_module("gate", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End as the interpreter does, but leave its objects: to free each would copy the memory that is shared with the others."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
