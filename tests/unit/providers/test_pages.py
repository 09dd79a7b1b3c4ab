"""The conformance suite of the providers' pages. A new page passes it by its entry in PAGES and its table of examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.model.label import is_label
from gate.model.limits import OUTPUT_MAX_BYTES, TEXT_MAX
from gate.model.messages import Answer, AnswerState, Room
from gate.providers import PAGES, PROVIDERS
from gate.providers.page import KEY_MARK, WHY_MAX, Further, ProviderPage, ProviderReply, ProviderRequest
from tests.unit.providers.examples import ALL
from tests.unit.providers.examples.shape import KEY, Reply

Verb = Literal["ask", "stop", "count"]
WANTED = {
    "ask": {"queued", "running", "completed", "failed", "cancelled", "a success without output", "unknown", "busy", "bad key",
            "unclear", "another task"},
    "stop": {"busy", "bad key"},
    "count": {"busy", "bad key", "unclear"},
}  # fmt: skip
"""Examples that every table has."""
STATUSES = st.sampled_from(
    [200, 200, 201, 202, 204, 301, 400, 401, 402, 403, 404, 405, 408, 409, 422, 429, 499, 500, 502, 503, 599]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=12), inside, max_size=4),
    max_leaves=12,
)
HOSTILE = [
    b"", b"null", b"[]", b"{}", b"0", b'"SUCCESS"', b"NaN", b'{"status": NaN}', b"<!doctype html><title>502</title>", b"\xff\xfe\x00",
    b"[" * 3_000, b'{"a":' * 1_500 + b"1" + b"}" * 1_500, b'{"code": ' + b"9" * 5_000 + b"}", b'{"status": "\\ud800\\u0000"}',
    b"\xef\xbb\xbf{}", b'{"status": {"status": []}}', b"1" * 20_000,
]  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """A verb of a page with the replies to it."""

    name: str
    verb: Verb
    replies: tuple[Reply, ...]


def exchanges() -> Iterator[Exchange]:
    """Yield every exchange of every table."""
    for name, table in ALL.items():
        yield from (Exchange(name, "ask", one.replies) for one in table.ask.values())
        yield from (Exchange(name, "stop", one.replies) for one in table.stop.values())
        yield from (Exchange(name, "count", replies) for replies, _ in (table.count or {}).values())


def first_request(page: ProviderPage, verb: Verb, task_id: str, key: str = KEY) -> ProviderRequest:
    if verb == "count":
        assert page.count is not None
        return page.count(key)
    return (page.ask if verb == "ask" else page.stop)(task_id, key)


def step(exchange: Exchange, reply: ProviderReply, key: str = KEY) -> Room | Answer | Further[Any]:
    page, task_id = PAGES[exchange.name], ALL[exchange.name].task_id
    if exchange.verb == "count":
        assert page.read_count is not None
        return page.read_count(reply, key)
    return (page.read_answer if exchange.verb == "ask" else page.read_stop)(task_id, reply, key)


def parsed(reply: Reply, key: str = KEY) -> ProviderReply:
    return ProviderReply.of(reply.status, reply.headers, reply.raw, key)


def play(exchange: Exchange, key: str = KEY) -> tuple[Room | Answer, int]:
    """Give the page its replies. Returns what it makes of them, and how many it took."""
    first, *others = exchange.replies
    found = step(exchange, parsed(first, key), key)
    if not isinstance(found, Further):
        return found, 1
    assert isinstance(found.request, ProviderRequest) and key not in repr(found)
    further = others[0] if others else Reply(b"<html>", 404)
    last = found.read(parsed(further, key))
    assert not isinstance(last, Further)
    return last, 2


def check(found: Room | Answer, task_id: str) -> None:
    """Check what holds for anything that a page gives."""
    if isinstance(found, Room):
        assert found.total is not None and found.total >= 0 and (found.limit is None or found.limit >= 0)
        return
    assert (found.state is AnswerState.ENDED) == (found.report is not None)
    assert 0 < len(found.why) <= WHY_MAX and not re.search("[\x00\ud800-\udfff]", found.why)
    assert found.retry_s is None or 0 <= found.retry_s <= 3600
    if found.report is None:
        return
    report = found.report
    assert report.task_id == task_id and report.job_id is None and report.delivery_id
    assert (report.outcome == "failed") == (report.error_kind is not None)
    assert report.error is None or 0 < len(report.error) <= TEXT_MAX
    assert len(json.dumps(report.output, ensure_ascii=False, allow_nan=False).encode()) <= OUTPUT_MAX_BYTES
    if report.outcome == "completed":
        assert isinstance(report.output, dict) and isinstance(report.output["files"], list)


def test_each_page_has_a_table_of_examples_and_each_table_a_page() -> None:
    assert ALL.keys() == PAGES.keys()
    assert all(page.name == name for name, page in PAGES.items())


@pytest.mark.parametrize("name", PAGES)
def test_each_table_has_what_every_page_must_decide(name: str) -> None:
    page, table = PAGES[name], ALL[name]
    assert WANTED["ask"] <= table.ask.keys() and WANTED["stop"] <= table.stop.keys()
    assert (table.count is None) == (page.count is None) == (page.read_count is None)
    assert table.count is None or WANTED["count"] <= table.count.keys()
    assert (table.callbacks is None) == (name not in PROVIDERS)
    assert table.callbacks is None or {"completed", "failed"} <= table.callbacks.keys()


@pytest.mark.parametrize(("name", "title"), [(name, title) for name, table in ALL.items() for title in table.ask])
def test_a_question_is_answered_as_the_example_says(name: str, title: str) -> None:
    table = ALL[name]
    example = table.ask[title]
    found, took = play(Exchange(name, "ask", example.replies))
    assert isinstance(found, Answer) and took == len(example.replies)
    check(found, table.task_id)
    assert (found.state, found.retry_s) == (example.state, example.retry_s), found.why
    assert found.is_without_output is example.is_without_output
    if found.report is not None:
        assert (found.report.outcome, found.report.error_kind) == (example.outcome, example.kind)
        assert example.error in (None, found.report.error) and example.output in (None, found.report.output)


@pytest.mark.parametrize(("name", "title"), [(name, title) for name, table in ALL.items() for title in table.stop])
def test_a_stop_is_answered_as_the_example_says(name: str, title: str) -> None:
    example = ALL[name].stop[title]
    found, took = play(Exchange(name, "stop", example.replies))
    assert isinstance(found, Answer) and took == len(example.replies)
    check(found, ALL[name].task_id)
    assert found.state is example.state, found.why
    assert found.report is None or found.report.outcome == example.outcome


@pytest.mark.parametrize(("name", "title"), [(name, title) for name, table in ALL.items() for title in table.count or {}])
def test_a_count_is_read_as_the_example_says(name: str, title: str) -> None:
    replies, wanted = (ALL[name].count or {})[title]
    found, took = play(Exchange(name, "count", replies))
    assert took == len(replies)
    check(found, "")
    assert (found if isinstance(found, Room) else found.state) == wanted


@pytest.mark.parametrize(("name", "title"), [(name, title) for name, table in ALL.items() for title in table.callbacks or {}])
def test_a_question_gives_the_report_of_the_callback(name: str, title: str) -> None:
    found, _ = play(Exchange(name, "ask", ALL[name].ask[title].replies))
    assert isinstance(found, Answer) and found.report is not None
    told = PROVIDERS[name].read((ALL[name].callbacks or {})[title])
    assert told is not None
    assert replace(told, delivery_id="") == replace(found.report, delivery_id="")


@pytest.mark.parametrize("name", PAGES)
@given(
    task_id=st.text(min_size=1, max_size=40).filter(is_label)
    | st.sampled_from([".", "..", "a/../b", "a?b#c", "/%2F", "//x", "é"])
)
def test_a_task_id_cannot_lead_a_request_elsewhere(name: str, task_id: str) -> None:
    page = PAGES[name]
    for verb in ("ask", "stop"):
        path = first_request(page, verb, task_id).path
        assert re.fullmatch(r"(/[A-Za-z0-9_~%.-]+)+", path) and not {".", ".."} & set(path.split("/")), path
        assert task_id.split("/")[-1].strip() in unquote(path) or name == "runninghub"


@pytest.mark.parametrize("name", PAGES)
def test_a_request_has_the_key_and_its_repr_does_not(name: str) -> None:
    page, table = PAGES[name], ALL[name]
    for verb in ("ask", "stop", "count") if page.count else ("ask", "stop"):
        request = first_request(page, verb, table.task_id)
        assert KEY not in repr(request) + request.path
        assert KEY in str(dict(request.headers)) + request.body.decode()
        assert all(value.isascii() and value.isprintable() for value in request.headers.values())
        assert request.body == b"" or isinstance(json.loads(request.body), dict)
        assert first_request(page, verb, table.task_id) == request


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_hostile_body_ends_no_task(status: int) -> None:
    for exchange in exchanges():
        for at in range(len(exchange.replies)):
            for body in HOSTILE:
                assert_no_end(changed(exchange, at, Reply(body, status)), at)


@pytest.mark.parametrize(
    ("status", "state"), [(401, AnswerState.BAD_KEY), (403, AnswerState.BAD_KEY), (429, AnswerState.BUSY)]
)
def test_a_status_about_the_request_comes_before_any_word(status: int, state: AnswerState) -> None:
    for exchange in exchanges():
        for at, reply in enumerate(exchange.replies):
            found, took = play(changed(exchange, at, replace(reply, status=status)))
            assert took <= at or (isinstance(found, Answer) and found.state is state), exchange


def test_a_word_with_an_error_of_the_server_ends_no_task() -> None:
    for exchange in exchanges():
        for at, reply in enumerate(exchange.replies):
            if at == 0 or exchange.name != "fal":  # the second reply of fal is the failure itself
                assert_no_end(changed(exchange, at, replace(reply, status=500)), at)


def test_a_body_that_is_cut_off_ends_no_task() -> None:
    for exchange in exchanges():
        for at, reply in enumerate(exchange.replies):
            for size in {0, 1, len(reply.raw) // 3, len(reply.raw) // 2, len(reply.raw) - 1} - {len(reply.raw), -1}:
                assert_no_end(changed(exchange, at, replace(reply, body=reply.raw[:size])), at)


def test_a_word_that_is_new_ends_no_task() -> None:
    for exchange in exchanges():
        for at, reply in enumerate(exchange.replies):
            if at == len(exchange.replies) - 1 == 1 and exchange.name == "fal":
                continue  # the status of the first reply is the word, and the second has a status code
            assert_no_end(changed(exchange, at, replace(reply, body=renamed(reply.body, ALL[exchange.name].task_id))), at)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_reply_raises(data: st.DataObject) -> None:
    exchange = data.draw(st.sampled_from(list(exchanges())))
    at = data.draw(st.integers(0, len(exchange.replies) - 1))
    reply = exchange.replies[at]
    body: Any = data.draw(st.binary(max_size=40) | JSON)
    if not isinstance(reply.body, bytes) and data.draw(st.booleans()):
        body = mutated(reply.body, body, data)
    wrong = Reply(body, data.draw(STATUSES), data.draw(st.dictionaries(st.sampled_from(["Retry-After", "x"]), st.text())))
    exchange = changed(exchange, at, wrong)
    found, _ = play(exchange)
    check(found, ALL[exchange.name].task_id)
    assert play(exchange)[0] == found


ECHOES: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "quoted": lambda text: quote(text, safe=""),
    "in a text": lambda text: f"the key {text} is bad" * 40,
    "far behind": lambda text: "x" * (TEXT_MAX - len(text) // 2) + text,
    "behind a short text": lambda text: "x" * (WHY_MAX - len(text) // 2) + text,
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize(
    "key", [KEY, "0d5e8f0a-1b2c-4d3e:9f8e7d6c5b4a39281706f5e4d3c2b1a0", "a/key+with=signs/0123456789abcdef"]
)
def test_a_key_that_is_echoed_goes_nowhere(echo: str, key: str) -> None:
    shown = ECHOES[echo](key)
    for exchange in exchanges():
        for at, reply in enumerate(exchange.replies):
            if isinstance(reply.body, bytes):
                continue
            for leaf in {*texts_of(reply.body)}:
                body = mapped(reply.body, lambda text, leaf=leaf: text + shown if text == leaf else text)
                if isinstance(body, dict):
                    body = body | {shown: shown, "detail": shown}
                found, _ = play(changed(exchange, at, replace(reply, body=body)), key)
                for part in (key, quote(key, safe=""), key[:16], key[-16:]):
                    assert part not in repr(found)


def test_an_echoed_key_is_marked() -> None:
    reply = ProviderReply.of(400, {}, json.dumps({"detail": f"bad key {KEY}"}).replace("sk-0", "\\u0073k-0").encode(), KEY)
    assert reply.data == {"detail": f"bad key {KEY_MARK}"}
    assert ProviderReply.of(400, {}, b'{"detail": "no key"}', "").data == {"detail": "no key"}
    secret = ProviderReply.of(400, {}, b'{"detail": "9f8e7d6c5b4a3928 is bad"}', "an-id:9f8e7d6c5b4a3928")
    assert secret.data == {"detail": f"{KEY_MARK} is bad"}, "the secret without its id is enough to pose as the account"


@pytest.mark.parametrize(
    ("header", "wait_s"), [("7", 7), ("0", 0), ("1e9", 3600), ("-1", None), ("soon", None), ("nan", None), ("", None)]
)
def test_a_wait_that_is_asked_for_is_bounded(header: str, wait_s: float | None) -> None:
    assert ProviderReply.of(429, {"RETRY-AFTER": header}, b"", KEY).retry_s == wait_s


@pytest.mark.parametrize("levels", [150, 400, 600, 800, 950, 5_000])
def test_a_reply_of_any_depth_is_parsed(levels: int) -> None:
    data = ProviderReply.of(200, {}, b'{"a":' * levels + b'"b"' + b"}" * levels, KEY).data
    assert isinstance(data, dict) and data.keys() == {"a"}


@pytest.mark.parametrize("name", PAGES)
def test_the_reason_of_an_answer_is_one_short_text(name: str) -> None:
    long = {"detail": "x" * 500, "msg": "y" * 500, "errorMessage": "z" * 500, "title": "t" * 500, "code": 301, "status": 404}
    for status in (200, 400, 404, 500):
        found, _ = play(Exchange(name, "ask", (Reply(long, status), Reply(long, status))))
        check(found, ALL[name].task_id)


def assert_no_end(exchange: Exchange, at: int) -> None:
    found, took = play(exchange)
    check(found, ALL[exchange.name].task_id)
    if took > at and isinstance(found, Answer):
        # A success without output is only believed when it is said twice.
        assert found.state is not AnswerState.ENDED or found.is_without_output, exchange


def changed(exchange: Exchange, at: int, reply: Reply) -> Exchange:
    return replace(exchange, replies=(*exchange.replies[:at], reply, *exchange.replies[at + 1 :]))


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Change every text of a JSON value; names stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [mapped(one, change) for one in value]
    return {name: mapped(one, change) for name, one in value.items()} if isinstance(value, dict) else value


def renamed(value: Any, task_id: str) -> Any:
    """Replace every text but the task's id, and every number, by one that no provider has."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        new = {name: renamed(one, task_id) for name, one in items}
        return new if isinstance(value, dict) else [*new.values()]
    if isinstance(value, str):
        return value if value == task_id else "a new word"
    return 9_999 if type(value) is int else value


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from texts_of(one)


def mutated(value: Any, other: Any, data: st.DataObject) -> Any:
    """Put another value somewhere into a JSON value."""
    if isinstance(other, bytes):
        other = other.decode("latin-1")
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        name = data.draw(st.sampled_from(sorted(value)))
        return value | {name: mutated(value[name], other, data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], mutated(value[at], other, data), *value[at + 1 :]]
    return other
