"""What questions to a provider cost the calls of tools: gate with accounts whose every question hangs, beside gate without accounts.

Both have the same jobs with tasks of the provider, and the same load. Their rounds alternate. The ratio is the pairs of acquire and
release for a second with the questions over those without, the median over the rounds. Another one is of the CPU of gate and its Valkey
for a pair, which swings less on a noisy machine. Before that, both are idle for a while, and their CPU is compared.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2

from bench import servers
from bench.contenders import Contender
from bench.load import Shape
from bench.medians import ratio
from bench.progress import say

CLIENTS = 32
TASKS = 60
"""Jobs with a task of the provider, beside the load."""
HANGING = 16
"""Questions that hang at once before the rounds begin: as many as gate asks of an account at once."""
HANGS_S = 30.0
"""Longest wait (s) for that."""
POOL = '[pools.bench]\nlimit = 200\n[providers.runninghub]\ntoken = "a-token-of-the-bench"\n'


class DeafProvider:
    """A provider that takes every connection and replies to none.

    Attributes:
        url: Its address.
        open: Connections that the other side has not closed.
        most: The most of them at once.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.open = self.most = 0

    def __enter__(self) -> DeafProvider:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._socket.accept()
                threading.Thread(target=self._hang, args=(taken,), daemon=True).start()

    def _hang(self, taken: socket.socket) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        with contextlib.suppress(OSError), taken:
            while taken.recv(65536):
                pass
        self.open -= 1


def run(folder: Path, rounds: int = 15, seconds: float = 1.5, idle_s: float = 20.0, hanging: int = HANGING) -> dict[str, Any]:
    """By database: pairs a second with and without, by round, and the CPU (s) of an idle gate of each kind."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        url, pid = stack.enter_context(servers.postgres(folder / "pg"))
        for database in ("SQLite", "Postgres"):
            say(f"{database}: with accounts and without")
            with DeafProvider() as provider, ExitStack() as pair:
                gates = {
                    which: pair.enter_context(_started(folder, database, which, url, pid, provider))
                    for which in ("with", "without")
                }
                found[database] = _compared(gates, provider, rounds, seconds, idle_s, hanging)
    return {"rounds": rounds, "seconds": seconds, "idle_s": idle_s, "databases": found}


@contextlib.contextmanager
def _started(
    folder: Path, database: str, which: str, url: str, pid: int, provider: DeafProvider
) -> Iterator[Contender]:  # fmt: skip
    """A gate, warm. Only one of the two has an account, and each has a database of its own."""
    name = f"{database}_{which}".lower()
    pools = POOL
    if which == "with":
        pools += f'base_url = "{provider.url}"\ncallbacks = false\n[providers.runninghub.accounts.primary]\n'
        pools += 'key = "a-key-of-the-bench"\npool = "bench"\n'
    sql = servers.database(url, name) if database == "Postgres" else None
    with servers.gate(name, folder / name, sql, None, pools=pools) as server:
        made = Contender(server, Shape(key=server.key))
        made.measure(CLIENTS, 1.0, "warm")
        yield made


def _compared(
    gates: dict[str, Contender], provider: DeafProvider, rounds: int, seconds: float, idle_s: float, hanging: int
) -> dict[str, Any]:
    idle = _idle(gates, idle_s)
    for one in gates.values():
        _bind(one.server)
    gives_up = time.monotonic() + HANGS_S
    while provider.open < hanging:
        assert time.monotonic() < gives_up, f"only {provider.open} questions hang"
        time.sleep(0.05)
    per_s: dict[str, list[float]] = {"with": [], "without": []}
    cpu_us: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(rounds):
        for which in sorted(gates, reverse=bool(number % 2)):
            figures = gates[which].measure(CLIENTS, seconds, f"asking-{number}")
            assert figures is not None
            per_s[which].append(figures["per_s"])
            cpu_us[which].append(figures["cpu_us"])
    say(
        f"  {ratio(per_s['with'], per_s['without']):.3f} of the pairs; idle {idle['with'][0]:.2f} and {idle['without'][0]:.2f} s"
    )
    return {"per_s": per_s, "cpu_us": cpu_us, "idle_cpu_s": idle, "most_hanging": provider.most}


def _idle(gates: dict[str, Contender], idle_s: float) -> dict[str, list[float]]:
    """CPU (s) of both while nothing happens, over the same time."""
    before = {which: one.server.cpu_s() for which, one in gates.items()}
    time.sleep(idle_s)
    return {which: [one.server.cpu_s() - before[which]] for which, one in gates.items()}


def _bind(server: servers.Server) -> None:
    """Start jobs, each with a task of the provider."""
    headers = {"authorization": f"Bearer {server.key}"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as http:
        for number in range(TASKS):
            job = http.post("/v1/pools/bench/acquire", json={"job_id": f"task-{number}", "lease_seconds": 600}).json()
            body = {"provider": "runninghub", "task_id": f"{server.name}-{number}", "lease_id": job["lease"]["lease_id"]}
            bound = http.put(f"/v1/pools/bench/jobs/task-{number}/task", json=body)
            assert bound.status_code == 200, bound.text
