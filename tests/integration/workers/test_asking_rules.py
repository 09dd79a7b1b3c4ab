"""What gate does with each answer of a provider: on real stores, with answers that the test gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from gate.diagnostics.verify import verify
from gate.ledger import Question, Questions
from gate.ledger.sql import tables
from gate.model.account import Account, Accounts
from gate.model.errors import AlreadyEnded
from gate.model.job import Job
from gate.model.messages import Answer, AnswerState, ErrorKind, ProviderReport
from gate.model.tool import Tool, Tools
from gate.providers import PAGES
from gate.runtime.wiring import ExternalServices, open_gate
from gate.workers.asking import AskingWorker
from gate.workers.provider_client import NoReply
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio
RUNNING = Answer(AnswerState.RUNNING, "RUNNING")
UNKNOWN = Answer(AnswerState.UNKNOWN, "807")


def ended(outcome: Any, is_without_output: bool = False, **report: Any) -> Answer:
    return Answer(
        AnswerState.ENDED, outcome, ProviderReport(outcome, "1", "task", **report), is_without_output=is_without_output
    )


class Provider:
    """A provider in the hand of the test: its next answers, one for each request; None for no reply."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []

    async def answer(self, account: Account, request: Any, read: Any, within_s: float) -> Answer:
        answer = self.answers.pop(0)
        if answer is None:
            raise NoReply("no reply within 10 s")
        return answer


class Asked:
    """A gate with one slot and an account, whose questions the test asks by hand."""

    def __init__(self, house: House, account: Account) -> None:
        services, registry = house.gate.services, house.gate.registry
        self.house, self.provider = house, Provider()
        self.questions = Questions(house.gate.ledger._database, "the test")
        self.accounts = Accounts([account])
        self.account = account
        self.worker = AskingWorker(
            self.questions,
            self.accounts,
            PAGES,
            services.jobs,
            registry,
            self.provider,  # type: ignore[arg-type]
        )

    async def start(self, **request: Any) -> Job:
        job = await self.house.acquire(credits=5, **request)
        return await self.house.keeper.bind(self.house.pool, job.job_id, "runninghub", "task", job.lease_id)

    async def change(self, table: sa.Table, **values: Any) -> None:
        work = table.update().values(**values)
        await self.house.gate.ledger._database.write("", "", lambda batch: batch.connection.execute(work) and None)

    async def ask(self, *answers: Answer | None, **before: Any) -> Question:
        """Ask now, and answer; `before` changes the row of the task first."""
        await self.change(tables.tasks, ask_at=0, **before)
        self.provider.answers = list(answers)
        (question,) = await self.questions.take(
            [self.account], {("runninghub", self.account.name, stops): 1 for stops in (False, True)}, 60_000
        )
        await self.worker._ask(question)
        return question

    async def nearly_over(self, left_ms: int = 1_000) -> int:
        """Let the lease of every job be nearly over by what SQL has."""
        due = self.house.gate.registry.expected_ms(self.house.pool) + left_ms
        await self.change(tables.jobs, expires_at=due)
        return due

    async def extended(self) -> int:
        [row] = await self.house.gate.ledger._database.read(
            lambda c: list(c.execute(sa.select(tables.jobs.c.expires_at).where(tables.jobs.c.ended_at.is_(None))))
        )
        return int(row.expires_at)

    def deadline(self, job: Job) -> int:
        """Return the deadline of the job's slot in Redis (ms since 1970)."""
        return int(self.house.people.zscore(self.house.key("slots"), job.job_id) or 0)

    def entry(self, job: Job) -> dict[str, Any]:
        raw = self.house.people.hget(self.house.key("jobs"), job.job_id)
        return json.loads(str(raw)) if raw else {}

    @property
    def held(self) -> int:
        return int(self.house.people.zcard(self.house.key("slots")))


@pytest.fixture
async def asked(valkey: str, pool: str, sql_url: str, people: Any) -> AsyncIterator[Asked]:
    account = Account("runninghub", "first", pool, "a key of the test", "http://127.0.0.1:9", silence_ms=60_000)
    outside = ExternalServices()
    async with open_gate(valkey, sql_url, {pool: settings_of(limit=1)}, outside=outside) as gate:
        house = House(gate, pool, valkey, sql_url, people)
        # The gate knows the account, and has no worker of its own that would ask.
        gate.services.jobs._accounts = gate.registry._accounts = gate.reconciler._accounts = Accounts([account])
        gate.services.admission._accounts = gate.services.admission._places._accounts = Accounts([account])
        yield Asked(house, account)
        await house.settled()
        report = verify(sql_url, valkey)
        assert not report.breaches, report.breaches


async def test_an_answer_that_names_an_end_ends_the_job_as_a_callback_does(asked: Asked) -> None:
    job = await asked.start()
    await asked.ask(ended("completed", output={"files": [{"url": "https://f/1.png"}]}))
    found = await asked.house.look(job)
    assert (found.status, found.ended_by, found.refund) == ("completed", "provider", None) and asked.held == 0
    assert await asked.questions.due_in_s([asked.account]) is None


async def test_a_callback_after_the_answer_is_a_repeat(asked: Asked) -> None:
    job = await asked.start()
    await asked.ask(ended("failed", error="it broke"))
    heard = await asked.house.keeper.hear(asked.house.pool, "runninghub", ProviderReport("failed", "1", "task"), "{}")
    assert heard == "repeat" and await asked.house.refunds(job) == [5]


async def test_a_task_that_runs_keeps_its_lease(asked: Asked) -> None:
    await asked.start()
    due = await asked.nearly_over()
    await asked.ask(RUNNING)
    assert await asked.extended() > due + 500_000


async def test_an_answer_extends_a_lease_that_needs_no_hold_before_the_question(asked: Asked) -> None:
    await asked.start()
    due = await asked.nearly_over(200_000)
    await asked.ask(RUNNING)
    assert await asked.extended() > due + 300_000


async def test_an_answer_extends_the_lease_in_both_stores(asked: Asked) -> None:
    job = await asked.start()
    before = asked.deadline(job)
    await asked.nearly_over()
    await asked.ask(RUNNING)
    assert before <= asked.deadline(job) == await asked.extended()


async def test_a_failure_that_is_tried_again_leaves_its_slot_at_once(asked: Asked) -> None:
    asked.house.keeper._tools = Tools({"upscaler": Tool("upscaler", "Upscaler", retry=1)})
    job = await asked.start(tool="upscaler")
    await asked.change(tables.jobs, starts=True)
    await asked.ask(ended("failed", error="it broke", error_kind=ErrorKind.INFRASTRUCTURE))
    assert int(asked.entry(job)["fence"]) > job.fence and asked.held == 1, (
        "it is at its place, and the free slot is its own again"
    )
    found = await asked.house.granted(job)
    assert (found.retries, found.refund) == (1, None) and await asked.house.refunds(job) == []


async def test_a_lease_with_half_of_its_time_left_is_not_extended(asked: Asked) -> None:
    await asked.start()
    before = await asked.extended()
    await asked.ask(RUNNING)
    assert await asked.extended() == before


@pytest.mark.parametrize("answer", [None, Answer(AnswerState.BUSY, "503"), Answer(AnswerState.UNCLEAR, "<html>")])
async def test_silence_holds_the_lease_for_a_bounded_time(asked: Asked, answer: Answer | None) -> None:
    await asked.start()
    due = await asked.nearly_over()
    question = await asked.ask(answer)
    assert await asked.extended() > due
    due = await asked.nearly_over()
    await asked.ask(answer, silent_since=question.asked_at - 60_001)
    assert await asked.extended() == due


async def test_a_task_that_is_unknown_twice_is_not_extended(asked: Asked) -> None:
    await asked.start()
    due = await asked.nearly_over()
    question = await asked.ask(UNKNOWN)
    assert await asked.extended() > due
    due = await asked.nearly_over()
    await asked.ask(UNKNOWN, denied_at=question.asked_at - 10_000)
    assert await asked.extended() == due


async def test_a_success_without_output_counts_when_it_is_said_twice(asked: Asked) -> None:
    job = await asked.start()
    empty = ended("failed", error="the task succeeded without output", is_without_output=True)
    await asked.ask(empty)
    assert await asked.house.status(job) == "running"
    await asked.ask(empty)
    assert await asked.house.status(job) == "failed" and await asked.house.refunds(job) == [5]


async def test_the_slot_of_a_cancelled_job_drains_until_its_task_is_over(asked: Asked) -> None:
    job = await asked.start()
    waiter = await asked.house.acquire()
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    assert asked.entry(job)["drains"] and await asked.house.status(waiter) == "queued"
    await asked.ask(RUNNING, RUNNING)
    assert await asked.house.status(waiter) == "queued"
    await asked.ask(RUNNING, ended("cancelled"))
    assert (await asked.house.granted(waiter)).status == "granted" and asked.held == 1


async def test_an_end_that_is_said_again_leaves_a_draining_slot(asked: Asked) -> None:
    job = await asked.start()
    for _ in range(2):
        await asked.house.keeper.cancel(asked.house.pool, job.job_id)
        assert asked.entry(job)["drains"]


async def test_a_repeated_acquire_leaves_a_draining_slot(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    with pytest.raises(AlreadyEnded):
        await asked.house.acquire(job.job_id, credits=5)
    assert asked.entry(job)["drains"]


async def test_the_last_stop_of_a_lease_frees_its_slot(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.bind(asked.house.pool, job.job_id, "runninghub", "task-2", job.lease_id)
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    await asked.ask(ended("cancelled"))
    assert asked.entry(job)["drains"]
    await asked.ask(ended("cancelled"))
    assert asked.held == 0


async def test_a_task_that_another_has_replaced_is_stopped_with_its_job(asked: Asked) -> None:
    job = await asked.start()
    await asked.change(tables.tasks, ask_at=2**52)
    await asked.house.keeper.bind(asked.house.pool, job.job_id, "runninghub", "task-2", job.lease_id)
    first = tables.tasks.c.task_id == "task"
    work = tables.tasks.update().where(first).values(ask_at=0)
    await asked.house.gate.ledger._database.write("", "", lambda batch: batch.connection.execute(work) and None)
    asked.provider.answers = [RUNNING]
    lanes = {("runninghub", asked.account.name, False): 1}
    (question,) = await asked.questions.take([asked.account], lanes, 60_000)
    await asked.worker._ask(question)
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    stops = {("runninghub", asked.account.name, True): 9}
    assert {one.task_id for one in await asked.questions.take([asked.account], stops, 1)} == {"task", "task-2"}


async def test_a_stop_that_is_confirmed_before_the_drain_frees_the_slot(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.gate.ledger.end(asked.house.pool, job.job_id, "cancelled", by="operator")
    await asked.ask(ended("cancelled"))
    assert asked.held == 0


async def test_a_stopped_task_that_the_provider_does_not_know_twice_is_over(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    await asked.ask(UNKNOWN, UNKNOWN)
    assert asked.held == 1
    await asked.ask(UNKNOWN, UNKNOWN)
    assert asked.held == 0


async def test_a_success_of_a_stopped_task_is_kept(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    await asked.ask(RUNNING, ended("completed", output={"files": []}))
    found = await asked.house.look(job)
    assert (found.status, found.late_outcome) == ("cancelled", "completed") and await asked.house.refunds(job) == [5]


async def test_the_sweep_leaves_a_draining_slot_alone(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    for _ in range(3):
        assert await asked.house.gate.reconciler.sweep(asked.house.pool) == []
    assert asked.entry(job)["drains"]


async def test_the_sweep_drains_a_slot_whose_end_never_reached_redis(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.gate.ledger.end(asked.house.pool, job.job_id, "cancelled", by="operator")
    for _ in range(3):
        await asked.house.gate.reconciler.sweep(asked.house.pool)
    assert asked.entry(job)["drains"]


async def capped(asked: Asked) -> Job:
    """Let the job of a user who may have one live job end in SQL only, as a gate leaves it that is killed after the commit."""
    await asked.house.gate.services.pools.change(asked.house.pool, {"max_active_per_user": 1})
    job = await asked.start(user="ana")
    await asked.house.gate.ledger.end(asked.house.pool, job.job_id, "cancelled", by="operator")
    return job


async def test_user_whose_cancel_never_reached_redis_waits_behind_the_stopped_task(asked: Asked) -> None:
    job = await capped(asked)
    waiter = await asked.house.acquire(user="ana")
    assert waiter.status == "queued" and asked.entry(job)["drains"]
    await asked.ask(ended("cancelled"))
    assert (await asked.house.granted(waiter)).status == "granted" and asked.held == 1


async def test_ended_job_without_a_slot_keeps_no_user_busy(asked: Asked) -> None:
    job = await capped(asked)
    asked.house.people.zrem(asked.house.key("slots"), job.job_id)
    assert (await asked.house.acquire(user="ana")).status == "running" and not asked.entry(job)


async def test_repeated_acquire_of_a_job_whose_cancel_never_reached_redis_drains_its_slot(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.gate.ledger.end(asked.house.pool, job.job_id, "cancelled", by="operator")
    with pytest.raises(AlreadyEnded):
        await asked.house.acquire(job.job_id, credits=5)
    assert asked.entry(job)["drains"] and asked.held == 1


async def test_question_of_a_dead_server_is_due_again_before_its_lease_is_over(asked: Asked) -> None:
    await asked.start(lease_ms=4_000)
    await asked.change(tables.tasks, ask_at=0)
    (question,) = await asked.questions.take([asked.account], {("runninghub", asked.account.name, False): 1}, 60_000)
    await asked.worker._hold(question, asked.account)
    query = sa.select(tables.tasks.c.taken_until)
    [row] = await asked.house.gate.ledger._database.read(lambda connection: list(connection.execute(query)))
    assert row.taken_until - question.asked_at < 2 * question.spacing_ms + 2_000


async def test_a_callback_about_a_task_that_is_being_stopped_frees_its_slot(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.cancel(asked.house.pool, job.job_id)
    assert asked.held == 1
    await asked.house.keeper.hear(asked.house.pool, "runninghub", ProviderReport("cancelled", "1", "task"), "{}")
    assert asked.held == 0 and await asked.questions.due_in_s([asked.account]) is None


async def test_a_callback_that_came_while_another_task_was_bound_counts_when_its_task_is_bound_again(asked: Asked) -> None:
    job = await asked.start()
    await asked.house.keeper.bind(asked.house.pool, job.job_id, "runninghub", "other", job.lease_id)
    report = ProviderReport("completed", "1", "task", output={"files": []})
    assert await asked.house.keeper.hear(asked.house.pool, "runninghub", report, "{}") == "history"
    assert (await asked.house.look(job)).status == "running"
    again = await asked.house.keeper.bind(asked.house.pool, job.job_id, "runninghub", "task", job.lease_id)
    assert again.status == "completed" and asked.held == 0
