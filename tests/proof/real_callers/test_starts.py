"""Start calls that go wrong: each job is started once, or refunded once."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest

from tests.proof.real_callers.conftest import OpenScene
from tests.proof.real_callers.scene import PRICE
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_one_that_cannot_be_started_is_refunded_in_the_answer(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        answer = scene.asks("a", answers=["fails"])
        assert (answer["success"], answer["refunded"]) == (False, True) and answer["error"]
        await scene.row_is("a", "failed")
        await until(lambda: scene.paid("a") == 0, "it is paid back")
        assert not scene.simulator.seen()["tasks"]


@pytest.mark.parametrize("how", ["breaks", "loses"])
async def test_it_is_called_again_and_starts_once(open_scene: OpenScene, how: str) -> None:
    async with open_scene() as scene:
        answer = scene.asks("a", answers=[how, how])
        await scene.row_is("a", "completed")
        calls = scene.side.account.starts_of("a")
        assert [call.answered for call in calls] == [500, 500, 200] and len({call.webhook_id for call in calls}) == 1
        assert [task["taskId"] for task in scene.simulator.seen()["tasks"]] == [answer["taskId"]]
        assert scene.paid("a") == PRICE


async def test_a_refusal_costs_neither_place_nor_money(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        answer = scene.asks("a", answers=["refuses"])
        assert answer["success"] and "taskId" not in answer
        await scene.row_is("a", "completed")
        assert scene.side.account.statuses("a")[-5:] == ["granted", "queued", "granted", "running", "completed"]
        first, second = scene.side.account.starts_of("a")
        assert first.webhook_id != second.webhook_id and scene.paid("a") == PRICE


async def test_one_that_takes_longer_than_the_claim_time_keeps_its_own_slot_and_starts(open_scene: OpenScene) -> None:
    async with open_scene({"claim_seconds": 1}) as scene:
        hanging = asyncio.create_task(asyncio.to_thread(scene.asks, "a", answers=["hangs"]))
        await until(lambda: scene.side.account.starts_of("a"), "it is called")
        began = time.monotonic()
        for job_id in "bcd":
            assert scene.asks(job_id)["taskId"]
            await scene.row_is(job_id, "completed")
        await until(lambda: time.monotonic() - began > 3, "three claim times pass")
        assert scene.job("a")["status"] == "granted"
        scene.side.let_go()
        assert (await hanging)["taskId"]
        await scene.row_is("a", "completed")
        assert len(scene.side.account.starts_of("a")) == 1 and scene.paid("a") == PRICE


async def test_gate_killed_in_the_middle_of_a_start_call_calls_again_at_once_and_starts_once(open_scene: OpenScene) -> None:
    async with open_scene({"claim_seconds": 20}) as scene:
        cut_off = asyncio.create_task(asyncio.to_thread(scene.asks, "a", answers=["hangs"]))
        await until(lambda: scene.side.account.starts_of("a"), "it is called")
        scene.server.kill()
        with pytest.raises(httpx2.TransportError):
            await cut_off
        scene.server.start()
        await scene.row_is("a", "completed")
        first, second = scene.side.account.starts_of("a")
        assert first.webhook_id == second.webhook_id and len(scene.simulator.seen()["tasks"]) == 1
        assert scene.paid("a") == PRICE
