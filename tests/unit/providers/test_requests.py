"""The requests of the pages, byte for byte as the documents of each provider have them, and the words of some of their answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gate.providers import PAGES, ending
from gate.providers.page import Further, ProviderReply
from tests.unit.providers.examples import ALL, replicate, runninghub
from tests.unit.providers.examples.shape import KEY

JSON_TYPE = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {KEY}"}
SMALL, LARGE = 256 * 1024, 8 * 1024 * 1024
REQUESTS: list[tuple[str, str, str, str, dict[str, str], Any, int]] = [
    ("runninghub", "ask", "POST", "/openapi/v2/query", JSON_TYPE | BEARER, {"taskId": "{task}"}, SMALL),
    ("runninghub", "stop", "POST", "/task/openapi/cancel", JSON_TYPE | BEARER, {"apiKey": KEY, "taskId": "{task}"}, SMALL),
    ("runninghub", "count", "GET", "/openapi/v2/queue/status", BEARER, None, SMALL),
    ("replicate", "ask", "GET", "/v1/predictions/{task}", BEARER, None, LARGE),
    ("replicate", "stop", "POST", "/v1/predictions/{task}/cancel", BEARER, None, LARGE),
    ("fal", "ask", "GET", "/{task}/status", {"Authorization": f"Key {KEY}"}, None, SMALL),
    ("fal", "stop", "PUT", "/{task}/cancel", {"Authorization": f"Key {KEY}"}, None, SMALL),
    ("comfyui", "ask", "GET", "/history/{task}", BEARER, None, LARGE),
    ("comfyui", "stop", "POST", "/api/jobs/{task}/cancel", JSON_TYPE | BEARER, None, SMALL),
    ("comfyui", "count", "GET", "/queue", BEARER, None, LARGE),
]


def reply(status: int, body: Any) -> ProviderReply:
    return ProviderReply.of(status, {}, json.dumps(body).encode(), KEY)


@pytest.mark.parametrize(("name", "verb", "method", "path", "headers", "body", "most"), REQUESTS)
def test_a_request_is_the_one_that_the_provider_documents(
    name: str, verb: str, method: str, path: str, headers: dict[str, str], body: Any, most: int
) -> None:
    task_id, page = ALL[name].task_id, PAGES[name]
    found = page.count(KEY) if verb == "count" and page.count else (page.ask if verb == "ask" else page.stop)(task_id, KEY)
    wanted = "" if body is None else json.dumps(body).replace("{task}", task_id)
    assert (found.method, found.path, dict(found.headers)) == (method, path.replace("{task}", task_id), headers)
    assert (found.body.decode(), found.reply_max_bytes) == (wanted, most)


def test_the_result_of_fal_may_be_as_large_as_an_output() -> None:
    task_id = ALL["fal"].task_id
    asked = PAGES["fal"].read_answer(task_id, reply(200, {"status": "COMPLETED"}), KEY)
    assert isinstance(asked, Further)
    assert (asked.request.path, asked.request.reply_max_bytes) == (f"/{task_id}", LARGE)


@pytest.mark.parametrize(
    ("name", "status", "body", "why"),
    [
        ("replicate", 502, {"detail": "away"}, "HTTP 502 away"),
        ("comfyui", 200, {"cancelled": True}, "the cancel is accepted"),
        ("comfyui", 200, {"cancelled": False}, "it neither waits nor runs"),
    ],
)
def test_the_reply_to_a_stop_says_why(name: str, status: int, body: Any, why: str) -> None:
    found = PAGES[name].read_stop(ALL[name].task_id, reply(status, body), KEY)
    assert not isinstance(found, Further) and found.why == why


def test_a_prompt_that_comfyui_has_nowhere_is_said_to_be_nowhere() -> None:
    page, task_id = PAGES["comfyui"], ALL["comfyui"].task_id
    asked = page.read_answer(task_id, reply(200, {}), KEY)
    assert isinstance(asked, Further)
    found = asked.read(reply(200, {"queue_running": [], "queue_pending": []}))
    assert not isinstance(found, Further) and found.why == "neither in the history nor in the queue"


def test_what_a_cancelled_prediction_cost_is_kept() -> None:
    body = replicate.BASE | {"status": "canceled", "metrics": replicate.METRICS}
    found = PAGES["replicate"].read_answer(replicate.TASK, reply(200, body), KEY)
    assert not isinstance(found, Further) and found.report is not None
    assert found.report.output == {"usage": replicate.METRICS}


def test_outputs_with_their_code_as_text_are_outputs() -> None:
    page = PAGES["runninghub"]
    unknown = page.read_answer(
        runninghub.TASK, reply(200, {"errorCode": "807", "errorMessage": "APIKEY_TASK_NOT_FOUND"}), KEY
    )
    assert isinstance(unknown, Further)
    found = unknown.read(
        reply(200, {"code": "0", "msg": "success", "data": [{"fileUrl": "https://files/a.png", "fileType": "png"}]})
    )
    assert not isinstance(found, Further) and found.report is not None and found.report.outcome == "completed"
    assert found.report.output["files"] == [{"url": "https://files/a.png", "type": "png"}]


def test_a_report_without_a_delivery_id_has_the_same_one_whatever_the_order_of_its_fields() -> None:
    made = [
        ending.report_of("t", ending.Ending("completed", None, output, True, None, None)).delivery_id
        for output in ({"files": [], "coins": 3}, {"coins": 3, "files": []}, {"coins": 4, "files": []})
    ]
    assert made[0] == made[1] != made[2]
