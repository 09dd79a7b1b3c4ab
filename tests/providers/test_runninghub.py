"""RunningHub's callbacks: both shapes, and whatever else may come."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.errors import Forged, Unreadable
from gate.providers import PROVIDERS
from gate.providers.said import Callback, Said

TOKEN = "the-token"
RUNNINGHUB = PROVIDERS["runninghub"]
FILE = {"fileUrl": "https://x/1.png", "fileType": "png", "taskCostTime": 78, "nodeId": "9"}
OLD = {"code": 0, "msg": "success", "data": [FILE]}
RESULT = {"url": "https://x/1.png", "outputType": "png"}
NEW: dict[str, Any] = {"status": "SUCCESS", "results": [RESULT], "errorMessage": "", "errorCode": "", "failedReason": {},
                       "usage": {"consumeCoins": 12}}  # fmt: skip
FILES = {"files": [{"url": "https://x/1.png", "type": "png"}]}


def call(body: Any, token: str = TOKEN) -> Callback:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Callback({}, {"token": token}, raw, ["", "another", TOKEN], 0)


def end(event: Any, task_id: Any = "1904154698679771137") -> Callback:
    return call({"event": "TASK_END", "taskId": task_id, "eventData": event})


def read(event: Any) -> Said:
    said = RUNNINGHUB.read(end(event))
    assert said is not None and said.task_id == "1904154698679771137" and said.job_id is None
    assert RUNNINGHUB.read(end(json.dumps(event))) == said, "in a string it means the same"
    return said


def test_a_success_of_the_old_shape() -> None:
    said = read(OLD)
    assert (said.outcome, said.error, said.output) == ("completed", None, FILES)
    assert read(OLD | {"code": "0"}).outcome == "completed"


def test_a_success_of_the_new_shape() -> None:
    said = read(NEW)
    assert (said.outcome, said.error, said.output) == ("completed", None, FILES | {"coins": 12})
    assert read(NEW | {"usage": {"consumeCoins": "1.5"}}).output["coins"] == 1.5
    assert read(NEW | {"usage": None}).output == FILES
    for coins, kept in (("1.5", 1.5), ("200", 200), (200.0, 200), (2**53, 2.0**53), (2**53 - 1, 2**53 - 1)):
        read_coins = read(NEW | {"usage": {"consumeCoins": coins}}).output["coins"]
        assert (type(read_coins), read_coins) == (type(kept), kept)
    for none in (True, None, [], "x", "nan", "inf", 10**400):
        assert "coins" not in read(NEW | {"usage": {"consumeCoins": none}}).output


def test_a_failure_of_the_old_shape() -> None:
    event = {"code": 805, "msg": "APIKEY_TASK_STATUS_ERROR", "data": {"failedReason": {"exception_message": "no memory"}}}
    said = read(event)
    assert (said.outcome, said.error, said.output) == ("failed", "no memory (APIKEY_TASK_STATUS_ERROR)", None)
    assert read(event | {"data": None}).error == "APIKEY_TASK_STATUS_ERROR"
    assert read({"code": 805}).error == "code 805"


def test_a_failure_of_the_new_shape() -> None:
    event = NEW | {"status": "FAILED", "errorMessage": "bad node", "failedReason": {"exception_message": "no memory"}}
    said = read(event)
    assert (said.outcome, said.error, said.output) == ("failed", "no memory (bad node)", None)
    assert read(event | {"failedReason": {}}).error == "bad node"
    assert read(event | {"failedReason": None, "errorMessage": None, "errorCode": "805"}).error == "code 805"
    assert read({"status": "FAILED"}).error == "the task failed, no reason was given"


@pytest.mark.parametrize(
    "event",
    [
        OLD | {"data": []},
        OLD | {"data": None},
        OLD | {"data": {"fileUrl": "https://x"}},
        OLD | {"data": [{"fileUrl": ""}, {"fileUrl": 1}, 7, {}]},
        NEW | {"results": []},
        NEW | {"results": None},
        NEW | {"results": [{"outputType": "png"}]},
    ],
)
def test_a_success_without_output_is_a_failure(event: Any) -> None:
    said = read(event)
    assert said.outcome == "failed" and said.output is None and said.error
    assert said.error.startswith("the task succeeded without output")


def test_a_success_without_output_says_what_the_provider_said_of_it() -> None:
    assert read(OLD | {"data": []}).error == "the task succeeded without output (success)"
    assert read(NEW | {"results": [], "errorMessage": "empty"}).error == "the task succeeded without output (empty)"
    assert read(NEW | {"results": []}).error == "the task succeeded without output"


def test_what_is_no_number_in_json_is_nothing() -> None:
    raw = b'{"event":"TASK_END","taskId":"1","eventData":{"code":NaN}}'
    with pytest.raises(Unreadable) as refused:
        RUNNINGHUB.read(call(raw))
    assert refused.value.field == "eventData"


def test_the_length_of_each_text_is_bounded_by_itself() -> None:
    longest = "u" * 4000
    files = [{"fileUrl": longest, "fileType": "t" * 300}, {"fileUrl": longest + "u", "fileType": "png"}]
    assert read(OLD | {"data": files}).output == {"files": [{"url": longest, "type": "t" * 256}]}
    why = {"failedReason": {"exception_message": "e" * 4000}}
    assert read({"code": 1, "msg": "m" * 2000, "data": why}).error == "e" * 2997 + " (" + "m" * 1000 + ")"
    assert read({"code": 1, "msg": "m" * 10, "data": why}).error == "e" * 3987 + " (" + "m" * 10 + ")"
    assert read({"code": 1, "msg": "same", "data": {"failedReason": " same "}}).error == "same"
    assert read({"code": "c" * 300}).error == "code " + "c" * 256
    assert read({"status": "FAILED", "errorCode": 10**9 - 1}).error == f"code {10**9 - 1}"
    assert read({"status": "FAILED", "errorCode": 10**9}).error == "the task failed, no reason was given"
    for length in (1, 256):
        assert RUNNINGHUB.read(end(OLD, "t" * length)) is not None
    assert RUNNINGHUB.read(end(OLD, 10**256 - 1)) is not None
    for wrong in ("t" * 257, 10**256):
        with pytest.raises(Unreadable):
            RUNNINGHUB.read(end(OLD, wrong))


def test_other_events_are_passed_over() -> None:
    assert RUNNINGHUB.read(call({"event": "TASK_START", "taskId": "1"})) is None
    assert RUNNINGHUB.read(call({"event": ""})) is None


def test_who_has_configured_no_token_is_told_so() -> None:
    for secrets in ([], [""]):
        with pytest.raises(Forged, match="has no secret of this provider"):
            RUNNINGHUB.read(dataclasses.replace(end(OLD, TOKEN), secrets=secrets))


@pytest.mark.parametrize("token", ["", "the-toke", "the-token ", "é", "\udc80"])
def test_another_token_is_forged_and_said_nowhere(token: str) -> None:
    with pytest.raises(Forged) as refused:
        RUNNINGHUB.read(call(OLD, token))
    assert TOKEN not in refused.value.detail
    for callback in (dataclasses.replace(end(OLD), query={}), dataclasses.replace(end(OLD, TOKEN), secrets=["", "x"])):
        with pytest.raises(Forged):
            RUNNINGHUB.read(callback)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"\xff", "body"),
        (b"[" * 100_000, "body"),
        (b"1" * 5000, "body"),
        (b"[]", "body"),
        (b" " * (8 * 1024 * 1024 + 1), "body"),
        ({}, "event"),
        ({"event": 1}, "event"),
        ({"event": "TASK_END"}, "taskId"),
        ({"event": "TASK_END", "taskId": ""}, "taskId"),
        ({"event": "TASK_END", "taskId": True}, "taskId"),
        ({"event": "TASK_END", "taskId": 10**300}, "taskId"),
        ({"event": "TASK_END", "taskId": "a\x00"}, "taskId"),
        ({"event": "TASK_END", "taskId": "1"}, "eventData"),
        ({"event": "TASK_END", "taskId": "1", "eventData": "{"}, "eventData"),
        ({"event": "TASK_END", "taskId": "1", "eventData": "[" * 100_000}, "eventData"),
        ({"event": "TASK_END", "taskId": "1", "eventData": "[]"}, "eventData"),
        ({"event": "TASK_END", "taskId": "1", "eventData": {}}, "eventData"),
        ({"event": "TASK_END", "taskId": "1", "eventData": {"code": None}}, "eventData"),
        ({"event": "TASK_END", "taskId": "1", "eventData": {"code": False}}, "eventData.code"),
        ({"event": "TASK_END", "taskId": "1", "eventData": {"code": []}}, "eventData.code"),
        ({"event": "TASK_END", "taskId": "1", "eventData": {"status": "RUNNING"}}, "eventData.status"),
        ({"event": "TASK_END", "taskId": "1", "eventData": {"status": {}}}, "eventData.status"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_read_names_the_field(body: Any, field: str) -> None:
    with pytest.raises(Unreadable) as refused:
        RUNNINGHUB.read(call(body))
    assert refused.value.field == field


def test_a_number_of_a_task_is_its_name_and_unknown_fields_are_passed_over() -> None:
    raw = b'\xef\xbb\xbf{"event":"TASK_END","event":"TASK_END","taskId":7,"x":NaN,"eventData":{"code":0,"y":1,"data":[{"fileUrl":"u"}]}}'
    said = RUNNINGHUB.read(call(raw))
    assert said and said.task_id == "7" and said.output == {"files": [{"url": "u", "type": ""}]}


def test_texts_are_clean_and_bounded() -> None:
    why = {"exception_message": "a\x00\ud800b" + "c" * 5000}
    said = read({"code": 1, "msg": "m" * 5000, "data": {"failedReason": why}})
    assert said.error is not None and len(said.error) == 4000
    assert said.error.startswith("abc") and said.error.endswith("m)")
    assert read({"code": 1, "msg": " \x00 "}).error == "code 1"


def test_an_output_has_as_many_files_as_there_is_room_for() -> None:
    said = read(OLD | {"data": [FILE | {"fileUrl": f"https://x/{n}/" + "e" * 2000} for n in range(60)]})
    assert said.outcome == "completed" and 20 < len(said.output["files"]) < 60
    assert len(json.dumps(said.output, ensure_ascii=False).encode()) <= 64 * 1024


def test_the_same_of_the_same_task_is_one_delivery() -> None:
    assert read(OLD).delivery_id == read(dict(reversed(OLD.items()))).delivery_id
    assert len({read(OLD).delivery_id, read(NEW).delivery_id, read({"code": 1}).delivery_id}) == 3
    other = RUNNINGHUB.read(end(OLD, "2"))
    assert other and other.delivery_id != read(OLD).delivery_id


def test_a_token_that_cannot_be_one_is_said() -> None:
    assert RUNNINGHUB.fault(TOKEN) is None
    assert RUNNINGHUB.fault("") and RUNNINGHUB.fault("a\nb")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=8,
)
FILES_OR_NOT = JSON | st.lists(
    st.fixed_dictionaries({}, optional={"fileUrl": JSON, "url": JSON, "fileType": JSON, "outputType": JSON}), max_size=3
)
REASON = JSON | st.fixed_dictionaries({"exception_message": JSON})
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "code": JSON | st.sampled_from([0, 805]),
        "msg": JSON,
        "data": FILES_OR_NOT | st.fixed_dictionaries({"failedReason": REASON}),
        "status": JSON | st.sampled_from(["SUCCESS", "FAILED"]),
        "results": FILES_OR_NOT,
        "errorMessage": JSON,
        "errorCode": JSON,
        "failedReason": REASON,
        "usage": JSON | st.fixed_dictionaries({"consumeCoins": JSON}),
    },
)
BODY = st.fixed_dictionaries(
    {"event": st.just("TASK_END") | JSON, "taskId": st.just("1") | JSON, "eventData": EVENT | EVENT.map(json.dumps) | JSON}
)


@settings(max_examples=300, deadline=None)
@given(st.binary() | (BODY | JSON).map(lambda body: json.dumps(body).encode()))
def test_any_bytes_give_a_result_or_a_typed_refusal(body: bytes) -> None:
    try:
        said = RUNNINGHUB.read(call(body))
    except Unreadable as refused:
        assert refused.field.split(".")[0] in ("body", "event", "taskId", "eventData")
        return
    if said is None:
        return
    assert said.outcome in ("completed", "failed")
    assert (said.error is None) == (said.outcome == "completed") == (said.output is not None)
    assert said.error is None or 1 <= len(said.error) <= 4000
    text = json.dumps(dataclasses.asdict(said), allow_nan=False, ensure_ascii=False)
    assert len(text.encode()) < 96 * 1024 and "\\u0000" not in text
