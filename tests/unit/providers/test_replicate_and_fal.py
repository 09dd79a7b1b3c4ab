"""Callbacks of Replicate and fal: who may send them, and what cannot be read. The page suite has the ends that they report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gate.model.errors import Forged, Unreadable
from gate.model.messages import ErrorKind
from gate.providers import PAGES, PROVIDERS
from gate.providers.callback import NO_SECRET, Callback
from tests.unit.providers.examples import fal, replicate

FAL, REPLICATE = PROVIDERS["fal"], PROVIDERS["replicate"]


def of_fal(body: Any, query: Mapping[str, str] | None = None) -> Callback:
    return Callback({}, query or {"token": "t"}, json.dumps(body).encode(), ["old", "t"], 0)


@pytest.mark.parametrize("status", ["starting", "processing"])
def test_a_prediction_that_goes_on_ends_nothing(status: str) -> None:
    assert REPLICATE.read(replicate.callback(replicate.BASE | {"status": status})) is None


def test_a_repeat_of_replicate_has_the_id_that_its_signature_covers() -> None:
    report = REPLICATE.read(replicate.callback(replicate.DONE))
    assert report is not None and report.delivery_id == "msg_1"


def test_a_callback_of_replicate_needs_its_signature() -> None:
    right = replicate.callback(replicate.DONE)
    for wrong in (
        replace(right, body=right.body + b" "),
        replace(right, now_s=replicate.NOW + 301),
        replace(right, headers={}),
        replace(right, headers=dict(right.headers) | {"webhook-id": "msg_2"}),
        replace(right, secrets=[]),
        replace(right, secrets=["whsec_" + "A" * 32]),
    ):
        with pytest.raises(Forged):
            REPLICATE.read(wrong)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({"status": "succeeded"}, "id"),
        ({"id": "", "status": "succeeded"}, "id"),
        ({"id": "x"}, "status"),
        ({"id": "x", "status": "resting"}, "status"),
        ({"id": "x", "status": ["succeeded"]}, "status"),
    ],
)
def test_a_callback_of_replicate_that_cannot_be_read_names_the_field(body: Any, field: str) -> None:
    with pytest.raises(Unreadable) as refused:
        REPLICATE.read(replicate.callback(body))
    assert refused.value.field == field


def test_a_large_log_does_not_refuse_the_end_of_a_prediction() -> None:
    report = REPLICATE.read(replicate.callback(replicate.DONE | {"logs": "x" * 1_000_000}))
    assert report is not None and report.outcome == "completed"


def test_a_hint_needs_neither_signature_nor_token() -> None:
    bare = Callback({}, {}, json.dumps(replicate.DONE).encode(), [], 0, is_hint=True)
    said = REPLICATE.read(bare)
    assert said is not None and said.task_id == replicate.DONE["id"]
    body = {"request_id": "r", "status": "OK", "payload": fal.RESULT}
    report = FAL.read(replace(of_fal(body, {"x": ""}), is_hint=True))
    assert report is not None and report.task_id == "r"


def test_a_callback_of_fal_needs_its_token() -> None:
    body = {"request_id": "r", "status": "OK", "payload": fal.RESULT}
    assert FAL.read(of_fal(body)) == FAL.read(of_fal(body, {"token": "old"}))
    for token in ({}, {"token": ""}, {"token": "T"}):
        with pytest.raises(Forged):
            FAL.read(of_fal(body, token or {"x": ""}))
    with pytest.raises(Forged) as refused:
        FAL.read(replace(of_fal(body), secrets=[]))
    assert refused.value.detail == NO_SECRET


@pytest.mark.parametrize(
    ("app", "task_id"),
    [
        ("", "r"),
        ("/", "r"),
        ("fal-ai/flux", "fal-ai/flux/requests/r"),
        ("/fal-ai/flux/dev/", "fal-ai/flux/requests/r"),
        ("workflows/ana/portrait", "workflows/ana/portrait/requests/r"),
    ],
)
def test_the_address_of_a_callback_of_fal_names_the_application(app: str, task_id: str) -> None:
    report = FAL.read(of_fal({"request_id": "r", "status": "OK", "payload": fal.RESULT}, {"token": "t", "app": app}))
    assert report is not None and report.task_id == task_id
    if "/requests/" in task_id:
        assert PAGES["fal"].ask(task_id, "k").path == f"/{task_id}/status"


def test_a_result_of_fal_that_is_no_json_completes_the_job() -> None:
    report = FAL.read(of_fal({"request_id": "r", "status": "OK", "payload": None, "payload_error": "not serializable"}))
    assert report is not None and (report.outcome, report.understood) == ("completed", False)
    assert report.output == {"files": [], "raw": {"payload_error": "not serializable"}}


def test_a_failure_of_fal_without_details_keeps_its_message() -> None:
    report = FAL.read(of_fal({"request_id": "r", "status": "ERROR", "error": "Invalid status code: 500", "payload": None}))
    assert report is not None and (report.outcome, report.error) == ("failed", "Invalid status code: 500")
    assert report.error_kind is ErrorKind.UNKNOWN


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({"status": "OK"}, "request_id"),
        ({"request_id": "r"}, "status"),
        ({"request_id": "r", "status": "MAYBE"}, "status"),
        ({"request_id": "r\n", "status": "OK"}, "request_id"),
    ],
)
def test_a_callback_of_fal_that_cannot_be_read_names_the_field(body: Any, field: str) -> None:
    with pytest.raises(Unreadable) as refused:
        FAL.read(of_fal(body))
    assert refused.value.field == field


def test_a_callback_of_fal_with_an_application_too_long_names_it() -> None:
    with pytest.raises(Unreadable) as refused:
        FAL.read(of_fal({"request_id": "r", "status": "OK"}, {"token": "t", "app": f"a/{'b' * 300}"}))
    assert refused.value.field == "app"
