"""The owner's validation, end to end: front end, functions, money and provider around a real `gate serve`.

Three run, the fourth waits; one that is done makes room, and gate starts the next by itself; one whose callback is lost costs
nothing. The provider never counts a fourth.
"""

from __future__ import annotations

import pytest

from tests.proof.real_callers.conftest import OpenScene
from tests.proof.real_callers.scene import PRICE
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_a_burst_of_four_and_a_callback(open_scene: OpenScene) -> None:
    async with open_scene(seconds=60) as scene:
        answers = scene.burst("a", "b", "c", "d")
        (fourth,) = (job_id for job_id, answer in answers.items() if answer["queued"])
        first, *others = answers.keys() - {fourth}
        assert all(answer["success"] for answer in answers.values())
        assert (answers[fourth]["position"], answers[fourth]["totalQueued"], "taskId" in answers[fourth]) == (1, 1, False)
        seen = scene.simulator.seen()
        assert {task["taskId"] for task in seen["tasks"]} == {answers[job_id]["taskId"] for job_id in (first, *others)}
        assert (seen["running"], seen["most_running"], seen["refused"]) == (3, 3, 0)
        for job_id in answers:
            await scene.row_is(job_id, "queued" if job_id == fourth else "running")

        scene.end(first)
        await scene.row_is(first, "completed")
        await scene.row_is(fourth, "running")
        seen = scene.simulator.seen()
        assert (seen["running"], seen["most_running"], seen["refused"]) == (3, 3, 0)
        (task,) = scene.side.account.tasks_of(fourth)
        assert scene.job(fourth)["task"] == {"provider": "runninghub", "task_id": task.task_id}
        assert scene.job(first)["output"]["files"] and scene.paid(first) == PRICE
        for job_id in (fourth, *others):
            scene.end(job_id)


async def test_lost_callbacks(open_scene: OpenScene) -> None:
    """Four of them: each holds its slot for a lease, and not for longer."""
    async with open_scene({"lease_seconds": 2}, callback="lost") as scene:
        assert scene.money is not None
        answers = scene.burst("a", "b", "c", "d")
        (fourth,) = (job_id for job_id, answer in answers.items() if answer["queued"])
        for job_id in answers:
            await scene.row_is(job_id, "failed")
            job = scene.job(job_id)
            assert (job["status"], job["end_reason"], job["late_outcome"]) == ("expired", "lease_timeout", None)
        assert scene.side.account.statuses(fourth)[-3:] == ["granted", "running", "expired"], "it had its turn"
        await until(lambda: len(scene.money.refunds()) == 4, "all four are paid back")
        assert scene.money.refunds() == {job_id: [PRICE] for job_id in "abcd"}
        assert [scene.paid(job_id) for job_id in answers] == [0] * 4
        pool, seen = scene.pool(), scene.simulator.seen()
        assert (pool["free"], pool["running"], pool["queued"]) == (3, 0, 0)
        assert seen["most_running"] <= 3 and seen["refused"] == 0


async def test_a_callback_that_comes_too_late_changes_no_outcome(open_scene: OpenScene) -> None:
    async with open_scene({"lease_seconds": 1}) as scene:
        scene.asks("a", plans=[{"late": 2}])
        await scene.row_is("a", "failed")
        await until(lambda: scene.job("a")["late_outcome"] == "completed", "what came too late is kept")
        assert scene.job("a")["status"] == "expired" and scene.side.account.rows == {"a": "failed"}
        await until(lambda: scene.paid("a") == 0, "it is paid back")


async def test_a_cancelled_job_is_cancelled_at_the_provider(open_scene: OpenScene) -> None:
    async with open_scene(seconds=60) as scene:
        answers = scene.burst("a", "b", "c", "d")
        (fourth,) = (job_id for job_id, answer in answers.items() if answer["queued"])
        first, *others = answers.keys() - {fourth}
        body = {"p_table_name": "upscaler_jobs", "p_job_id": first}
        assert scene.server.post("/rest/v1/rpc/user_cancel_ai_job", body).json()[0]["success"]
        await until(lambda: any(task["cancelled"] for task in scene.simulator.seen()["tasks"]), "its task is cancelled")
        await scene.row_is(first, "cancelled")
        await scene.row_is(fourth, "running", within_s=30)  # refused, if it was there before the first was gone
        for job_id in (fourth, *others):
            scene.end(job_id)
        await until(lambda: scene.paid(first) == 0, "it is paid back")
