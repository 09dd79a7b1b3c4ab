"""Values that are refused before they are sent, and answers that are refused when they come."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from gate.client import AsyncGate, Gate, GateError, Invalid, WrongJob
from tests.unit.client.test_slot_machine import body


def answering(content: dict[str, Any]) -> Gate:
    gate = Gate("http://gate", retry_seconds=0.1)
    gate._http = httpx2.Client(
        base_url="http://gate", transport=httpx2.MockTransport(lambda request: httpx2.Response(200, json=content))
    )
    return gate


def test_answer_about_another_job_is_refused() -> None:
    with answering(body("running", job_id="dog")) as gate:
        with pytest.raises(WrongJob, match=r"cat.*dog") as refused:
            gate.acquire(job_id="cat")
        assert refused.value.job is None, "its lease_id is a secret of another caller"
        with pytest.raises(WrongJob):
            gate.renew("default", "cat", "L1")
        with pytest.raises(WrongJob):
            gate.job("default", "cat")
        assert gate.job("default", "dog").job_id == "dog"


def test_redirect_is_an_error_that_says_where_to() -> None:
    moved = httpx2.Response(301, headers={"location": "https://gate.example/v1/pools/default?key=secret"})
    with Gate("http://gate") as gate:
        gate._http = httpx2.Client(base_url="http://gate", transport=httpx2.MockTransport(lambda request: moved))
        with pytest.raises(GateError, match=r"redirects to https://gate\.example/v1/pools/default: use") as refused:
            gate.pool()
    assert (refused.value.code, refused.value.status) == ("redirected", 301)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 60.5, 1e12])
def test_wait_seconds_out_of_range_is_a_gate_error(seconds: float) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(422, json={"code": "invalid", "title": "no", "errors": [{"field": "wait_seconds"}]})

    with Gate("http://gate") as gate:
        gate._http = httpx2.Client(base_url="http://gate", transport=httpx2.MockTransport(refuse))
        for call in (lambda: gate.acquire(wait_seconds=seconds), lambda: gate.job("default", "cat", wait_seconds=seconds)):
            with pytest.raises(Invalid) as wrong:
                call()
            assert wrong.value.field == "wait_seconds"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_wait_seconds_of_a_slot_out_of_range_is_a_gate_error(seconds: float) -> None:
    with Gate("http://gate") as gate, pytest.raises(Invalid, match="wait_seconds"):
        gate.slot(wait_seconds=seconds)


def test_payload_that_is_no_json_is_a_gate_error() -> None:
    with Gate("http://gate") as gate, pytest.raises(Invalid) as wrong:
        gate.acquire(payload={"at": object()})
    assert wrong.value.field == "payload"


def test_call_after_close_is_a_gate_error() -> None:
    gate = Gate("http://gate")
    gate.close()
    with pytest.raises(GateError) as refused:
        gate.pool()
    assert refused.value.code == "closed"

    async def after_close() -> None:
        own = AsyncGate("http://gate")
        await own.aclose()
        await own.pool()

    with pytest.raises(GateError, match="closed"):
        asyncio.run(after_close())


RUNNING, ENDED = body("running"), body("completed")


def test_release_that_a_signal_interrupts_is_made_again() -> None:
    releases: list[Any] = []

    def interrupt_once(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/release"):
            releases.append(json.loads(request.content))
            if len(releases) == 1:
                raise SystemExit(143)
            return httpx2.Response(200, json=ENDED)
        return httpx2.Response(200, json=RUNNING)

    gate = Gate("http://gate")
    gate._http = httpx2.Client(base_url="http://gate", transport=httpx2.MockTransport(interrupt_once))
    with pytest.raises(SystemExit), gate, gate.slot(job_id="cat") as lease:
        lease.complete("done")
    assert [(sent["outcome"], sent["output"]) for sent in releases] == [("completed", "done")] * 2


def test_release_that_ends_with_its_loop_is_made_again() -> None:
    releases: list[Any] = []

    async def cancel_all_once(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/release"):
            releases.append(json.loads(request.content))
            if len(releases) == 1:
                for task in asyncio.all_tasks():  # as asyncio.run does when the loop is stopped from outside
                    task.cancel()
                await asyncio.Event().wait()
            return httpx2.Response(200, json=ENDED)
        return httpx2.Response(200, json=RUNNING)

    async def work() -> None:
        async with AsyncGate("http://gate") as gate:
            gate._http = httpx2.AsyncClient(base_url="http://gate", transport=httpx2.MockTransport(cancel_all_once))
            async with gate.slot(job_id="cat") as lease:
                lease.complete("done")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert [(sent["outcome"], sent["output"]) for sent in releases] == [("completed", "done")] * 2
