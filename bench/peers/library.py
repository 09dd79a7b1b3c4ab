"""What is used as a library, in a process of its own that is its load too: it reads `clients seconds` from each line, does pairs for
so long, and writes what its clients saw as a line of JSON.

No HTTP lies between, which is to the library's advantage. Whatever opens connections or prepares a statement happens before the clock.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from bench.load import Samples


class Client(Protocol):
    """One of those who take and give back, on a connection of its own. None: no slot was free."""

    def take(self, job: str) -> Any: ...

    def free(self, job: str, slot: Any) -> None: ...

    def close(self) -> None: ...


def in_threads(opened: Callable[[], Client], clients: int, seconds: float) -> Samples:
    """A thread a client: with psycopg that came out faster than one loop for all."""
    samples, opened_all = Samples(), [opened() for _ in range(clients)]
    for number, one in enumerate(opened_all):
        one.free(f"warm-{number}", one.take(f"warm-{number}"))
    started = threading.Barrier(clients + 1)

    def client(number: int, one: Client) -> None:
        count = 0
        started.wait()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            count += 1
            began = time.perf_counter()
            slot = one.take(f"{number}-{count}")
            taken = time.perf_counter()
            if slot is None:
                samples.refuse(0)
                continue
            one.free(f"{number}-{count}", slot)
            samples.acquire_s.append(taken - began)
            samples.release_s.append(time.perf_counter() - taken)

    threads = [threading.Thread(target=client, args=(number, one)) for number, one in enumerate(opened_all)]
    for thread in threads:
        thread.start()
    started.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    samples.took_s = time.perf_counter() - began
    samples.pairs = len(samples.release_s)
    for one in opened_all:
        one.close()
    return samples


def serve(pairs: Callable[[int, float], Samples]) -> None:
    """Does as it is told until nothing more is said."""
    for line in sys.stdin:
        clients, seconds = line.split()
        print(json.dumps(asdict(pairs(int(clients), float(seconds)))), flush=True)
