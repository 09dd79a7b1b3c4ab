"""The owner's functions in the ledger's Postgres, well and not well. What they do is in the same transaction as gate's refund."""

from __future__ import annotations

import pytest

from tests.proof.real_callers.conftest import OpenScene
from tests.proof.real_callers.scene import PRICE, Scene
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def owed(scene: Scene, job_id: str) -> bool:
    refund = scene.job(job_id)["refund"]
    return bool(refund) and refund == {"amount": PRICE, "at": None, "owed": True}


async def test_the_owners_price_wins_over_what_a_browser_says(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        assert scene.money is not None
        scene.money.charge("upscaler_jobs", "a", "ana", PRICE)
        scene.money.charge("upscaler_jobs", "b", "ana", PRICE, charged=False)
        for job_id in "ab":
            payload = {"answers": ["fails"]}
            scene.run_or_queue(job_id, userId="somebody else", creditCost=1_000, job_payload=payload)
            await scene.row_is(job_id, "failed")
        await until(lambda: scene.money.refunds() == {"a": [PRICE]}, "what was charged is paid back")
        assert [(scene.job(job_id)["user"], scene.job(job_id)["credits"]) for job_id in "ab"] == [("ana", PRICE), ("ana", 0)]
        assert scene.run_or_queue("c", userId="ana", creditCost=5).status_code == 404, "its owner does not know it"
        scene.money.charge("upscaler_jobs", "d", "ana", PRICE)
        assert scene.run_or_queue("d", table="veste_ai_jobs", userId="ana").status_code == 404, "not in that table"


async def test_a_refund_that_cannot_be_paid_is_owed_and_paid_once(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        assert scene.money is not None
        scene.money.switch("refund", "raises")
        scene.asks("a", answers=["fails"])
        await until(lambda: owed(scene, "a"), "it is owed")
        assert scene.money.refunds() == {}
        scene.money.switch("refund", "works")
        await until(lambda: scene.money.refunds() == {"a": [PRICE]}, "it is paid", 30)
        await until(lambda: not owed(scene, "a"), "and not owed any more")


async def test_a_function_that_hangs_delays_no_caller(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        assert scene.money is not None
        scene.money.switch("refund", "sleeps", seconds=3600)
        scene.asks("a", answers=["fails"])
        await until(lambda: owed(scene, "a"), "it is owed")
        for job_id in "bcd":
            assert scene.asks(job_id)["taskId"]
            await scene.row_is(job_id, "completed")
        scene.money.switch("refund", "works")
        await until(lambda: scene.money.refunds() == {"a": [PRICE]}, "it is paid", 30)


async def test_functions_that_fail_half_the_time(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        assert scene.money is not None
        scene.money.switch("refund", "raises", share=0.5)
        names = [f"j{number}" for number in range(8)]
        scene.burst(*names, answers=["fails"])
        for job_id in names:
            await scene.row_is(job_id, "failed", within_s=30)
        await until(lambda: scene.money.hurry() or len(scene.money.refunds()) == len(names), "all are paid back", 60)
        assert scene.money.refunds() == {job_id: [PRICE] for job_id in names}


async def test_without_a_price_from_the_owner_no_job_is_admitted(open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        assert scene.money is not None
        scene.money.switch("job", "raises")
        assert "success" not in scene.asks("a")
        assert scene.pool()["running"] == 0 and not scene.side.account.starts
        scene.money.switch("job", "works")
        assert scene.run_or_queue("a", userId="user-a").json()["taskId"]
        await scene.row_is("a", "completed")
