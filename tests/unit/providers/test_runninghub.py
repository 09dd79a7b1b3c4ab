"""RunningHub's callbacks: both shapes, and whatever else may come."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.model.errors import Forged, Unreadable
from gate.model.messages import ProviderReport
from gate.providers import PROVIDERS
from gate.providers.callback import Callback

TOKEN = "the-token"
RUNNINGHUB = PROVIDERS["runninghub"]
FILE = {"fileUrl": "https://x/1.png", "fileType": "png", "taskCostTime": 78, "nodeId": "9"}
OLD = {"code": 0, "msg": "success", "data": [FILE]}
RESULT = {"url": "https://x/1.png", "outputType": "png"}
NEW: dict[str, Any] = {"status": "SUCCESS", "results": [RESULT], "errorMessage": "", "errorCode": "", "failedReason": {},
                       "usage": {"consumeCoins": 12}}  # fmt: skip
FILES = {"files": [{"url": "https://x/1.png", "type": "png"}]}
URL = "https://x/1.png"
MARK = "… (cut)"
TEXT = {"url": None, "outputType": "txt", "text": " a poem\x00 "}
OUTPUT_MAX = 64 * 1024


def call(body: Any, token: str = TOKEN) -> Callback:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Callback({}, {"token": token}, raw, ["", "another", TOKEN], 0)


def end(event: Any, task_id: Any = "1904154698679771137") -> Callback:
    return call({"event": "TASK_END", "taskId": task_id, "eventData": event})


def read(event: Any) -> ProviderReport:
    said = RUNNINGHUB.read(end(event))
    assert said is not None and said.task_id == "1904154698679771137" and said.job_id is None
    assert RUNNINGHUB.read(end(json.dumps(event))) == said, "in a string it means the same"
    return said


def output_size(said: ProviderReport) -> int:
    return len(json.dumps(said.output, ensure_ascii=False, allow_nan=False).encode())


def test_a_success_of_the_old_shape() -> None:
    said = read(OLD)
    file = {"url": "https://x/1.png", "type": "png", "taskCostTime": 78, "nodeId": "9"}
    assert (said.outcome, said.error, said.output, said.understood) == ("completed", None, {"files": [file]}, True)
    assert read(OLD | {"code": "0"}).outcome == "completed"


def test_a_success_of_the_new_shape() -> None:
    said = read(NEW)
    wanted = FILES | {"coins": 12, "usage": {"consumeCoins": 12}}
    assert (said.outcome, said.error, said.output, said.understood) == ("completed", None, wanted, True)
    assert read(NEW | {"usage": {"consumeCoins": "1.5"}}).output["coins"] == 1.5
    for nothing in (None, {}, "", []):
        assert read(NEW | {"usage": nothing, "taskUsageList": nothing}).output == FILES
    for coins, kept in (("1.5", 1.5), ("200", 200), (200.0, 200), (2**53, 2.0**53), (2**53 - 1, 2**53 - 1)):
        read_coins = read(NEW | {"usage": {"consumeCoins": coins}}).output["coins"]
        assert (type(read_coins), read_coins) == (type(kept), kept)
    for none in (True, None, [], "x", "nan", "inf", 10**400):
        assert "coins" not in read(NEW | {"usage": {"consumeCoins": none}}).output


@pytest.mark.parametrize("success", [{"code": 0, "msg": "success"}, {"status": "SUCCESS"}, {"status": " success"}])
@pytest.mark.parametrize(
    ("carried", "output"),
    [
        ({"results": [{"fileUrl": URL}]}, {"files": [{"url": URL, "type": ""}]}),
        ({"results": [{"url": URL, "outputType": "png"}]}, FILES),
        ({"results": [{"url": "", "fileUrl": URL, "fileType": "png"}]}, FILES),
        ({"data": [{"url": URL, "outputType": "", "fileType": "png"}]}, FILES),
        ({"data": [{"fileUrl": URL, "type": "png"}]}, FILES),
        ({"data": {"fileUrl": URL, "fileType": "png"}}, FILES),
        ({"data": {"url": URL, "fileType": "png"}}, FILES),
        ({"data": {"url": [URL]}}, {"files": [{"url": URL, "type": ""}]}),
        ({"data": {"taskId": "1", "outputFileList": [URL]}}, {"files": [{"url": URL, "type": ""}]}),
        ({"data": {"outputFileList": [{"fileUrl": URL, "fileType": "png"}]}}, FILES),
        ({"data": {"results": {"files": [{"url": URL, "type": "png"}]}}}, FILES),
        ({"results": {"url": URL, "outputType": "png"}}, FILES),
        ({"results": ["https://x/1.png", " HTTPS://x/2.png "]},
         {"files": [{"url": URL, "type": ""}, {"url": "HTTPS://x/2.png", "type": ""}]}),
        ({"data": ["https://x/1.png", "a word", 7, {}]}, {"files": [{"url": URL, "type": ""}]}),
        ({"data": URL}, {"files": [{"url": URL, "type": ""}]}),
        ({"results": [TEXT]}, {"files": [], "texts": ["a poem"]}),
        ({"results": [TEXT, TEXT, {"url": URL, "outputType": "png"}]}, FILES | {"texts": ["a poem"]}),
        ({"data": {"text": "a poem"}}, {"files": [], "texts": ["a poem"]}),
        ({"data": {"text": "a poem", "outputFileList": [URL]}}, {"files": [{"url": URL, "type": ""}], "texts": ["a poem"]}),
        ({"data": {"url": URL, "type": "png", "files": [{"url": "b"}]}}, {"files": [*FILES["files"], {"url": "b", "type": ""}]}),
        ({"results": [{"url": URL, "outputType": "png"}], "data": [{"fileUrl": URL}]}, FILES),
        ({"results": [{"url": URL, "outputType": "png"}], "data": [{"fileUrl": "b"}]},
         {"files": [*FILES["files"], {"url": "b", "type": ""}]}),
        ({"results": [{"odd": 1}], "data": [{"fileUrl": URL, "fileType": "png"}]}, FILES),
    ],
    ids=str,
)  # fmt: skip
def test_a_success_is_read_in_every_shape(success: dict[str, Any], carried: Any, output: Any) -> None:
    said = read(success | carried)
    assert (said.outcome, said.error, said.output, said.understood) == ("completed", None, output, True)


@pytest.mark.parametrize(
    "carried",
    [
        {"data": [{"fileUrl": ""}, {"fileUrl": 1}, 7, {}]},
        {"data": "a word"},
        {"data": 7},
        {"results": [{"url": None, "outputType": "png"}]},
        {"results": {"video": {"address": URL}}},
        {"results": ["ftp://x/1.png"]},
        {"results": ["https://x/1.png and more"]},
        {"results": [[[[[[[{"url": URL}]]]]]]]},
        {"results": [], "outputs": [URL]},
        {"output": "a word"},
        {"made": {"one": [0, 1]}},
    ],
    ids=str,
)
def test_a_success_of_an_unknown_shape_is_completed_with_the_event_itself(carried: dict[str, Any]) -> None:
    for event in (carried | {"code": 0}, carried | {"status": "SUCCESS", "x": None}):
        said = read(event)
        assert (said.outcome, said.error, said.output) == ("completed", None, {"files": [], "raw": event})
        assert not said.understood


def test_an_event_of_an_unknown_shape_keeps_its_costs_and_is_bounded() -> None:
    event = {"status": "SUCCESS", "results": {"x": ['"é' * 10_000]}, "usage": {"consumeCoins": "3"}}
    said = read(event)
    raw = said.output.pop("raw")
    assert said.output == {"files": [], "coins": 3, "usage": {"consumeCoins": "3"}} and not said.understood
    assert raw.startswith('{"status": "SUCCESS", "results": {"x": ["\\"é') and raw.endswith(MARK)
    assert 16_000 < len(json.dumps(raw, ensure_ascii=False).encode()) <= 16 * 1024
    event = {"code": 0, "data": {"x": float("inf"), "y\x00": "\ud83d1", "z": "e" * (16 * 1024 - 60)}}
    assert read(event).output["raw"] == {"code": 0, "data": {"x": None, "y": "1", "z": "e" * (16 * 1024 - 60)}}


@pytest.mark.parametrize("event", [{"code": 804}, {"code": "804"}, {"code": 813.0, "msg": "APIKEY_TASK_IS_QUEUED"},
                                   {"status": "RUNNING"}, {"status": "queued"}, {"status": "CREATE", "results": None}])  # fmt: skip
def test_a_task_that_goes_on_has_not_ended(event: dict[str, Any]) -> None:
    assert RUNNINGHUB.read(end(event)) is None
    assert RUNNINGHUB.read(end(json.dumps(event))) is None


@pytest.mark.parametrize("status", ["CANCELED", "CANCELLED", "cancelled"])
def test_a_cancelled_task_ends_as_cancelled(status: str) -> None:
    said = read({"status": status, "results": None, "errorMessage": "", "usage": {"consumeCoins": "2"}})
    assert (said.outcome, said.error, said.output) == ("cancelled", None, {"coins": 2, "usage": {"consumeCoins": "2"}})
    assert read({"status": status, "errorMessage": "by the user"}).error == "by the user"


def test_every_cost_is_kept() -> None:
    usage = {"consumeCoins": "12", "consumeMoney": None, "taskCostTime": "78", "thirdPartyConsumeMoney": 0.5}
    parts = [{"taskId": "1", "usage": {"consumeCoins": 7}}, {"taskId": "2", "usage": {"consumeCoins": 5}}]
    costs = {"coins": 12, "usage": usage, "taskUsageList": parts}
    assert read(NEW | {"usage": usage, "taskUsageList": parts}).output == FILES | costs
    assert read(OLD | {"usage": usage, "taskUsageList": parts}).output.items() >= costs.items()
    for failed in ({"status": "FAILED"}, {"code": 805}, {"code": 0, "data": []}):
        said = read(failed | {"usage": usage, "taskUsageList": parts})
        assert (said.outcome, said.output) == ("failed", costs)
    assert read({"status": "FAILED", "usage": 0}).output == {"usage": 0}
    long = read(NEW | {"usage": {"consumeCoins": 1, "x": "u" * 9000}, "taskUsageList": ["p" * 20_000]}).output
    assert long["files"] and long["coins"] == 1 and long["usage"]["text"].endswith("u" + MARK)
    assert long["taskUsageList"]["text"].endswith("p" + MARK)
    assert len(json.dumps(long["usage"])) <= 4 * 1024 + 8 and len(json.dumps(long["taskUsageList"])) <= 12 * 1024 + 8


def test_a_file_keeps_its_plain_fields_bounded() -> None:
    more = {"taskCostTime": "78", "nodeId": 9, "consumeCoins": 1.5, "cached": False}
    odd = {"thumbnail": {"url": "t"}, "none": None, "blank": " ", "huge": 10**100, "text": "", "u\x00rl": "other"}
    assert read(OLD | {"data": [FILE | more | odd]}).output == {"files": [FILES["files"][0] | more]}
    many = read(OLD | {"data": [{"url": URL} | {f"{n}" + "n" * 90: "v" * 300 for n in range(10, 40)}]}).output["files"][0]
    assert len(many) == 2 + 16 and many[f"10{'n' * 62}"] == "v" * 249 + MARK


def test_a_failure_of_the_old_shape() -> None:
    event = {"code": 805, "msg": "APIKEY_TASK_STATUS_ERROR", "data": {"failedReason": {"exception_message": "no memory"}}}
    said = read(event)
    assert (said.outcome, said.error, said.output) == ("failed", "no memory (APIKEY_TASK_STATUS_ERROR)", None)
    assert read(event | {"data": None}).error == "APIKEY_TASK_STATUS_ERROR"
    assert read({"code": 805}).error == "code 805"


def test_a_failure_of_the_new_shape() -> None:
    event = NEW | {"status": "FAILED", "errorMessage": "bad node", "failedReason": {"exception_message": "no memory"}}
    said = read(event)
    costs = {"coins": 12, "usage": {"consumeCoins": 12}}
    assert (said.outcome, said.error, said.output) == ("failed", "no memory (bad node)", costs)
    assert read(event | {"failedReason": {}}).error == "bad node"
    assert read(event | {"failedReason": None, "errorMessage": None, "errorCode": "805"}).error == "code 805"
    assert read({"status": "FAILED"}).error == "the task failed, no reason was given"


@pytest.mark.parametrize(
    "event",
    [
        OLD | {"data": []},
        OLD | {"data": None},
        OLD | {"data": {}},
        OLD | {"data": [{"fileUrl": ""}, {}, None, [[]], 0, False, " "]},
        OLD | {"data": "", "number": 7, "promptTips": "tips", "clientId": "c", "taskCostTime": 7, "extra": {"x": []}},
        NEW | {"results": [], "usage": None},
        NEW | {"results": None, "usage": {}},
    ],
)
def test_a_success_without_output_is_a_failure(event: Any) -> None:
    said = read(event)
    assert said.outcome == "failed" and said.output is None and said.error and said.understood
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


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"code": 1, "msg": "m" * 5000}, "m" * 3993 + MARK),
        ({"code": 1, "msg": "m" * 4000}, "m" * 4000),
        ({"code": 1, "msg": {"why": ["\ud83d"]}}, '{"why": [""]}'),
        ({"code": 1, "msg": 7}, "7"),
        ({"code": 1, "msg": " \x00 "}, "code 1"),
        ({"code": 1, "msg": "same", "data": {"failedReason": " same "}}, "same"),
        (
            {"code": 1, "msg": "m" * 2000, "data": {"failedReason": "e" * 4000}},
            "e" * 2990 + MARK + " (" + "m" * 993 + MARK + ")",
        ),
        ({"code": 1, "msg": "m" * 10, "data": {"failedReason": "e" * 4000}}, "e" * 3980 + MARK + " (" + "m" * 10 + ")"),
        ({"code": "c" * 300}, "code " + "c" * 249 + MARK),
        ({"code": 10**30}, f"code {10**30}"),
        ({"status": "FAILED", "errorCode": 10**9}, f"code {10**9}"),
        ({"status": "FAILED", "errorCode": "1011", "failedReason": "busy"}, "busy (code 1011)"),
        ({"status": "FAILED", "errorMessage": "cut \ud83d"}, "cut"),
        ({"status": "FAILED", "errorMessage": ["a", float("nan")]}, '["a", null]'),
        ({"status": "FAILED", "failedReason": {"exception_message": {"a": 1}}}, '{"a": 1}'),
        ({"status": "FAILED", "failedReason": {"message": "m"}}, "m"),
        ({"status": "FAILED", "failedReason": {"node_name": "n"}}, '{"node_name": "n"}'),
        ({"status": "FAILED", "failedReason": {"node_name": "n"}, "errorMessage": "bad"}, "bad"),
        ({"status": "FAILED", "failedReason": 5}, "5"),
        ({"status": "FAILED", "failedReason": "top", "data": {"failedReason": "inner"}}, "top"),
        ({"status": "FAILED", "failedReason": {}, "data": {"failedReason": {"exception_message": "e"}}}, "e"),
    ],
    ids=lambda value: str(value)[:60].encode("ascii", "backslashreplace").decode(),
)
def test_an_end_is_never_refused_for_its_error(event: dict[str, Any], error: str) -> None:
    said = read(event)
    assert (said.outcome, said.error) == ("failed", error)


def test_the_number_of_a_task_stays_exact() -> None:
    for number in (7, 1904154698679771137, 9_999_999_999_999_999_999, 10**256 - 1):
        said = RUNNINGHUB.read(end(OLD, number))
        assert said is not None and said.task_id == str(number)
    assert RUNNINGHUB.read(end(OLD, "t" * 256)) is not None
    for wrong in ("t" * 257, 10**256, 1.9e18, True):
        with pytest.raises(Unreadable):
            RUNNINGHUB.read(end(OLD, wrong))


def test_an_address_is_kept_whole_or_not_at_all() -> None:
    longest = "https://x/" + "é" * 4090
    assert read(OLD | {"data": [{"fileUrl": longest}]}).output == {"files": [{"url": longest, "type": ""}]}
    room = OUTPUT_MAX - len(json.dumps({"files": []})) - 64 - len(json.dumps({"url": "", "type": "t" * 256})) - 2
    fits = {"url": "https://x/" + "u" * (room - 10), "outputType": "t" * 300}
    said = read(NEW | {"results": [fits], "usage": None})
    assert said.output == {"files": [{"url": fits["url"], "type": "t" * 256}]} and output_size(said) <= OUTPUT_MAX
    said = read(NEW | {"results": [fits | {"url": fits["url"] + "u"}, RESULT], "usage": None})
    assert said.output == FILES | {"cut": True}
    said = read(NEW | {"results": [{"url": "data:image/png;base64," + "A" * 100_000}]})
    assert (said.outcome, said.understood, said.output["files"]) == ("completed", False, [])
    assert said.output["raw"].endswith(MARK)


def test_texts_are_kept_as_far_as_there_is_room() -> None:
    said = read({"status": "SUCCESS", "results": [{"text": "é" * 5000}, {"text": "b" * 100_000}, {"text": "c"}, RESULT]})
    assert said.output["files"] == FILES["files"] and said.output["texts"][0] == "é" * 5000 and said.output["cut"]
    assert said.output["texts"][1].endswith("b" + MARK) and len(said.output["texts"]) == 2
    assert OUTPUT_MAX - 128 < output_size(said) <= OUTPUT_MAX
    said = read({"code": 0, "data": {"text": "b" * 100_000}})
    assert said.output["texts"][0].endswith("b" + MARK) and said.output["cut"] and output_size(said) <= OUTPUT_MAX
    said = read({"code": 0, "data": [{"text": f"{n}"} for n in range(20_000)]})
    assert said.output["cut"] and len(said.output["texts"]) > 5000 and output_size(said) <= OUTPUT_MAX


def test_other_events_are_passed_over() -> None:
    assert RUNNINGHUB.read(call({"event": "TASK_START", "taskId": "1"})) is None
    assert RUNNINGHUB.read(call({"event": ""})) is None


def test_a_missing_token_is_reported() -> None:
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
        ({"event": "TASK_END", "taskId": "1", "eventData": {"status": "ENDED", "code": 0}}, "eventData.status"),
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


def test_an_output_has_as_many_files_as_there_is_room_for() -> None:
    said = read(OLD | {"data": [FILE | {"fileUrl": f"https://x/{n}/" + "e" * 2000} for n in range(60)]})
    assert said.outcome == "completed" and 20 < len(said.output["files"]) < 60
    assert output_size(said) <= OUTPUT_MAX and said.output["cut"]
    many = read(OLD | {"data": [f"https://x/{n}" for n in range(20_000)]})
    assert many.output["cut"] and len(many.output["files"]) > 1000 and output_size(many) <= OUTPUT_MAX


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
    st.fixed_dictionaries(
        {}, optional={"fileUrl": JSON, "url": JSON, "fileType": JSON, "outputType": JSON, "text": JSON, "x": JSON}
    ),
    max_size=3,
)
REASON = JSON | st.fixed_dictionaries({"exception_message": JSON})
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "code": JSON | st.sampled_from([0, 805]),
        "msg": JSON,
        "data": FILES_OR_NOT | st.fixed_dictionaries({"failedReason": REASON}),
        "status": JSON | st.sampled_from(["SUCCESS", "FAILED", "CANCELED"]),
        "results": FILES_OR_NOT,
        "errorMessage": JSON,
        "errorCode": JSON,
        "failedReason": REASON,
        "taskUsageList": JSON,
        "odd": JSON,
        "usage": JSON | st.fixed_dictionaries({"consumeCoins": JSON}),
    },
)
BODY = st.fixed_dictionaries(
    {"event": st.just("TASK_END") | JSON, "taskId": st.just("1") | JSON, "eventData": EVENT | EVENT.map(json.dumps) | JSON}
)


@settings(max_examples=150, deadline=None)
@given(st.binary() | (BODY | JSON).map(lambda body: json.dumps(body).encode()))
def test_any_bytes_give_a_result_or_a_typed_refusal(body: bytes) -> None:
    try:
        said = RUNNINGHUB.read(call(body))
    except Unreadable as refused:
        assert refused.field.split(".")[0] in ("body", "event", "taskId", "eventData")
        return
    if said is None:
        return
    assert said.outcome in ("completed", "failed", "cancelled")
    assert said.outcome == "cancelled" or (said.error is None) == (said.outcome == "completed")
    assert said.outcome != "completed" or "files" in said.output
    assert said.understood or (said.outcome == "completed" and "raw" in said.output)
    assert said.error is None or 1 <= len(said.error) <= 4000
    text = json.dumps(dataclasses.asdict(said), allow_nan=False, ensure_ascii=False)
    assert output_size(said) <= OUTPUT_MAX and "\\u0000" not in text
