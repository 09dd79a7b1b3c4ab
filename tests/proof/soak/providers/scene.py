"""Gates with an account at the simulated provider, in scaled time: one on SQLite, or two on one Postgres and one Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from gate.simulator import Simulator
from tests.support.gate_process import Served
from tests.support.servers import Books, Postgres, RedisServer, free_port

KEY = "key-of-the-soak-0123456789"
TOKEN = "t0ken-of-the-soak"
LEASE_S, SILENCE_S, DRAIN_S, QUESTIONS_PER_S = 600.0, 600.0, 30.0, 5.0
"""Settings before the time is scaled."""
DRAIN_LEAST_S = 0.5
"""The least that the setting takes (s). From 1:60 on, this is the drain in the place of the scaled one."""
AGAIN_S = 0.03
"""Pause (s) before a call is sent again to a server that is down."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which a server or the provider was down (s since 1970)."""

    what: str
    begin: float
    end: float

    def meets(self, begin: float, end: float) -> bool:
        """Say whether this window and that time have a moment in common."""
        return self.begin <= end and begin <= self.end


@dataclass(slots=True)
class Scene:
    """What a scenario plays with.

    Attributes:
        simulator: The provider.
        gates: The servers.
        scale: So many seconds are one second here.
        books: SQL, read without code of gate.
        redis_url: Address of Redis of the first server.
        downs: The times in which something was down.
    """

    simulator: Simulator
    gates: list[Served]
    scale: float
    books: Books
    downs: list[Window] = field(default_factory=list)

    @property
    def redis_url(self) -> str:
        return self.gates[0].redis_url

    @property
    def sql_url(self) -> str:
        return self.gates[0].sql_url

    def scaled(self, seconds: float) -> float:
        """Return a time (s) as it is in this scene."""
        return seconds / self.scale

    def webhook(self, number: int) -> str:
        """Return the address for the callbacks of a job, at one of the servers."""
        return f"{self.gates[number % len(self.gates)].url}/v1/webhooks/runninghub/default?token={TOKEN}"

    async def kill(self, number: int) -> None:
        """`kill -9` a server, and start it again."""
        gate, begin = self.gates[number % len(self.gates)], time.time()
        await asyncio.to_thread(gate.kill)
        await asyncio.to_thread(gate.start)
        self.downs.append(Window("gate", begin, time.time()))

    async def leave(self, seconds: float) -> None:
        """Let the provider refuse connections for a time (s, before scaling)."""
        begin, away_s = time.time(), self.scaled(seconds)
        await asyncio.to_thread(self.simulator.control, away_s=away_s)
        await asyncio.sleep(begin + away_s - time.time())
        self.downs.append(Window("provider", begin, time.time() + self.scaled(5)))


class Caller:
    """An HTTP client that repeats a call until a server answers it."""

    def __init__(self, scene: Scene, http: httpx2.AsyncClient) -> None:
        self._scene, self._http, self._turn = scene, http, 0

    async def __call__(self, method: str, path: str, **more: Any) -> httpx2.Response:
        while True:
            gate = self._scene.gates[self._turn % len(self._scene.gates)]
            self._turn += 1
            with contextlib.suppress(httpx2.TransportError):
                answer = await self._http.request(method, gate.url + path, **more)
                if answer.status_code != 503:
                    return answer
            await asyncio.sleep(AGAIN_S)

    async def provider(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Call the provider; None when it is away."""
        with contextlib.suppress(httpx2.TransportError):
            answer: dict[str, Any] = (await self._http.post(self._scene.simulator.url + path, json=body)).json()
            return answer
        return None


@contextlib.asynccontextmanager
async def calling(scene: Scene) -> Any:
    """A caller without a limit of connections."""
    async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None)) as http:
        yield Caller(scene, http)


def drain_s(scale: float) -> float:
    """Return how long (s, scaled) a stopped task keeps its slot."""
    return max(DRAIN_S / scale, DRAIN_LEAST_S)


def config(url: str, limit: int, scale: float, lines: str = "", **settings: Any) -> str:
    """Return gate.toml. `settings` are those of the provider, and `lines` those of the pool."""
    told = {
        "callbacks": "true", "silence_seconds": SILENCE_S / scale, "drain_seconds": drain_s(scale),
        "questions_per_second": QUESTIONS_PER_S * scale,
    } | settings  # fmt: skip
    accounts = told.pop("accounts", f'[providers.runninghub.accounts.primary]\nkey = "{KEY}"\n')
    provider = "".join(f"{name} = {value}\n" for name, value in told.items())
    return (
        f"limit = {limit}\nlease_seconds = {LEASE_S / scale}\nclaim_seconds = 30\nqueue_max = 100000\ncooldown_seconds = 0.5\n{lines}\n"
        f'[providers.runninghub]\ntoken = "{TOKEN}"\nbase_url = "{url}"\n{provider}{accounts}'
    )


@contextlib.contextmanager
def opened(folder: Path, simulator: Simulator, text: str, scale: float, on_postgres: bool = False) -> Iterator[Scene]:
    """Start one gate on SQLite with its embedded Valkey, or two on a Postgres and a Valkey of their own."""
    with contextlib.ExitStack() as closing:
        environment = closing.enter_context(_stores(folder)) if on_postgres else {}
        gates = []
        for number in range(2 if on_postgres else 1):
            home = folder / f"gate-{number}"
            home.mkdir()
            served = Served(home, "--port", str(free_port()), config=text, on_defaults=True, **environment)
            gates.append(closing.enter_context(served))
        yield Scene(simulator, gates, scale, Books(gates[0].sql_url))


@contextlib.contextmanager
def _stores(folder: Path) -> Iterator[dict[str, str]]:
    folder.chmod(0o755)  # Postgres runs as another user
    postgres, redis = Postgres(folder / "postgres"), RedisServer("valkey", folder / "redis")
    try:
        postgres.start()
        redis.start()
        yield {"GATE_DATABASE_URL": postgres.url, "GATE_REDIS_URL": redis.url}
    finally:
        redis.kill()
        postgres.crash()
