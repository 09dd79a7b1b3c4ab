"""The rest of version 1: tasks, histories, lines followed live, pools made live, keys that stand for a job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until


@pytest.fixture
def pool(served: Served) -> Iterator[str]:
    """A pool of the test's own with one slot, made over HTTP."""
    name = fresh("p")
    assert served.http.put(f"/v1/pools/{name}", json={"limit": 1}).status_code == 201
    yield name
    for job in served.http.get(f"/v1/pools/{name}").json()["holders"]:
        served.act(job, "cancel")


def line(served: Served, pool: str, count: int, **body: Any) -> list[dict[str, Any]]:
    return [served.acquire(pool, job_id=fresh(), **body).json() for _ in range(count)]


def path(job: dict[str, Any], *more: str) -> str:
    return "/".join((f"/v1/pools/{job['pool']}/jobs/{job['job_id']}", *more))


# ---- pools


def test_a_pool_is_made_live_and_listed(served: Served, pool: str) -> None:
    made = served.http.get(f"/v1/pools/{pool}").json()
    assert (made["limit"], made["queued"], made["paused"], made["holders"]) == (1, 0, False, [])
    assert served.http.put(f"/v1/pools/{pool}", json={"limit": 2}).status_code == 200
    names = [one["pool"] for one in served.http.get("/v1/pools").json()]
    assert {"default", pool} <= set(names) and names == sorted(names)
    refused = served.http.put("/v1/pools/-bad-", json={"limit": 1})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "pool")


def test_an_empty_pool_is_deleted_by_an_admin_and_made_again(served: Served, pool: str) -> None:
    http, at = served.http, f"/v1/pools/{pool}"
    job = served.acquire(pool).json()
    refused = http.delete(at)
    assert (refused.status_code, refused.json()["code"]) == (409, "pool_not_empty")
    served.act(job, "release", outcome="completed")
    deleted = http.delete(at, params={"reason": "no longer sold"})
    assert (deleted.status_code, deleted.json()) == (200, {"pool": pool, "deleted": True})
    assert [answer.json()["code"] for answer in (served.acquire(pool), http.delete(at), http.get(at))] == ["pool_unknown"] * 3
    assert http.get(path(job)).json()["status"] == "completed", "its history stays"
    assert http.delete("/v1/pools/default").json()["code"] == "invalid"
    assert http.put(at, json={"limit": 1}).status_code == 201
    again = served.acquire(pool).json()
    assert again["lease"]["fence"] > job["lease"]["fence"]
    served.act(again, "release", outcome="completed")


def test_a_pool_made_live_stays_through_a_restart(tmp_path: Path) -> None:
    own = Served(tmp_path)
    with own:
        assert own.http.put("/v1/pools/video", json={"limit": 1, "lease_seconds": 9}).status_code == 201
        first, second = line(own, "video", 2)
    with own:
        view = own.http.get("/v1/pools/video").json()
        assert [job["job_id"] for job in view["holders"] + view["queue"]] == [first["job_id"], second["job_id"]]
        own.act(first, "release", outcome="completed")
        assert own.http.get(path(second), params={"wait_seconds": 10}).json()["status"] == "granted"


# ---- tasks


def test_a_task_is_bound_and_claims(served: Served, pool: str) -> None:
    holder, waiter = line(served, pool, 2)
    refused = served.http.put(path(waiter, "task"), json={"provider": "acme", "task_id": "t0"})
    assert (refused.status_code, refused.json()["code"]) == (410, "lease_lost")
    served.act(holder, "release", outcome="completed")
    granted = served.http.get(path(waiter), params={"wait_seconds": 10}).json()
    task = {"provider": "acme", "task_id": fresh("t")}
    bound = served.http.put(path(granted, "task"), json=task).json()
    assert (bound["status"], bound["task"]) == ("running", task)
    assert served.http.put(path(granted, "task"), json=task).json() == bound, "a repeat changes nothing"
    stale = served.http.put(path(granted, "task"), json={**task, "lease_id": "f" * 32})
    assert (stale.status_code, stale.json()["code"]) == (410, "lease_lost")
    other = served.acquire(pool, job_id=fresh()).json()
    served.act(bound, "release", outcome="completed")
    other = served.http.get(path(other), params={"wait_seconds": 10}).json()
    taken = served.http.put(path(other, "task"), json=task)
    assert (taken.status_code, taken.json()["code"]) == (409, "task_taken")
    assert served.http.get(path(other)).json()["status"] == "running", "it claimed all the same"
    late = served.http.put(path(bound, "task"), json={"provider": "acme", "task_id": fresh("t")})
    assert (late.status_code, late.json()["code"]) == (409, "already_ended")


def test_a_task_belongs_to_the_lease_it_was_bound_under(served: Served, pool: str) -> None:
    (job,) = line(served, pool, 1)
    served.http.put(path(job, "task"), json={"provider": "acme", "task_id": fresh("t")})
    refused = served.act(job, "release", outcome="refused").json()
    assert (refused["status"], refused["task"]) == ("queued", None)


# ---- cancel by session or user


def test_what_waits_for_a_session_is_cancelled_and_what_runs_goes_on(served: Served, pool: str) -> None:
    mine = line(served, pool, 3, session="tab-1", user="ana", credits=2)
    other = line(served, pool, 1, session="tab-2", user="ana")
    answer = served.post(f"/v1/pools/{pool}/cancel", {"session": "tab-1"}).json()
    assert answer["cancelled"] == 2
    assert {job["job_id"] for job in answer["jobs"]} == {job["job_id"] for job in mine[1:]}
    assert all((job["status"], job["refund"]["amount"]) == ("cancelled", 2) for job in answer["jobs"])
    view = served.http.get(f"/v1/pools/{pool}").json()
    assert [job["job_id"] for job in view["holders"] + view["queue"]] == [mine[0]["job_id"], other[0]["job_id"]]
    assert answer["left_out"] == 0
    short = served.post(f"/v1/pools/{pool}/cancel?limit=0", {"user": "ana"}).json()
    assert short == {"cancelled": 1, "jobs": [], "left_out": 1}
    for wrong in ({}, {"session": "a", "user": "b"}, {"session": ""}):
        assert served.post(f"/v1/pools/{pool}/cancel", wrong).status_code == 422


# ---- history


def test_a_history_gives_change_time_actor_and_reason(served: Served, pool: str) -> None:
    holder, waiter = line(served, pool, 2)
    served.act(holder, "release", outcome="completed")
    granted = served.http.get(path(waiter), params={"wait_seconds": 10}).json()
    served.act(granted, "claim")
    served.act(granted, "cancel", reason="no longer wanted")
    events = served.http.get(path(waiter, "history")).json()["events"]
    said = [(event["kind"], event["by"]) for event in events]
    assert said == [("queued", "caller"), ("granted", "gate"), ("running", "holder"), ("cancelled", "operator")]
    assert events[-1]["why"] == "no longer wanted"
    assert sorted(event["at"] for event in events) == [event["at"] for event in events]
    assert served.http.get(path({**waiter, "job_id": "nobody"}, "history")).status_code == 404


# ---- Idempotency-Key


def test_a_key_stands_for_a_job(served: Served, pool: str) -> None:
    def ask(key: str, **body: Any) -> Any:
        return served.http.post(f"/v1/pools/{pool}/acquire", json=body, headers={"Idempotency-Key": key})

    key = fresh("key")
    first, again = ask(key, credits=3), ask(key, credits=3)
    assert (first.status_code, again.json()) == (200, first.json() | {"replayed": True})
    charges = served.http.get("/v1/ledger", params={"job_id": first.json()["job_id"]}).json()["rows"]
    assert [row["amount"] for row in charges] == [3]
    assert ask(key, credits=4).json()["code"] == "job_id_reused"
    assert ask(key, credits=3, payload={"scale": 2}).json()["code"] == "job_id_reused", "its payload would never be used"
    others = {"lease_seconds": 9, "queue_seconds": 9, "presence_seconds": 9, "wait_seconds": 0, "max_eta_seconds": 9}
    assert ask(key, **others).json()["replayed"], "how a call asks is not compared"
    assert ask(fresh("key")).json()["job_id"] != first.json()["job_id"]
    assert ask("").status_code == ask("x" * 300).status_code == 422
    nameless = served.acquire(pool, credits=1)
    assert nameless.json()["errors"][0]["field"] == "job_id"


# ---- ETA


def test_the_estimate_of_a_wait_comes_from_the_run_times(served: Served, pool: str) -> None:
    assert line(served, pool, 2)[1]["eta_seconds"] is None, "nothing has completed here yet"
    (first,) = served.http.get(f"/v1/pools/{pool}").json()["holders"]
    served.act(first, "release", outcome="completed")
    waiting = served.http.get(f"/v1/pools/{pool}").json()["holders"][0]
    served.act(waiting, "claim")
    served.act(waiting, "release", outcome="completed")
    line(served, pool, 1)
    second = served.acquire(pool, job_id=fresh()).json()
    assert second["position"] == 1

    def eta() -> bool:
        return served.http.get(path(second)).json()["eta_seconds"] is not None

    asyncio.run(until(eta, "the runs that completed are seen"))
    assert 0 <= served.http.get(path(second)).json()["eta_seconds"] < 60
    served.post(f"/v1/pools/{pool}/pause")
    assert served.http.get(path(second)).json()["eta_seconds"] is None, "the time of its end is unknown"
    served.post(f"/v1/pools/{pool}/resume")


def test_the_estimate_plays_the_line_forward() -> None:
    from gate.coordination.eta import by_tool, turns
    from gate.ledger import InLine

    runs = by_tool([("up", 10), ("up", 30), ("up", 20), ("pose", 100)])
    assert runs == {"up": [10, 20, 30], "pose": [100], None: [10, 20, 30, 100]}
    held = [InLine("a", "up", 1_000, 9_999), InLine("b", "pose", 1_000, 1_050)]
    waits = [InLine("c", "pose", None, None), InLine("d", "new", None, None), InLine("e", "up", None, None)]
    assert turns([*held, *waits], runs, 2, 1_009) == {"c": 1_020, "d": 1_050, "e": 1_075}
    assert turns(waits[:1], runs, 1, 1_010) == {"c": 1_010}
    assert turns(waits, {}, 2, 1_010) == turns(waits, runs, 0, 1_010) == {}


def test_a_run_longer_than_any_before_has_no_end_soon() -> None:
    from gate.coordination.eta import by_tool, turns
    from gate.ledger import InLine

    runs = by_tool([("up", 10), ("up", 30), ("up", 20)])
    ahead, waits = InLine("a", "up", 1_000, 1_900), InLine("b", "up", None, None)
    at = {ran: turns([ahead, waits], runs, 1, 1_000 + ran)["b"] for ran in (0, 15, 25, 100, 899, 5_000)}
    assert at == {0: 1_020, 15: 1_025, 25: 1_030, 100: 1_200, 899: 1_900, 5_000: 6_000}


# ---- events


class Stream(threading.Thread):
    """What a browser's EventSource would see."""

    def __init__(self, served: Served, job: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.served, self.url, self.seen = served, path(job, "events"), []
        self._some = threading.Condition()
        self.start()

    def run(self) -> None:
        with self.served.http.stream("GET", self.url, timeout=30) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            kind = None
            for text in answer.iter_lines():
                name, _, value = text.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    assert kind == "job"
                    job = json.loads(value)
                    with self._some:
                        self.seen.append((job["status"], job["position"]))
                        self._some.notify_all()

    def until(self, what: tuple[str, int | None]) -> None:
        with self._some:
            assert self._some.wait_for(lambda: self.seen and self.seen[-1] == what, 10), (what, self.seen)


def test_stream_is_over_for_a_client_that_has_the_outcome(served: Served, pool: str) -> None:
    holder, waiter = line(served, pool, 2)

    def stream(job: dict[str, Any], last: str | None = None) -> tuple[int, str]:
        answer = served.http.get(path(job, "events"), headers={"last-event-id": last} if last is not None else {})
        return answer.status_code, answer.text

    with served.http.stream("GET", path(waiter, "events")) as waiting:
        lines = waiting.iter_lines()
        first = [next(lines) for _ in range(4)]
    assert {"event: job", "id: queued-1", "retry: 2000"} < set(first), first
    served.act(waiter, "cancel")
    status, text = stream(waiter)
    assert status == 200 and "\nid: cancelled\n" in text
    assert stream(waiter, "queued-1")[1].count("event: job") == 1, "it has missed the outcome, so it gets it"
    assert stream(waiter, "cancelled") == (204, ""), "by this a browser does not come again"
    assert stream(holder | {"job_id": "nobody"}, "cancelled")[0] == 404
    served.act(holder, "release", outcome="completed")
    assert stream(holder, "cancelled")[0] == 200, "that was another job's"
    assert stream(holder, "completed") == (204, "")


def test_a_line_is_followed_live_until_the_outcome(served: Served, pool: str) -> None:
    holder, first, second = line(served, pool, 3)
    streams = Stream(served, first), Stream(served, second)
    streams[0].until(("queued", 1))
    streams[1].until(("queued", 2))
    served.act(holder, "release", outcome="completed")
    streams[0].until(("granted", None))
    streams[1].until(("queued", 1))
    served.act(served.http.get(path(first)).json(), "claim")
    streams[0].until(("running", None))
    served.act(second, "cancel")
    streams[1].until(("cancelled", None))
    served.act(served.http.get(path(first)).json(), "release", outcome="failed")
    for stream in streams:
        stream.join(10)
        assert not stream.is_alive(), "the stream ends with the outcome"
    assert streams[0].seen[-1] == ("failed", None)
    assert served.http.get(path({**first, "job_id": "nobody"}, "events")).status_code == 404


def test_one_read_of_the_line_serves_all_followers(tmp_path: Path) -> None:
    """Fifty follow; one leaves the head of the line: nearly no more scripts are run than with one follower."""
    with Served(tmp_path, GATE_LIMIT="0") as own, contextlib.closing(redis_of(own)) as people:
        jobs = line(own, "default", 50)
        streams = [Stream(own, job) for job in jobs]
        for place, stream in enumerate(streams, 1):
            stream.until(("queued", place))
        before = calls(people)
        own.act(jobs[0], "cancel")
        for place, stream in enumerate(streams[1:], 1):
            stream.until(("queued", place))
        assert calls(people) - before < 20


def redis_of(served: Served) -> Any:
    import redis

    return redis.Redis.from_url(served.redis_url)


def calls(people: Any) -> int:
    return people.info("commandstats")["cmdstat_evalsha"]["calls"]
