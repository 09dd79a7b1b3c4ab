"""What providers call back with, on a real server: each word counts once, in the right place, and only from who may say it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from standardwebhooks.webhooks import Webhook

from gate.model.limits import END_BODY_MAX_BYTES
from tests.support.gate_process import Served
from tests.support.names import fresh

OLD, NEW = "whsec_b2xkIHNlY3JldCBvZiB0aGUgdGVzdA==", "whsec_bmV3IHNlY3JldCBvZiB0aGUgdGVzdA=="
TOKEN = "t0ken-that-no-log-may-hold"
CONFIG = f"""
[pools.other]
[providers.standard]
secrets = ["{OLD}", "{NEW}"]
[providers.runninghub]
token = "{TOKEN}"
[providers.replicate]
secrets = ["{NEW}"]
[providers.fal]
token = "{TOKEN}"
"""
FILES = [{"fileUrl": "https://f/1.png", "fileType": "png"}]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("webhooks")
    with Served(folder, config=CONFIG, GATE_LIMIT="50", GATE_ACCESS_LOG="true", GATE_COOLDOWN_SECONDS="0.5") as served:
        yield served
        assert served.stop() == 0
    assert TOKEN not in (folder / "errors.log").read_text(), "the token stands in no log"


def running(served: Served, provider: str = "runninghub", **body: Any) -> tuple[dict[str, Any], str]:
    """A job that runs, bound to a task."""
    job = served.acquire(job_id=fresh(), credits=10, **body).json()
    task_id = fresh("task")
    assert bind(served, job, provider, task_id).status_code == 200
    return job, task_id


def bind(served: Served, job: dict[str, Any], provider: str, task_id: str) -> httpx2.Response:
    return served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json={"provider": provider, "task_id": task_id})


def look(served: Served, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()
    return found


def hub(served: Served, task_id: str, pool: str = "default", token: str = TOKEN, **event: Any) -> httpx2.Response:
    body = {"event": "TASK_END", "taskId": task_id, "eventData": event or {"code": 0, "data": FILES}}
    return served.post(f"/v1/webhooks/runninghub/{pool}?token={token}", body)


def signed(
    served: Served, data: dict[str, Any], secret: str = NEW, name: str = "", at: float = 0, **headers: str
) -> httpx2.Response:
    name, moment = name or fresh("msg"), datetime.fromtimestamp(time.time() + at, UTC)
    body = json.dumps({"type": "task.ended", "data": data})
    shown = {
        "webhook-id": name, "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, moment, body), "content-type": "application/json",
    }  # fmt: skip
    return served.http.post("/v1/webhooks/standard/default", content=body, headers=shown | headers)


def result(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["result"]
    return said


def failed(message: str = "no GPU") -> dict[str, Any]:
    return {"status": "FAILED", "errorMessage": "TASK_FAILED", "failedReason": {"exception_message": message}}


def test_a_success_ends_the_job_and_frees_its_slot(own: Served) -> None:
    job, task_id = running(own)
    assert result(hub(own, task_id)) == "applied"
    ended = look(own, job)
    assert (ended["status"], ended["ended_by"], ended["refund"]) == ("completed", "provider", None)
    assert ended["output"] == {"files": [{"url": "https://f/1.png", "type": "png"}]}
    assert job["job_id"] not in [one["job_id"] for one in own.http.get("/v1/pools/default").json()["holders"]]


def test_a_failure_in_the_new_shape_pays_back(own: Served) -> None:
    job, task_id = running(own)
    assert result(hub(own, task_id, **failed())) == "applied"
    ended = look(own, job)
    assert (ended["status"], ended["error"], ended["refund"]["amount"]) == ("failed", "no GPU (TASK_FAILED)", 10)


ADDRESS = "https://f/1.png"
TEXT = {"url": None, "outputType": "txt", "text": "a poem"}
LONG = "https://f/" + "u" * 4100


@pytest.mark.parametrize(
    ("event", "output"),
    [
        ({"status": "SUCCESS", "results": [{"fileUrl": ADDRESS}]}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"code": 0, "data": [{"url": ADDRESS}]}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"code": 0, "data": {"fileUrl": ADDRESS}}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"code": 0, "data": {"outputFileList": [{"fileUrl": ADDRESS}]}}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"status": "SUCCESS", "results": {"url": ADDRESS}}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"status": "SUCCESS", "results": [ADDRESS]}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"code": 0, "data": [ADDRESS]}, {"files": [{"url": ADDRESS, "type": ""}]}),
        ({"status": "SUCCESS", "results": [TEXT]}, {"files": [], "texts": ["a poem"]}),
        ({"status": "SUCCESS", "results": [{"url": LONG}]}, {"files": [{"url": LONG, "type": ""}]}),
        (
            {"status": "SUCCESS", "results": [ADDRESS], "usage": {"consumeCoins": "3", "consumeMoney": "0.1"}},
            {"files": [{"url": ADDRESS, "type": ""}], "coins": 3, "usage": {"consumeCoins": "3", "consumeMoney": "0.1"}},
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_success_of_each_shape_completes_the_job_with_its_output(own: Served, event: Any, output: Any) -> None:
    before = not_understood(own)
    job, task_id = running(own)
    assert result(hub(own, task_id, **event)) == "applied"
    ended = look(own, job)
    assert (ended["status"], ended["output"], ended["error"], ended["refund"]) == ("completed", output, None, None)
    assert not_understood(own) == before


def not_understood(served: Served) -> float:
    (line,) = re.findall(
        r'^gate_callbacks_not_understood_total\{provider="runninghub"\} (.*)$', served.http.get("/metrics").text, re.M
    )
    return float(line)


def test_a_success_of_an_unknown_shape_completes_the_job_keeps_the_event_and_is_counted_once(own: Served) -> None:
    before = not_understood(own)
    job, task_id = running(own)
    event = {"status": "SUCCESS", "results": {"picture": {"at": ADDRESS}}}
    assert result(hub(own, task_id, **event)) == "applied"
    ended = look(own, job)
    assert (ended["status"], ended["output"], ended["refund"]) == ("completed", {"files": [], "raw": event}, None)
    assert result(hub(own, task_id, **event)) == "repeat"
    assert not_understood(own) == before + 1


def prediction(served: Served, task_id: str, secret: str = NEW, **body: Any) -> httpx2.Response:
    name, moment = fresh("msg"), datetime.now(UTC)
    text = json.dumps({"id": task_id, "status": "succeeded", "error": None, "output": ["https://f/1.png"], **body})
    shown = {
        "webhook-id": name, "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, moment, text), "content-type": "application/json",
    }  # fmt: skip
    return served.http.post("/v1/webhooks/replicate/default", content=text, headers=shown)


def test_replicate_ends_a_job_with_its_signature_only(own: Served) -> None:
    job, task_id = running(own, "replicate")
    assert result(prediction(own, task_id, status="processing", output=None)) == "ignored"
    assert prediction(own, task_id, secret=OLD).json()["code"] == "forged"
    assert look(own, job)["status"] == "running"
    assert result(prediction(own, task_id)) == "applied"
    found = look(own, job)
    assert (found["status"], found["output"]) == ("completed", {"files": [{"url": "https://f/1.png", "type": ""}]})


def test_fal_ends_a_job_by_the_application_of_its_address(own: Served) -> None:
    job = own.acquire(job_id=fresh(), credits=10).json()
    name = fresh("request")
    assert bind(own, job, "fal", f"fal-ai/flux/requests/{name}").status_code == 200
    body = {
        "request_id": name,
        "status": "ERROR",
        "error": "x",
        "payload": {"detail": "it is gone", "error_type": "internal_error"},
    }
    assert own.post("/v1/webhooks/fal/default?app=fal-ai/flux", body).json()["code"] == "forged"
    assert result(own.post(f"/v1/webhooks/fal/default?token={TOKEN}&app=fal-ai/flux/dev", body)) == "applied"
    found = look(own, job)
    assert (found["status"], found["error"], found["refund"]["amount"]) == ("failed", "it is gone", 10)


def test_a_provider_without_callbacks_is_unknown_here(own: Served) -> None:
    assert own.post("/v1/webhooks/comfyui/default", {}).status_code == 404


def test_a_callback_of_a_task_that_goes_on_ends_nothing(own: Served) -> None:
    job, task_id = running(own)
    for event in ({"code": 804}, {"code": "813"}, {"status": "RUNNING"}, {"status": "QUEUED"}, {"status": "CREATE"}):
        assert result(hub(own, task_id, **event)) == "ignored"
    assert look(own, job)["status"] == "running"
    assert result(hub(own, task_id, status="CANCELLED", usage={"consumeCoins": 2})) == "applied"
    ended = look(own, job)
    assert (ended["status"], ended["output"]["coins"], ended["refund"]["amount"]) == ("cancelled", 2, 10)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("e" * 5000, "e" * 3993 + "… (cut)"),
        ("cut \ud83d", "cut"),
        ("a\x00b", "ab"),
        ({"why": 5}, '{"why": 5}'),
        (7, "7"),
    ],
    ids=["long", "lone surrogate", "NUL", "object", "number"],
)
def test_an_end_is_never_refused_for_its_error(own: Served, error: Any, kept: str) -> None:
    job, task_id = running(own)
    said = {"event": "TASK_END", "taskId": task_id, "eventData": {"status": "FAILED", "errorMessage": error}}
    path = f"/v1/webhooks/runninghub/default?token={TOKEN}"
    assert result(own.http.post(path, content=json.dumps(said))) == "applied", "with the surrogate as an escape of JSON"
    other, other_task = running(own, "standard")
    assert result(signed(own, {"task_id": other_task, "outcome": "failed", "error": error})) == "applied"
    for one in (job, other):
        ended = look(own, one)
        assert (ended["status"], ended["error"], ended["refund"]["amount"]) == ("failed", kept, 10)


def test_an_end_is_never_refused_for_its_output(own: Served) -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    for output in ("x" * 100_000, deep):
        job, task_id = running(own, "standard")
        assert result(signed(own, {"task_id": task_id, "outcome": "completed", "output": output})) == "applied"
        ended = look(own, job)
        assert ended["status"] == "completed" and "… (cut)" in json.dumps(ended["output"], ensure_ascii=False)


def test_a_numeric_task_is_found_exactly(own: Served) -> None:
    number = 1_904_154_698_679_771_137 + time.time_ns() % 10**6
    for provider in ("runninghub", "standard"):
        job, other = (own.acquire(job_id=fresh()).json() for _ in range(2))
        assert (
            bind(own, job, provider, str(number)).status_code
            == bind(own, other, provider, str(number + 1)).status_code
            == 200
        )
        if provider == "standard":
            assert result(signed(own, {"task_id": number, "outcome": "completed"})) == "applied"
        else:
            body = {"event": "TASK_END", "taskId": number, "eventData": {"code": 0, "data": FILES}}
            assert result(own.post(f"/v1/webhooks/runninghub/default?token={TOKEN}", body)) == "applied"
        assert [look(own, one)["status"] for one in (job, other)] == ["completed", "running"]
        own.act(look(own, other), "cancel")


def test_the_header_names_of_svix_are_read(own: Served) -> None:
    job, task_id = running(own, "standard")
    body, moment = json.dumps({"type": "x", "data": {"task_id": task_id, "outcome": "completed"}}), datetime.now(UTC)
    shown = {
        "svix-id": "s-1",
        "svix-timestamp": str(int(moment.timestamp())),
        "svix-signature": Webhook(NEW).sign("s-1", moment, body),
    }
    assert result(own.http.post("/v1/webhooks/standard/default", content=body, headers=shown)) == "applied"
    assert look(own, job)["status"] == "completed"


def test_it_is_heard_where_the_queue_manager_was_called_back(own: Served) -> None:
    job, task_id = running(own)
    body = {"event": "TASK_END", "taskId": task_id, "eventData": json.dumps({"code": 0, "data": FILES})}
    assert result(own.post(f"/functions/v1/runninghub-webhook?token={TOKEN}", body)) == "applied"
    assert look(own, job)["status"] == "completed"


def test_ten_at_once_end_it_once(own: Served) -> None:
    job, task_id = running(own)
    with ThreadPoolExecutor(10) as at_once:
        said = list(at_once.map(lambda _: result(hub(own, task_id, **failed())), range(10)))
    assert sorted(said) == ["applied"] + ["repeat"] * 9
    assert len(own.http.get("/v1/ledger", params={"job_id": job["job_id"], "kind": "refund"}).json()["rows"]) == 1


def test_what_contradicts_the_first_word_changes_nothing_and_is_kept(own: Served) -> None:
    job, task_id = running(own)
    assert result(hub(own, task_id)) == "applied"
    before = look(own, job)
    assert result(hub(own, task_id, **failed())) == "ignored"
    assert look(own, job) == before
    history = own.http.get(f"/v1/pools/default/jobs/{job['job_id']}/history").json()["events"]
    assert (history[-1]["kind"], history[-1]["by"], history[-1]["why"]) == ("callback", "runninghub", "failed")


def test_a_callback_before_its_binding_is_applied_by_it(own: Served) -> None:
    task_id = fresh("early")
    assert result(hub(own, task_id)) == "kept"
    assert result(hub(own, task_id)) == "repeat"
    job = own.acquire(job_id=fresh(), credits=3).json()
    bound = bind(own, job, "runninghub", task_id)
    assert (bound.status_code, bound.json()["status"], bound.json()["ended_by"]) == (200, "completed", "provider")


def test_a_callback_that_is_kept_is_forgotten_after_a_week(own: Served) -> None:
    tasks = [fresh("old"), fresh("young")]
    for task_id in tasks:
        assert result(hub(own, task_id)) == "kept"
    week_ms = 7 * 24 * 3600 * 1000
    own.sql("update @webhooks set at = at - :ms where task_id = :task", ms=week_ms + 1000, task=tasks[0])
    own.sql("update @webhooks set at = at - :ms where task_id = :task", ms=week_ms - 60_000, task=tasks[1])
    found = [bind(own, own.acquire(job_id=fresh()).json(), "runninghub", task_id).json()["status"] for task_id in tasks]
    assert found == ["running", "completed"]


def test_a_callback_and_its_binding_at_the_same_moment(own: Served) -> None:
    for _ in range(30):
        job, task_id = own.acquire(job_id=fresh()).json(), fresh("race")
        calling = threading.Thread(target=hub, args=(own, task_id))
        calling.start()
        bind(own, job, "runninghub", task_id)
        calling.join()
        assert look(own, job)["status"] == "completed"


def test_a_callback_of_an_earlier_task_is_history(own: Served) -> None:
    job, first = running(own)
    current = look(own, job)
    assert own.act(current, "release", outcome="refused").status_code == 200
    again = own.http.get(f"/v1/pools/default/jobs/{job['job_id']}", params={"wait_seconds": 10}).json()
    assert again["status"] == "granted"
    second = fresh("task")
    assert bind(own, job, "runninghub", second).status_code == 200
    assert result(hub(own, first)) == "ignored"
    assert look(own, job)["status"] == "running"
    assert result(hub(own, second, **failed())) == "applied"
    assert look(own, job)["status"] == "failed"


def test_a_task_that_was_replaced_has_no_say_any_more(own: Served) -> None:
    job, first = running(own)
    second = fresh("task")
    assert bind(own, job, "runninghub", second).status_code == 200
    assert result(hub(own, first, **failed())) == "ignored"
    assert look(own, job)["status"] == "running"
    assert result(hub(own, second)) == "applied"


def test_a_success_after_the_expiry_is_kept_as_late_and_the_refund_stands(own: Served) -> None:
    job, task_id = running(own, lease_seconds=0.5)
    ended = own.http.get(f"/v1/pools/default/jobs/{job['job_id']}", params={"wait_seconds": 10, "status": "running"}).json()
    assert ended["status"] == "expired"
    assert result(hub(own, task_id)) == "late"
    late = look(own, job)
    assert (late["status"], late["late_outcome"], late["refund"]["amount"]) == ("expired", "completed", 10)


def test_it_ends_only_jobs_of_the_pool_it_names(own: Served) -> None:
    job, task_id = running(own)
    assert result(hub(own, task_id, pool="other")) == "ignored"
    assert look(own, job)["status"] == "running"
    for pool in ("nowhere", "%00", "a%00b", "%ff"):
        assert hub(own, fresh(), pool=pool).json()["code"] == "pool_unknown"
    assert result(hub(own, task_id, **failed())) == "applied"


def test_a_provider_ends_only_jobs_bound_to_it_or_to_none(own: Served) -> None:
    job, task_id = running(own, "runninghub")
    assert result(signed(own, {"job_id": job["job_id"], "outcome": "completed"})) == "ignored"
    assert result(signed(own, {"task_id": task_id, "outcome": "completed"})) == "kept", "its own task of that name"
    assert look(own, job)["status"] == "running"
    free = own.acquire(job_id=fresh(), credits=4).json()
    said = {"job_id": free["job_id"], "outcome": "failed", "error": "broke", "output": {"n": 1}}
    assert result(signed(own, said)) == "applied"
    ended = look(own, free)
    assert (ended["status"], ended["error"], ended["output"], ended["refund"]["amount"]) == ("failed", "broke", {"n": 1}, 4)
    assert result(signed(own, {"job_id": "nobody", "outcome": "failed"})) == "ignored"
    own.act(look(own, job), "cancel")


def test_each_secret_is_good_and_a_delivery_is_remembered_for_good(own: Served) -> None:
    (one, task), (two, other) = running(own, "standard"), running(own, "standard")
    assert result(signed(own, {"task_id": task, "outcome": "completed"}, OLD, "msg-1")) == "applied"
    assert result(signed(own, {"task_id": other, "outcome": "completed"}, NEW, "msg-1")) == "repeat", "whatever it says now"
    assert look(own, two)["status"] == "running"
    assert result(signed(own, {"task_id": other, "outcome": "cancelled"}, NEW)) == "applied"
    assert [look(own, job)["status"] for job in (one, two)] == ["completed", "cancelled"]


def test_what_is_forged_or_stale_changes_nothing(own: Served) -> None:
    job, task_id = running(own, "standard")
    hubs, hub_task = running(own)
    said = {"task_id": task_id, "outcome": "failed"}
    stamp = str(int(time.time()))
    forged = [
        signed(own, said, secret="whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCE="),
        signed(own, said, at=-301),
        signed(own, said, at=302),
        signed(own, said, **{"webhook-timestamp": stamp + ".0"}),
        signed(own, said, **{"webhook-timestamp": ""}),
        signed(own, said, **{"webhook-signature": "v1,"}),
        signed(own, said, **{"webhook-signature": "v1,%%%"}),
        signed(own, said, **{"webhook-signature": "nonsense"}),
        own.post("/v1/webhooks/standard/default", {"type": "x", "data": said}),
        hub(own, hub_task, token="wrong"),
        hub(own, hub_task, token=""),
        own.post("/functions/v1/runninghub-webhook", {"event": "TASK_END", "taskId": hub_task, "eventData": {"code": 0}}),
        own.post(f"/v1/webhooks/runninghub/default?token={TOKEN[:-1]}", {"event": "TASK_END"}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in forged] == [(401, "forged")] * len(forged)
    assert look(own, job)["status"] == look(own, hubs)["status"] == "running"
    for one in (job, hubs):
        own.act(look(own, one), "cancel")


def test_what_it_cannot_read_is_named_and_what_it_need_not_is_ignored(own: Served) -> None:
    at = f"/v1/webhooks/runninghub/default?token={TOKEN}"
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"event": "TASK_END"}',
        b'{"event": "TASK_END", "taskId": "1", "eventData": 7}',
        b"\xff",
    ):
        answer = own.http.post(at, content=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), body
        assert answer.json()["errors"][0]["field"]
    assert result(own.post(at, {"event": "TASK_STARTED", "taskId": "1", "more": {"unknown": 1}})) == "ignored"
    assert own.post("/v1/webhooks/nobody/default").json()["code"] == "provider_unknown"
    assert own.http.post(at, content=b"x" * (END_BODY_MAX_BYTES + 1)).status_code == 413


@pytest.mark.parametrize(
    "extra", [b'"\xff\xe9"', b"[" * 3000 + b"]" * 3000, b"9" * 5000, b"1e999"], ids=["bytes", "deep", "digits", "infinity"]
)
def test_a_success_ends_its_job_whatever_stands_beside_it(own: Served, extra: bytes) -> None:
    job, task_id = running(own)
    file = b'[{"fileUrl": "https://f/1.png", "fileType": "png", "taskCostTime": ' + extra + b"}]"
    event = b'{"code": 0, "msg": "success", "data": ' + file + b', "more": ' + extra + b"}"
    body = b'{"event": "TASK_END", "taskId": "' + task_id.encode() + b'", "eventData": ' + event + b"}"
    answer = own.http.post(f"/v1/webhooks/runninghub/default?token={TOKEN}", content=body)
    assert answer.json() == {"result": "applied"}
    ended = own.http.get(f"/v1/pools/{job['pool']}/jobs/{job['job_id']}").json()
    assert ended["status"] == "completed" and ended["output"]["files"][0]["url"] == "https://f/1.png"


def test_its_body_is_kept_with_the_job_as_it_came_and_bounded(own: Served) -> None:
    job, task_id = running(own)
    hub(own, task_id, code=0, data=FILES, msg="x" * 100_000)
    ((body, about),) = own.sql("select body, job_id from @webhooks where task_id = :task", task=task_id)
    assert body.startswith('{"event":"TASK_END"') and len(body) == 64 * 1024 and about == job["job_id"]
    for n in range(30):
        hub(own, task_id, **failed(str(n)))
    kept = own.sql("select count(body), count(*) from @webhooks where job_id = :job", job=job["job_id"])
    assert kept == [(20, 31)]
