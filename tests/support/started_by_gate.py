"""A gate whose jobs are started by start calls, the calls of the old paths, and a callback of the provider."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.tool import Tool

TABLE = "upscaler_jobs"

MANAGER = "/functions/v1/runninghub-queue-manager"

TOKEN = '[providers.runninghub]\ntoken = "t0ken"\n'


@pytest.fixture
def tool() -> Iterator[Tool]:
    with Tool().running() as running:
        yield running


@contextlib.contextmanager
def serving(folder: Path, tool: Tool, more: str = "", events: bool = True, **environment: str) -> Iterator[Served]:
    with Served(folder, config=tool.config(events=events) + TOKEN + more, **environment) as served:
        yield served


def enqueue(served: Served, table: str = TABLE, **body: Any) -> tuple[str, Any]:
    job_id = fresh()
    answer = served.post(f"{MANAGER}/run-or-queue", {"table": table, "jobId": job_id, "creditCost": 10} | body)
    return job_id, answer


def job(served: Served, job_id: str, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/v1/pools/default/jobs/{job_id}", params=query).json()
    return found


def call_back(served: Served, task_id: str, **event: Any) -> str:
    data = {"code": 0, "msg": "success", "data": [{"fileUrl": "https://f/1.png", "fileType": "png"}]} | event
    body = {"event": "TASK_END", "taskId": task_id, "eventData": data}
    answer = served.post("/functions/v1/runninghub-webhook?token=t0ken", body)
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["result"]
    return said


def quietly(served: Served, body: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):
        served.post(f"{MANAGER}/enqueue", body)
