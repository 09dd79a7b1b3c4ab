"""A simulated provider: RunningHub's documented API on loopback, with tasks that behave as a test demands.

A call to `/task/openapi/run` (or `create`, `ai-app/run`) starts a task, and so does the newer form
`/openapi/v2/run/ai-app/{id}`. The questions are `/openapi/v2/query` and `/task/openapi/outputs` and `status`. The counts are
`/openapi/v2/queue/status` and `/uc/openapi/accountStatus`.

`python -m gate.simulator --port 0 --limit 3` prints the address. A test uses `with Simulator(limit=3) as simulator:`.

`POST /control` with the fields of `Control` plans the behaviour of tasks, of keys and of the provider. The field `gateTest`
in the body of a run plans that run only. `GET /control` returns the tasks, the callbacks and the questions so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, Self

import uvicorn

from gate.simulator.app import make_app
from gate.simulator.plan import Busy, Control, KeyPlan, Odd, Plan
from gate.simulator.provider import Provider

__all__ = ["Busy", "KeyPlan", "Odd", "Plan", "Simulator", "main"]
HOST: Final = "127.0.0.1"
START_S: Final = 10
"""Time (s) that the thread has to start."""


class Simulator:
    """A simulated provider on a loopback port, in a thread of its own. So a test may block its own thread.

    Attributes:
        url: Address of the simulator.
    """

    def __init__(
        self, limit: int = 3, port: int = 0, keys: Mapping[str, Mapping[str, Any]] | None = None, **defaults: Any
    ) -> None:
        """Open the port; the context manager starts the thread.

        Args:
            limit: Tasks that may run at once, for each key without a limit of its own.
            port: Port on loopback; 0 for a free one.
            keys: Plans of the keys that are accepted, by the key; None or empty to accept any.
            defaults: Fields of the plan of all tasks.

        Raises:
            ValidationError: A field of `keys` or `defaults` is not valid.
            OSError: The port is not free.
        """
        self._provider = Provider(limit, Plan(**defaults))
        self._provider.control(Control(keys={key: dict(plan) for key, plan in (keys or {}).items()}))
        self._socket = socket.create_server((HOST, port))
        self._port: int = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self._port}"
        self._config = uvicorn.Config(
            make_app(self._provider), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_loop = threading.Event()
        self._is_open, self._moved = True, asyncio.Event()
        self._thread = threading.Thread(target=self.serve, name="simulator", daemon=True)

    def seen(self) -> dict[str, Any]:
        """Return the same as `GET /control`: the limit, the tasks, the callbacks and the questions so far."""
        return self._provider.seen()

    def control(self, **wanted: Any) -> dict[str, Any]:
        """Plan the behaviour of tasks, of keys and of the provider, as `POST /control` does.

        Args:
            wanted: Fields of `Control`. With `away_s`, this returns when the port is closed, or open again.

        Returns:
            What `seen` returns.

        Raises:
            ValueError: A field is not valid, or there is no such task.
        """
        self._has_loop.wait(START_S)
        assert self._loop is not None, "the simulator is not started"
        asyncio.run_coroutine_threadsafe(self._control(Control(**wanted)), self._loop).result()
        return self.seen()

    async def _control(self, wanted: Control) -> None:
        try:
            self._provider.control(wanted)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        while wanted.away_s is not None and self._is_open == self._provider.is_away:
            await self._moved.wait()

    def serve(self) -> None:
        """Serve requests until `stop`, or until a signal ends the process."""
        with asyncio.Runner(loop_factory=self._config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_loop.set()
        try:
            await self._listen()
            while self._provider.is_away and not self._provider.is_closing:
                await self._stay_away()
                await self._listen()
        finally:
            await self._provider.close()

    async def _listen(self) -> None:
        """Serve requests until the provider is away or ends."""
        server = uvicorn.Server(self._config)
        leaving = asyncio.create_task(self._leave(server))
        try:
            await server.serve(sockets=[self._socket])
        finally:
            leaving.cancel()

    async def _leave(self, server: uvicorn.Server) -> None:
        provider = self._provider
        while not provider.is_closing and not provider.is_away:
            await provider.changed.wait()
        server.should_exit = True

    async def _stay_away(self) -> None:
        """Wait with a closed port until the provider is back, and open the port."""
        provider = self._provider
        self._move(is_open=False)
        while not provider.is_closing and provider.is_away:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(provider.changed.wait(), provider.away_until - time.monotonic())
        self._socket = socket.create_server((HOST, self._port))
        self._move(is_open=True)

    def _move(self, is_open: bool) -> None:
        self._is_open = is_open
        self._moved.set()
        self._moved = asyncio.Event()

    def stop(self) -> None:
        """End the thread and close the port."""
        self._provider.is_closing = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it was stopped before
                self._loop.call_soon_threadsafe(self._provider.wake)
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Self:
        self._thread.start()  # the socket already accepts connections, so no caller has to wait for the thread
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.to_thread(self.stop)


def main() -> None:
    """Run a simulator from the command line until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m gate.simulator", description="A provider to try gate against.")
    parser.add_argument("--port", type=int, default=0, help="default 0: a free one")
    parser.add_argument("--limit", type=int, default=3, help="tasks at once, for each key; default 3")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        help="a key that is accepted, with tasks and a limit of its own; may be repeated. Without any, every key is accepted",
    )
    wanted = parser.parse_args()
    simulator = Simulator(wanted.limit, wanted.port, keys={key: {} for key in wanted.key})
    print(simulator.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        simulator.serve()
