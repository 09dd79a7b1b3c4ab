"""The client for threads: the same in short."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from gate.client import Gate, JobEnded, LeaseLost, Refused, UserBusy
from gate.diagnostics.verify import verify
from tests.support.gate_process import Served
from tests.support.names import fresh


def test_seven_workers_on_three_slots_with_leases_shorter_than_the_work(server: Served, plain: Gate) -> None:
    lock, at_once = threading.Lock(), [0, 0]
    user = fresh("u")

    def worker(n: int) -> tuple[str, bool]:
        with plain.slot(job_id=f"{user}-{n}", user=user, credits=3, lease_seconds=1) as lease:
            first = lease.expires_at
            with lock:
                at_once[0] += 1
                at_once[1] = max(at_once)
            assert not lease.lost.wait(2)  # the work: two leases long
            with lock:
                at_once[0] -= 1
            lease.check()
            renewed = lease.expires_at > first
        return lease.job.status, renewed

    with ThreadPoolExecutor(7) as threads:
        assert list(threads.map(worker, range(7))) == [("completed", True)] * 7
    assert at_once == [0, 3]
    assert (plain.balance(user).charged, plain.balance(user).refunded) == (21, 0)
    assert not verify(server.sql_url, server.redis_url).breaches
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("renewing")]


def test_a_body_that_raises_has_failed_and_is_paid_back(plain: Gate) -> None:
    job_id = fresh()
    with pytest.raises(RuntimeError), plain.slot(job_id=job_id, credits=7):
        raise RuntimeError("no GPU")
    job = plain.job("default", job_id)
    assert (job.status, job.error, job.refund and job.refund.amount) == ("failed", "no GPU", 7)


def test_a_keyboard_interrupt_is_a_cancellation(plain: Gate) -> None:
    with pytest.raises(KeyboardInterrupt), plain.slot() as lease:
        raise KeyboardInterrupt
    assert plain.job("default", lease.job_id).status == "cancelled"


def test_a_body_looks_whether_its_lease_is_lost(plain: Gate) -> None:
    with pytest.raises(LeaseLost) as lost, plain.slot() as lease:
        plain.cancel("default", lease.job_id, reason="no longer wanted")
        assert lease.lost.wait(10)
        lease.check()
    assert lost.value.job is not None and lost.value.job.end_reason == "no longer wanted"


def test_a_body_that_does_not_look_hears_it_at_the_end(plain: Gate) -> None:
    with pytest.raises(LeaseLost), plain.slot() as lease:
        plain.cancel("default", lease.job_id)


def test_a_provider_that_will_not_take_it(plain: Gate) -> None:
    with pytest.raises(Refused), plain.slot("one") as lease:
        lease.refuse("429")
    with plain.slot("one", job_id=lease.job_id) as again:
        pass
    assert again.job.status == "completed"


def test_waiting_jobs(plain: Gate) -> None:
    heard: list[tuple[object, ...]] = []
    holder = plain.acquire("one")
    with pytest.raises(TimeoutError), plain.slot("one", wait_seconds=0.2, on_position=lambda *place: heard.append(place)):
        raise AssertionError("there was no room")
    assert {place[:3] for place in heard} == {(1, 1, "pool_full")}
    assert all(told != before for before, told in pairwise(heard)), "told again what was known, the estimate too"
    assert plain.pool("one").queued == 0
    with pytest.raises(ZeroDivisionError), plain.slot("one", on_position=lambda *_: 1 / 0):
        raise AssertionError("there was no room")
    assert plain.pool("one").queued == 0

    def end_it(*_: object) -> None:
        plain.cancel("one", plain.pool("one").queue[0].job_id)

    with pytest.raises(JobEnded), plain.slot("one", on_position=end_it):
        raise AssertionError("there was no room")
    plain.cancel("one", holder.job_id)


def test_holder_binds_the_task_of_its_provider(plain: Gate) -> None:
    task_id = fresh()
    with plain.slot() as lease:
        lease.bind_task("runninghub", task_id)
        assert lease.job.task == {"provider": "runninghub", "task_id": task_id}


def test_a_busy_user(plain: Gate) -> None:
    user = fresh("u")
    with plain.slot("capped", user=user) as lease, pytest.raises(UserBusy) as refused, plain.slot("capped", user=user):
        raise AssertionError("the user is busy")
    assert refused.value.active_job_id == lease.job_id


def test_a_loss_without_a_word_from_the_server(tmp_path) -> None:
    with Served(tmp_path) as own, Gate(own.url) as plain:
        began = time.monotonic()
        with pytest.raises(LeaseLost), plain.slot(lease_seconds=1) as lease:
            own.kill()
            assert lease.lost.wait(10)
            assert time.monotonic() - began < 3
            lease.check()
