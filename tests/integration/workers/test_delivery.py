"""Calls to tools: each at least once, in order for each job, by one server at a time; a tool that hangs delays no other."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gate.ledger import Delivery
from gate.ledger.transitions import deliveries
from gate.model.job import Request
from gate.model.tool import Tool as Named
from gate.model.tool import Tools
from gate.runtime.wiring import ExternalServices, RunningGate, open_gate
from gate.workers import delivery as deliver
from gate.workers.webhook_client import WebhookClient, WebhookResponse
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.script_lane import settings_of
from tests.support.started_by_gate import MANAGER, TABLE, enqueue, job, quietly, serving, tool
from tests.support.tool import SECRET, Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
__all__ = ["tool"]


def job_ids(served: Served) -> list[str]:
    return [one["job_id"] for one in served.http.get("/v1/pools/default").json()["holders"]]


@contextlib.asynccontextmanager
async def two_servers(valkey: str, pool: str, sql_url: str, tool: Tool) -> AsyncIterator[list[RunningGate]]:
    named = Named(TABLE, TABLE, "runninghub", f"{tool.url}/start", f"{tool.url}/events", SECRET)
    async with contextlib.AsyncExitStack() as closing:
        yield [
            await closing.enter_async_context(
                open_gate(valkey, sql_url, {pool: settings_of(limit=40)}, outside=ExternalServices(Tools({TABLE: named})))
            )
            for _ in range(2)
        ]


def call_for(table: str = TABLE, kind: str = "start") -> Delivery:
    body = json.dumps({"type": f"job.{kind}", "data": {"job_id": "j"}})
    return Delivery(1, "msg_1", "j", "default", table, kind, f"job.{kind}", body, 1, "lease")


async def test_a_call_under_way_when_gate_is_killed_is_made_again_by_the_same_name(tmp_path: Path, tool: Tool) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        asked.set()
        go.wait(20)
        return 200, {"task_id": "once"}

    tool.answer = slow
    with serving(tmp_path, tool) as served:
        job_id = fresh()
        body = {"table": TABLE, "jobId": job_id}
        asking = threading.Thread(target=quietly, args=(served, body))
        asking.start()
        assert asked.wait(10)
        served.kill()
        asking.join()
        go.set()
        served.start()
        await until(lambda: job(served, job_id)["status"] == "running", "it is started after all")
        starts = tool.starts(job_id)
        assert len(starts) == 2 and len({call.webhook_id for call in starts}) == 1
        assert starts[0].body == starts[1].body
        await until(lambda: tool.told(job_id)[-1:] == ["job.running"], "every change is told")
        assert list(dict.fromkeys(tool.told(job_id))) == ["job.queued", "job.granted", "job.running"]


async def test_events_of_a_job_wait_for_each_other_and_other_jobs_do_not(tmp_path: Path, tool: Tool) -> None:
    away: set[str] = set()
    tool.events_answer = lambda body: 500 if body["data"]["job_id"] in away else 204
    with serving(tmp_path, tool) as served:
        stuck, other = fresh(), fresh()
        away.add(stuck)
        for job_id in (stuck, other):
            assert served.post(f"{MANAGER}/run-or-queue", {"table": TABLE, "jobId": job_id}).json()["success"]
        await until(lambda: tool.told(other)[-1:] == ["job.running"], "the other job is told of")
        assert set(tool.told(stuck)) == {"job.queued"}, "the second waits for the first"
        assert job(served, stuck)["status"] == "running", "and holds up nothing else"
        away.clear()
        await until(lambda: tool.told(stuck)[-1:] == ["job.running"], "the rest is told")
        assert list(dict.fromkeys(tool.told(stuck))) == ["job.queued", "job.granted", "job.running"]


async def test_a_tool_that_hangs_is_in_nobodys_way(tmp_path: Path, tool: Tool) -> None:
    go = threading.Event()
    tool.answer = lambda body: (go.wait(30), (200, {}))[1]
    tool.events_answer = lambda body: (go.wait(30), 204)[1]
    with Tool().running() as other, serving(tmp_path, tool, other.config("pose_changer_jobs"), GATE_LIMIT="60") as served:
        try:
            hanging = [threading.Thread(target=quietly, args=(served, {"table": TABLE, "jobId": fresh()})) for _ in range(20)]
            for one in hanging:
                one.start()
            await until(lambda: len(job_ids(served)) == 20, "they hold their slots")
            began = time.monotonic()
            for _ in range(20):
                taken = served.acquire().json()
                assert served.act(taken, "release", outcome="completed").status_code == 200
            _, said = enqueue(served, "pose_changer_jobs")
            assert said.json()["taskId"], "another tool's job is started"
            assert time.monotonic() - began < 5
        finally:
            go.set()
            for one in hanging:
                one.join()


async def test_two_servers_never_call_at_once_for_one_grant(valkey: str, pool: str, sql_url: str, tool: Tool) -> None:
    async with two_servers(valkey, pool, sql_url, tool) as servers:
        names = [fresh() for _ in range(40)]
        for n, name in enumerate(names):
            await servers[n % 2].services.admission.enqueue(pool, Request(name, tool=TABLE))
        await until(lambda: len(tool.starts()) >= 40, "all are started")
        await until(lambda: all(tool.told(name)[-1:] == ["job.running"] for name in names), "all is told")
        for name in names:
            assert len(tool.starts(name)) == 1
            assert tool.told(name) == ["job.queued", "job.granted", "job.running"], "once, and in order"
            done = await servers[0].services.queries.job(pool, name)
            await servers[0].services.jobs.release(pool, name, done.lease_id or "", "completed")


async def test_a_row_is_held_until_its_call_is_over_or_held_again() -> None:
    assert deliver.HOLD_MS["event"] >= deliver.ANSWER_S["event"] * 1000 + 1000
    assert deliver.HOLD_MS["start"] >= 2 * deliver.HOLD_AGAIN_S * 1000 + 1000
    assert (
        deliver.CALLED_WITHIN_S["start"] > deliver.FIRST_HOLD_S
        and deliver.CALLED_WITHIN_S["event"] >= deliver.ANSWER_S["event"]
    )
    assert deliveries.GIVE_UP_MS == 24 * 3600 * 1000


async def test_a_row_that_was_taken_too_long_ago_is_given_back_uncalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another server's by the time the call is over: this one stood still, or its commit took its time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(deliver, "time", SimpleNamespace(monotonic=lambda: clock.now))
    called: list[Delivery] = []
    put_off = asyncio.Event()

    class Rows:
        async def take(self, *_how: object) -> list[Delivery]:
            clock.now += deliver.HOLD_MS["start"] / 1000 - deliver.CALLED_WITHIN_S["start"] + 0.1
            return [call_for()]

        async def put_off(self, *_how: object) -> bool:
            put_off.set()
            return True

    class Calls:
        async def call(self, _tool: Named, delivery: Delivery, _within_s: float) -> WebhookResponse:
            called.append(delivery)
            return WebhookResponse(None, {})

    tools = Tools({TABLE: Named(TABLE, TABLE, start_url="http://127.0.0.1:1/start")})
    delivering = deliver.DeliveryWorker(cast(Any, Rows()), tools, cast(Any, None), cast(Any, Calls()))
    await delivering._take()
    await asyncio.wait_for(put_off.wait(), 5)
    assert not called


async def test_tools_that_hang_leave_room_for_the_calls_of_another(tool: Tool) -> None:
    hung, go = itertools.count(1), asyncio.Event()
    many = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(hung) == 100:
            many.set()
        await go.wait()
        writer.close()

    caller = WebhookClient()
    async with await asyncio.start_server(hang, "127.0.0.1", 0, backlog=200) as server:
        port = server.sockets[0].getsockname()[1]
        hangs = Named(TABLE, TABLE, start_url=f"http://127.0.0.1:{port}/start", secret=SECRET)
        good = Named(TABLE, TABLE, start_url=f"{tool.url}/start", secret=SECRET)
        hanging = [asyncio.create_task(caller.call(hangs, call_for(), 20)) for _ in range(120)]
        try:
            await asyncio.wait_for(many.wait(), 10)
            assert (await caller.call(good, call_for(), 5)).good
        finally:
            go.set()
            await asyncio.gather(*hanging)
            await caller.aclose()


async def test_of_an_answer_nothing_is_unpacked_and_no_cookie_is_kept() -> None:
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        packed = gzip.compress(b'{"task_id": "packed"}')
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n" + packed)
        await writer.drain()
        writer.close()

    caller = WebhookClient()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        named = Named(TABLE, TABLE, start_url=f"http://127.0.0.1:{port}/start", secret=SECRET)
        answers = [await caller.call(named, call_for(), 10) for _ in range(2)]
        await caller.aclose()
    assert all(one.good and one.task_id is None for one in answers)
    assert all("accept-encoding: identity" in head and "cookie:" not in head for head in heads), heads
