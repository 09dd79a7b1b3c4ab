"""Standard Webhooks: what is signed is read, and nothing else is."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from gate.model.errors import Forged, Unreadable
from gate.model.messages import ErrorKind, ProviderReport
from gate.providers import PROVIDERS
from gate.providers.callback import Callback

NOW = 1_700_000_000
SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four b").decode()
OLD_SECRET = base64.b64encode(b"the one before it, as long").decode()
STANDARD = PROVIDERS["standard"]
MARK = "… (cut)"
END: dict[str, Any] = {"type": "task.ended", "data": {"task_id": "t-1", "outcome": "completed"}}


def signed(body: Any, at: int = NOW, secret: str = SECRET, delivery_id: str = "d-1", **headers: str) -> Callback:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = Webhook(secret).sign(delivery_id, datetime.fromtimestamp(at, UTC), raw.decode())
    shown = {"webhook-id": delivery_id, "webhook-timestamp": str(at), "webhook-signature": signature}
    return Callback(shown | {name.replace("_", "-"): value for name, value in headers.items()}, {}, raw, [SECRET], NOW)


def end(**data: Any) -> Callback:
    return signed({"type": "x", "data": {"outcome": "failed"} | data})


def test_a_task_or_a_job_is_named_with_its_outcome() -> None:
    assert STANDARD.read(signed(END)) == ProviderReport("completed", "d-1", task_id="t-1")
    said = STANDARD.read(end(job_id="j-1", error="it broke", output={"url": ["x", 1, None]}, error_kind=ErrorKind.UNKNOWN))
    assert said == ProviderReport(
        "failed", "d-1", job_id="j-1", error="it broke", output={"url": ["x", 1, None]}, error_kind=ErrorKind.UNKNOWN
    )
    assert STANDARD.read(end(job_id="j-1", task_id=None, outcome="cancelled")) == ProviderReport(
        "cancelled", "d-1", job_id="j-1"
    )


def test_headers_are_found_whatever_their_case() -> None:
    callback = signed(END)
    loud = dataclasses.replace(callback, headers={name.title(): value for name, value in callback.headers.items()})
    assert STANDARD.read(loud) == STANDARD.read(callback)


def test_other_events_and_unknown_fields_are_passed_over() -> None:
    assert STANDARD.read(signed({"type": "task.progress", "data": {"task_id": "t-1", "percent": 50}})) is None
    assert STANDARD.read(signed({"type": "job.completed", "data": {"job_id": "j", "status": "completed"}})) is None
    assert STANDARD.read(signed(END | {"more": 1, "data": END["data"] | {"more": 1}})) is not None


def test_each_of_several_secrets_and_signatures_will_do() -> None:
    by_the_old = signed(END, secret=OLD_SECRET)
    with pytest.raises(Forged):
        STANDARD.read(by_the_old)
    assert STANDARD.read(dataclasses.replace(by_the_old, secrets=[SECRET, OLD_SECRET]))
    both = f"v1a,zzz {by_the_old.headers['webhook-signature']} {signed(END).headers['webhook-signature']}"
    assert STANDARD.read(signed(END, webhook_signature=both))


@pytest.mark.parametrize("away", [-301, 301, 10**9])
def test_a_stale_or_an_early_one_is_forged(away: int) -> None:
    with pytest.raises(Forged):
        STANDARD.read(signed(END, at=NOW + away))
    assert STANDARD.read(signed(END, at=NOW - 300)) and STANDARD.read(signed(END, at=NOW + 300))


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook_timestamp": f"{NOW}.0"},
        {"webhook_timestamp": f" {NOW}"},
        {"webhook_timestamp": f"+{NOW}"},
        {"webhook_timestamp": f"0{NOW}"},
        {"webhook_timestamp": "1_700_000_000"},
        {"webhook_timestamp": "\uff11700000000"},
        {"webhook_timestamp": "9" * 5000},
        {"webhook_timestamp": "nan"},
        {"webhook_timestamp": ""},
        {"webhook_id": ""},
        {"webhook_id": "d-2"},
        {"webhook_id": "é"},
        {"webhook_id": "d" * 257},
        {"webhook_signature": ""},
        {"webhook_signature": "v1"},
        {"webhook_signature": "v1,"},
        {"webhook_signature": "v1,a,b"},
        {"webhook_signature": "v1,é\udc80"},
        {"webhook_signature": "v2," + signed(END).headers["webhook-signature"][3:]},
    ],
)
def test_headers_that_are_not_as_they_should_be_are_forged(headers: dict[str, str]) -> None:
    with pytest.raises(Forged):
        STANDARD.read(signed(END, **headers))


def test_nothing_passes_without_headers_or_without_a_secret_or_with_another_body() -> None:
    for forged in (
        dataclasses.replace(signed(END), headers={}),
        dataclasses.replace(signed(END), secrets=[]),
        dataclasses.replace(signed(END), secrets=["", "whsec_", "a"]),
        dataclasses.replace(signed(END), body=b"{}"),
        dataclasses.replace(signed(END), body=b"\xff"),
    ):
        with pytest.raises(Forged) as refused:
            STANDARD.read(forged)
        assert SECRET not in refused.value.detail


def test_a_missing_secret_is_reported() -> None:
    for secrets in ([], ["", "whsec_"]):
        with pytest.raises(Forged, match="has no secret of this provider"):
            STANDARD.read(dataclasses.replace(signed(END), secrets=secrets))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"[" * 100_000, "body"),
        (b"\xef\xbb\xbf{}", "body"),
        (b"1" * 5000, "body"),
        (b'{"type": "x", "type": "y"}', "body"),
        (b'{"type": "x", "data": {"n": NaN}}', "body"),
        (b'{"type": "x", "data": {"n": 1e999}}', "body"),
        (b" " * (8 * 1024 * 1024 + 1), "body"),
        ({"data": {}}, "type"),
        ({"type": 1, "data": {}}, "type"),
        ({"type": "x"}, "data"),
        ({"type": "x", "data": []}, "data"),
        ({"type": "x", "data": {"outcome": "done", "job_id": "j"}}, "data.outcome"),
        ({"type": "x", "data": {"outcome": None, "job_id": "j"}}, "data.outcome"),
        ({"type": "x", "data": {"outcome": ["failed"], "job_id": "j"}}, "data.outcome"),
        ({"type": "x", "data": {"outcome": "failed"}}, "data.job_id"),
        ({"type": "x", "data": {"outcome": "failed", "job_id": "j", "task_id": "t"}}, "data.job_id"),
        ({"type": "x", "data": {"outcome": "failed", "job_id": "a/b"}}, "data.job_id"),
        ({"type": "x", "data": {"outcome": "failed", "task_id": 1.5}}, "data.task_id"),
        ({"type": "x", "data": {"outcome": "failed", "task_id": True}}, "data.task_id"),
        ({"type": "x", "data": {"outcome": "failed", "task_id": 10**256}}, "data.task_id"),
        ({"type": "x", "data": {"outcome": "failed", "task_id": ""}}, "data.task_id"),
        ({"type": "x", "data": {"outcome": "failed", "task_id": "t" * 257}}, "data.task_id"),
        ({"type": "x", "data": {"outcome": "failed", "task_id": "a\nb"}}, "data.task_id"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_signed_body_that_is_not_of_the_form_names_the_field(body: Any, field: str) -> None:
    with pytest.raises(Unreadable) as refused:
        STANDARD.read(signed(body))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("a\x00b\ud800", "ab"),
        ("c" * 4000, "c" * 4000),
        ("c" * 4001, "c" * 3993 + MARK),
        ("\ud83d", None),
        ("", None),
        (" \x00 ", None),
        ({}, None),
        ([], None),
        (7, "7"),
        (False, "false"),
        ({"code": 5, "text": "\ud83dé"}, '{"code": 5, "text": "é"}'),
        (["x" * 5000], '["' + "x" * 3991 + MARK),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_an_end_is_never_refused_for_its_error(error: Any, kept: str | None) -> None:
    assert STANDARD.read(end(job_id="j", error=error)) == ProviderReport(
        "failed", "d-1", job_id="j", error=kept, error_kind=ErrorKind.UNKNOWN
    )


def test_an_end_is_never_refused_for_its_output() -> None:
    def output(value: Any) -> Any:
        said = STANDARD.read(end(job_id="j", output=value))
        assert said is not None and len(json.dumps(said.output, ensure_ascii=False).encode()) <= 64 * 1024
        return said.output

    deep: Any = "x"
    for _ in range(32):
        deep = [deep]
    assert output(deep) == deep
    for _ in range(300):
        deep = {"in": deep}
    assert json.dumps(output(deep), ensure_ascii=False) == '{"in": ' * 32 + f'"{MARK}"' + "}" * 32
    assert output({"a\x00": ["\udfff\U0001f600"]}) == {"a": ["\U0001f600"]}
    assert output("x" * 65_534) == "x" * 65_534
    for letter in 'x"é\x01\U0001f600':
        cut = output([letter * 65_535])
        assert cut["cut"] is True and cut["text"].startswith('["') and cut["text"].endswith(MARK)
        assert len(json.dumps(cut, ensure_ascii=False).encode()) > 65_000


def test_a_numeric_task_id_stays_exact() -> None:
    for number in (0, 1904154698679771137, 9_999_999_999_999_999_999):
        assert STANDARD.read(end(task_id=number)) == ProviderReport(
            "failed", "d-1", task_id=str(number), error_kind=ErrorKind.UNKNOWN
        )


def test_the_header_names_of_svix_are_read_too_and_yield_to_the_standard_ones() -> None:
    callback = signed(END)
    svix = {name.replace("webhook", "Svix"): value for name, value in callback.headers.items()}
    assert STANDARD.read(dataclasses.replace(callback, headers=svix)) == STANDARD.read(callback)
    wrong = {"svix-id": "d-2", "svix-timestamp": "1", "svix-signature": "v1,x"}
    assert STANDARD.read(dataclasses.replace(callback, headers=wrong | dict(callback.headers))) == STANDARD.read(callback)
    for forged in (svix | {"Svix-id": "d-2"}, svix | {"webhook-signature": "v1,x"}, {"svix-id": "d-1"}):
        with pytest.raises(Forged):
            STANDARD.read(dataclasses.replace(callback, headers=forged))


def test_a_secret_that_cannot_be_one_is_said() -> None:
    assert STANDARD.fault(SECRET) is None and STANDARD.fault(OLD_SECRET.rstrip("=")) is None
    for bad in ("", "whsec_", "a", "no base64!", SECRET + "é"):
        assert "base64" in (STANDARD.fault(bad) or "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "job_id": JSON | st.just("j"),
        "task_id": JSON | st.just("t"),
        "outcome": JSON | st.just("failed"),
        "error": JSON,
        "output": JSON,
    },
)


@settings(max_examples=75, deadline=None)
@given(st.fixed_dictionaries({}, optional={"type": JSON | st.just("x"), "data": JSON | FIELDS}) | JSON)
def test_whatever_is_signed_gives_a_result_or_a_typed_refusal(body: Any) -> None:
    try:
        said = STANDARD.read(signed(body))
    except Unreadable:
        return
    if said is not None:
        json.dumps([dataclasses.asdict(said)], allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=75, deadline=None)
@given(st.binary(), st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()))
def test_whatever_is_not_signed_is_forged(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(Forged):
        STANDARD.read(dataclasses.replace(signed(END, **headers), body=body))
