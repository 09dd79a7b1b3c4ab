"""What is saved from a body that could not be read: its task, and its content."""

from __future__ import annotations

import json

import pytest

from gate.model.limits import OUTPUT_MAX_BYTES
from gate.providers import PROVIDERS, salvage
from gate.providers.parsing import size


@pytest.mark.parametrize(
    "body, task_id",
    [
        ('{"event": "TASK_END", "taskId": "123", "eventData": 7}', "123"),
        ('{"taskId": 1904154698688, "eventData": "no JSON"}', "1904154698688"),
        ('{"data": {"task_id": "a task, with words"}}', "a task, with words"),
        ('{"eventData": "{\\"taskId\\": \\"in-a-string\\"}"}', "in-a-string"),
        ('{"event": "TASK_END", "taskId": "broken", "eventData": {"co', "broken"),
        ('{"event": "TASK_END", "taskId": 77, "eventData": {"co', "77"),
        ("event=TASK_END&taskId=of-a-form&x=1", "of-a-form"),
        ("{'taskId': 'python'", "python"),
        ('{"taskId": null, "data": {"taskId": "second"}}', "second"),
        ('{"taskId": null, ', None),
        ('{"taskId": true}', None),
        ('{"taskId": "", "x": 1}', None),
        ('{"parent_task_id": "p", "subTaskId": "s"}', None),
        ("[]", None),
        ("", None),
        ("taskId", None),
        ('{"taskId": "' + "9" * 300, None),
        ('{"taskId": "cut he', None),
        ('{"taskId": "a\\u0000b"}', None),
    ],
)
def test_the_task_is_found_also_in_json_that_breaks(body: str, task_id: str | None) -> None:
    assert salvage.task_id(body, PROVIDERS["runninghub"].task_names) == task_id


def test_the_task_is_found_in_the_fields_of_its_provider() -> None:
    assert salvage.task_id('{"job": {"id": "lum-1"}, "taskId": "other"}', ("id",)) == "lum-1"
    assert salvage.task_id('{"job": {"id": "lum-1", "broken', ("id",)) == "lum-1"
    assert salvage.task_id('{"taskId": "other"}', ("id",)) is None


def test_no_body_takes_long() -> None:
    for body in ("taskId" * 40_000, 'taskId"' * 30_000, "taskId:" + " " * 200_000, "\\" * 200_000, '{"taskId":' * 20_000):
        assert salvage.task_id(body, PROVIDERS["runninghub"].task_names) in (None, "taskId")


def test_the_output_is_its_json_or_its_text_and_bounded() -> None:
    assert salvage.output('{"n": [1, NaN]}') == {"raw": {"n": [1, None]}}
    assert salvage.output('{"n": 1') == {"raw": '{"n": 1'}
    assert salvage.output('{"n": 1e999}') == {"raw": {"n": None}}
    for large in (json.dumps(["x" * 1000] * 100), "[" * 100 + "]" * 100, '"\\u0000' + "\x01" * 70_000):
        found = salvage.output(large)
        assert found["raw"] and size(found) <= OUTPUT_MAX_BYTES
