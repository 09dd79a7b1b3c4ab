"""`gate run -- COMMAND`: holds a slot for the length of a command, over HTTP, as any other caller does.

The command runs in a process group of its own, so that a lost lease ends its children too. Only in the foreground of a
terminal it shares the group of gate, because otherwise it could not read from that terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import stamina.instrumentation

from gate.client import AsyncGate, AsyncLease, GateError, JobUnknown, LeaseLost, StoreDown, Unreachable
from gate.explain.formatting import span
from gate.model.label import plain
from gate.runtime.data_dir import DataDir

IN_VAIN = 124
"""Exit code when the wait was longer than its limit. `timeout` has the same."""
NOT_HELD = 125
"""Exit code when gate refuses or does not answer, or the lease is lost. `env`, `nohup` and `docker run` have the same."""
CANNOT_RUN = 126
"""Exit code when the command cannot be run, as in a shell."""
NO_COMMAND = 127
"""Exit code when there is no such command, as in a shell."""
KILL_AFTER_S = 10.0
"""Time (s) that a command has to end after its lease is lost. It is as long as `docker stop` waits."""
PRESENCE_S = 15.0
"""Time (s) after which others pass the job of a `gate run` that was killed in its wait. A living one shows itself three times in it."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals by which a user ends a command. A command that fails after one of them is cancelled, not failed."""
PR_SET_PDEATHSIG = 1


class NotHeld(Exception):
    """The command did not run to its end under a lease.

    Attributes:
        code: The exit code.
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and for which job.

    Attributes:
        command: The command and its arguments.
        pool: Name of the pool.
        request: Arguments of `AsyncGate.slot`.
        keeps_running: Whether the command goes on after its lease is lost.
    """

    command: list[str]
    pool: str
    request: dict[str, Any]
    keeps_running: bool


def run(where: str | DataDir, key: str | None, order: Order) -> int:
    """Hold a slot while the command runs.

    Args:
        where: Address of gate, or the data directory of a server on this machine, which may restart on another port.
        key: Key of gate; None for that of the data directory.
        order: What to run.

    Returns:
        The exit code of the command, 128 and its number for a signal, or one of the codes of this module.
    """
    stamina.instrumentation.set_on_retry_hooks([])  # they would print to the stdout of the command
    try:
        if shutil.which(order.command[0]) is None:
            raise NotHeld(NO_COMMAND, f"there is no command {order.command[0]}")
        return asyncio.run(_run(where, key, order))
    except NotHeld as error:
        _say(str(error))
        return error.code
    except GateError as error:
        _say(f"{error.code}: {error.detail}")
        return NOT_HELD


async def _run(where: str | DataDir, key: str | None, order: Order) -> int:
    address: str | Callable[[], str] = where if isinstance(where, str) else _follow(where)
    if key is None and isinstance(where, DataDir):
        key = where.terminal_key()
    command = _Command(order)
    async with AsyncGate(address, key) as gate:
        with command.forwarding_signals():
            return await _held(gate, order, command)


def _follow(data: DataDir) -> Callable[[], str]:
    """Return a function that finds the server of a data directory, or names the last one while none runs.

    Raises:
        NotHeld: None runs now.
    """
    running = data.running()
    if running is None:
        raise NotHeld(NOT_HELD, f"no gate runs in {data.path.absolute()}: start it with `gate serve`, or say --url")
    last = [running.http]

    def address() -> str:
        if (now := data.running()) is not None:
            last[0] = now.http
        return last[0]

    return address


async def _refuse_running(gate: AsyncGate, order: Order) -> None:
    """Raise NotHeld if another process has started the named job. To enter its slot would share its lease, and end it."""
    if (job_id := order.request["job_id"]) is not None:
        with contextlib.suppress(JobUnknown):
            if (await gate.job(order.pool, job_id)).status == "running":
                raise NotHeld(NOT_HELD, f"job {job_id} runs already: another process has started it")


async def _held(gate: AsyncGate, order: Order, command: _Command) -> int:
    """Wait for the slot, run the command, and release the slot with its outcome."""
    lease: AsyncLease | None = None
    code = NOT_HELD
    on_position = _say_place if sys.stderr.isatty() else None  # it costs a call each second
    try:
        await _refuse_running(gate, order)
        request = order.request | {"presence_seconds": PRESENCE_S}
        async with gate.slot(order.pool, **request, on_position=on_position) as lease:
            code = await command.run(lease)
            command.report(lease, code)
    except TimeoutError:
        raise NotHeld(IN_VAIN, f"no slot within {order.request['wait_seconds']:g} s; the job is cancelled") from None
    except asyncio.CancelledError:
        if command.interrupted is None:
            raise
        return 128 + command.interrupted
    except (StoreDown, Unreachable):
        if lease is None:
            raise
        await _release_late(gate, order.pool, lease, command, code)
    except LeaseLost as lost:
        _lost(lost, code)
    return code


async def _release_late(gate: AsyncGate, pool: str, lease: AsyncLease, command: _Command, code: int) -> None:
    """Report the outcome again and again while the lease lasts, because gate was away for longer than one call is retried."""
    while True:
        try:
            lease.check()
            outcome, error = command.outcome(code)
            await gate.release(pool, lease.job_id, lease.lease_id, outcome, error=error)
            return
        except (StoreDown, Unreachable):
            continue
        except GateError as lost:
            _lost(lost, code)
            return


def _lost(lost: GateError, code: int) -> None:
    """Say that gate has not taken the outcome. Raises NotHeld unless the command has failed anyway."""
    if code == 0 or code == NOT_HELD:
        raise NotHeld(NOT_HELD, lost.detail) from lost
    _say(lost.detail)


class _Command:
    """The process of the command.

    Attributes:
        signalled: The last signal that was forwarded to it; None before the first.
        interrupted: The signal that interrupted the wait before it, or the release after it; None without one.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._process: asyncio.subprocess.Process | None = None
        self._is_foreground = sys.stdin is not None and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
        self.signalled: signal.Signals | None = None
        self.interrupted: signal.Signals | None = None

    @contextlib.contextmanager
    def forwarding_signals(self) -> Any:
        """Forward signals to the command for the length of a block. Before it and after it they interrupt the call of gate."""
        loop, waiting = asyncio.get_running_loop(), asyncio.current_task()
        assert waiting is not None

        def forward(number: signal.Signals) -> None:
            if self._process is not None and self._process.returncode is None:
                self.signalled = number
                if not (
                    self._is_foreground and number in (signal.SIGINT, signal.SIGQUIT)
                ):  # the terminal has sent it already
                    self._send(number)
            elif number in ENDING:
                self.interrupted = number
                waiting.cancel()

        caught = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
        for number in caught:
            loop.add_signal_handler(number, forward, number)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    async def run(self, lease: AsyncLease) -> int:
        """Run the command to its end.

        Returns:
            Its exit code, or 128 and the number of the signal that ended it.

        Raises:
            NotHeld: It cannot be started.
            asyncio.CancelledError: The lease was lost, and the command is ended.
        """
        named = {"GATE_JOB_ID": lease.job_id, "GATE_LEASE_ID": lease.lease_id, "GATE_FENCE": str(lease.fence)}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._order.command, env=os.environ | named, preexec_fn=_end_with_parent,
                process_group=None if self._is_foreground else 0,
            )  # fmt: skip
        except OSError as error:
            raise NotHeld(CANNOT_RUN, f"{self._order.command[0]} cannot be run: {error.strerror}") from error
        try:
            code = await self._process.wait()
        except asyncio.CancelledError:
            if not self._order.keeps_running:
                _say(f"the lease of job {lease.job_id} is lost; ending the command")
                await self._end()
                raise
            _say(f"the lease of job {lease.job_id} is lost; the command goes on without it")
            code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def outcome(self, code: int) -> tuple[Any, str | None]:
        """Return the outcome of the job, and its error, for an exit code."""
        if code == 0:
            return "completed", None
        if self.signalled in ENDING:
            return "cancelled", None
        return "failed", f"exit code {code}" if code <= 128 else f"exit code {code}, {_signal_name(code - 128)}"

    def report(self, lease: AsyncLease, code: int) -> None:
        """Report the outcome to the slot, which releases it with that."""
        outcome, error = self.outcome(code)
        if outcome == "completed":
            lease.complete()
        elif outcome == "cancelled":
            lease.cancel()
        else:
            lease.fail(error or outcome)

    async def _end(self) -> None:
        """End the command and its children: SIGTERM, and SIGKILL when it has not ended after KILL_AFTER_S."""
        assert self._process is not None
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await self._process.wait()
        except TimeoutError:
            pass
        self._send(signal.SIGKILL)  # also to children that outlived the command
        await self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            (os.kill if self._is_foreground else os.killpg)(self._process.pid, number)


def _end_with_parent() -> None:
    """Let the kernel end the command when gate itself is killed: nothing would renew its lease, and a fourth would run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say_place(position: int | None, length: int | None, reason: str | None, eta_seconds: float | None) -> None:
    turn = f", turn in ~ {span(round(eta_seconds * 1000))}" if eta_seconds is not None else ""
    why = f", {reason.replace('_', ' ')}" if reason else ""
    _say(f"waits at place {position} of {length}{why}{turn}")


def _say(line: str) -> None:
    print(f"gate: {plain(line)}", file=sys.stderr, flush=True)
