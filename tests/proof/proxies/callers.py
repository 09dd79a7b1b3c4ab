"""Callers of gates behind a proxy. They repeat nothing, so each failure of the proxy is counted."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import httpx2

from tests.support.names import fresh


class Callers:
    """For each proxy one thread that takes and gives back slots, and one that waits in calls.

    Attributes:
        answers: Number of answers by proxy and status, or the name of the error.
        failed: What was no answer of gate.
    """

    def __init__(self, urls: dict[str, str], pool: str = "default") -> None:
        self.answers: Counter[tuple[str, object]] = Counter()
        self.failed: list[str] = []
        self._ended = threading.Event()
        self._pool = pool
        self._threads = [
            threading.Thread(target=self._loop, args=(name, url, work))
            for name, url in urls.items()
            for work in (self._pair, self._wait)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _loop(self, name: str, url: str, work: object) -> None:
        with httpx2.Client(base_url=f"{url}/v1/pools/{self._pool}", timeout=30) as client:
            while not self._ended.is_set():
                work(name, client)  # type: ignore[operator]

    def _pair(self, name: str, client: httpx2.Client) -> None:
        job_id = fresh()
        job = self._call(name, client, "POST", "/acquire", json={"job_id": job_id})
        if job is not None and job.get("lease"):
            body = {"lease_id": job["lease"]["lease_id"], "outcome": "completed"}
            self._call(name, client, "POST", f"/jobs/{job_id}/release", json=body)
        self._ended.wait(0.02)

    def _wait(self, name: str, client: httpx2.Client) -> None:
        """Wait for the end of a job that another caller holds for the whole test. A server that stops answers early."""
        self._call(name, client, "GET", "/jobs/held", params={"wait_seconds": 5, "status": "running"})
        self._ended.wait(0.05)

    def _call(self, name: str, client: httpx2.Client, method: str, path: str, **more: object) -> dict[str, object] | None:
        try:
            answer = client.request(method, path, **more)  # type: ignore[arg-type]
        except httpx2.HTTPError as error:
            self.answers[name, type(error).__name__] += 1
            self.failed.append(f"{name}: {method} {path}: {error!r}")
            return None
        self.answers[name, answer.status_code] += 1
        if answer.status_code not in (200, 202):
            self.failed.append(f"{name}: {method} {path}: {answer.status_code} {answer.text[:200]}")
            return None
        found: dict[str, object] = answer.json()
        return found
