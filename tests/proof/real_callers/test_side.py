"""The stand-in does what the owner's functions have to do: what the other tests here say of gate rests on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook

from gate.simulator.runninghub import Simulator
from tests.proof.real_callers.money import AT_FIRST, Money
from tests.proof.real_callers.side import Side


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(limit=2, seconds=60) as running:
        yield running


@pytest.fixture
def side(simulator: Simulator) -> Iterator[Side]:
    with Side(simulator.url) as listening:
        listening.callback_url = "http://127.0.0.1:9/?token=t"
        yield listening


def post(
    side: Side, webhook_id: str, kind: str, secret: str | None = None, timeout: float = 10, **job: Any
) -> httpx2.Response:
    data = {"job_id": "a", "payload": None, "task": None} | job
    body = json.dumps({"type": kind, "timestamp": "2026-01-01T00:00:00.000Z", "data": data})
    now = time.time()
    signature = Webhook(secret or side.secret).sign(webhook_id, datetime.fromtimestamp(now, UTC), body)
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(int(now)), "webhook-signature": signature}
    path = "/start" if kind == "job.start" else "/events"
    return httpx2.post(side.url + path, content=body, headers=headers, timeout=timeout)


def start(side: Side, webhook_id: str = "1", **job: Any) -> httpx2.Response:
    return post(side, webhook_id, "job.start", **job)


def test_one_start_for_a_webhook_id_however_often_it_is_called(side: Side, simulator: Simulator) -> None:
    first = start(side).json()
    assert start(side).json() == first
    assert [task["taskId"] for task in simulator.seen()["tasks"]] == [first["task_id"]]
    assert start(side, "2").json() != first
    assert [call.answered for call in side.account.starts_of("a")] == [200] * 3


def test_what_is_not_signed_is_not_believed(side: Side, simulator: Simulator) -> None:
    assert start(side, secret="whsec_AAAA").status_code == 401
    assert httpx2.post(f"{side.url}/events", json={"type": "job.failed"}).status_code == 401
    assert len(side.account.wrong) == 2 and not side.account.rows and not simulator.seen()["tasks"]


def test_a_provider_without_room_is_a_refusal(side: Side, simulator: Simulator) -> None:
    simulator.control(limit=0)
    assert start(side).json() == {"outcome": "refused"}
    simulator.control(limit=2)
    assert start(side).json() == {"outcome": "refused"}, "a repeat is answered as the first was"
    assert start(side, "2").json().keys() == {"task_id"}
    assert [refused.planned for refused in side.account.refusals] == [False]


def test_answers_on_demand(side: Side, simulator: Simulator) -> None:
    side.answers.extend(["breaks", "loses", "fails", "refuses"])
    assert start(side).status_code == 500 and not simulator.seen()["tasks"]
    assert start(side).status_code == 500 and len(simulator.seen()["tasks"]) == 1
    assert start(side, "2").status_code == 400
    assert start(side, "3").json() == {"outcome": "refused"}
    assert start(side).json()["task_id"] == simulator.seen()["tasks"][0]["taskId"]
    told = {"answers": ["breaks"], "plans": [{"refuse": True}, {}]}
    answers = [start(side, webhook_id, job_id="b", payload=told) for webhook_id in ("4", "4", "5")]
    assert [answer.status_code for answer in answers] == [500, 200, 200]
    assert answers[1].json() == {"outcome": "refused"} and "task_id" in answers[2].json()
    side.answers.append("hangs")
    with pytest.raises(httpx2.TimeoutException):
        start(side, "6", timeout=0.2)
    assert start(side, "7", job_id="b").status_code == 200, "it answers others meanwhile"


def test_events_write_the_row_once_each_and_cancel_what_gate_gave_up(side: Side, simulator: Simulator) -> None:
    task = {"provider": "runninghub", "task_id": start(side).json()["task_id"]}
    for number, status in enumerate(("queued", "granted", "running", "expired", "expired")):
        assert post(side, f"e{min(number, 3)}", f"job.{status}", task=task).status_code == 200
    assert side.account.statuses("a") == ["queued", "granted", "running", "expired"]
    assert side.account.rows == {"a": "failed"} and side.account.over("a")
    assert [told.again for told in side.account.told["a"]] == [False] * 4 + [True]
    assert [seen["cancelled"] for seen in simulator.seen()["tasks"]] == [True]


def test_the_owners_money(postgres_url: str) -> None:
    money = Money(postgres_url)
    money.charge("upscaler_jobs", "a", "ana", 10)
    money.charge("upscaler_jobs", "b", "ana", 7, charged=False)
    assert money.charges() == {"a": ("ana", 10), "b": ("ana", 0)} and money.balances() == {"ana": AT_FIRST - 10}
    gate = sa.create_engine(sa.make_url(postgres_url).set(drivername="postgresql+psycopg"))

    def call(query: str) -> list[Any]:
        with gate.begin() as connection:
            return list(connection.execute(sa.text(query)))

    assert [tuple(row) for row in call("select * from owner_job('upscaler_jobs', 'a')")] == [
        ("ana", 10, True, "tab of ana", None)
    ]
    assert call("select * from owner_job('pose_changer_jobs', 'a')") == []
    pay = "select owner_refund('ana', 10, 'it failed', 'a')"
    money.switch("refund", "raises")
    with pytest.raises(sa.exc.DBAPIError, match="broken"):
        call(pay)
    assert money.refunds() == {} and money.balances() == {"ana": AT_FIRST - 10}
    money.switch("refund", "works")
    call(pay)
    call(pay)
    assert money.refunds("a") == {"a": [10, 10]} and money.balances() == {"ana": AT_FIRST + 10}, "twice is seen"
    money.switch("job", "sleeps", seconds=30)
    with pytest.raises(sa.exc.DBAPIError, match="timeout"):
        call("set local statement_timeout = 100; select * from owner_job('upscaler_jobs', 'a')")
    gate.dispose()
    money.close()
