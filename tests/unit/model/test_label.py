"""One rule for the names of users, tools and sessions, on every way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gate.http.legacy_bodies import EnqueueBody, FinishBody
from gate.http.schemas import AcquireBody, Label
from gate.model.errors import Unreadable
from gate.model.label import is_label, plain
from gate.providers.parsing import label
from gate.runtime.settings import Settings

FIT = (
    "ana",
    "Gerar Vídeo",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "\U0001f469\u200d\U0001f4bb",
    "a\xa0b",
    "\u5c71\u3000\u7530",
    " ",
    "x" * 256,
)
"""Also a word with ZWNJ, an emoji with ZWJ, NBSP, and an ideographic space."""
UNFIT = ("", "a\x00", "a\nb", "a\tb", "a\x7f", "a\x85b", "a\u2028b", "\u202ebob", "\u2066bob", "a\ud800", "x" * 257)


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except (ValidationError, Unreadable):
        return True
    return False


WAYS: dict[str, Callable[[str], Any]] = {
    "HTTP and terminal": lambda name: AcquireBody(user=name, tool=name, session=name),
    "path and query": lambda name: TypeAdapter(Label).validate_python(name),
    "compatible routes": lambda name: EnqueueBody(table=name, jobId="a"),
    "tools of gate.toml": lambda name: Settings(tools={name: {"name": name}}),
    "callback": lambda name: label(name, "task_id"),
}


@pytest.mark.parametrize("way", WAYS)
def test_names_are_accepted_or_refused_by_one_rule(way: str) -> None:
    for name in FIT:
        assert is_label(name) and not _refuses(lambda name=name: WAYS[way](name)), ascii(name)
    for name in UNFIT:
        assert not is_label(name) and _refuses(lambda name=name: WAYS[way](name)), ascii(name)


def test_name_that_does_not_keep_a_job_from_its_end_is_left_out() -> None:
    ended = {"table": "t", "jobId": "a", "status": "completed"}
    assert [FinishBody(**ended, taskId=name).taskId for name in FIT] == list(FIT)
    assert {FinishBody(**ended, taskId=name).taskId for name in UNFIT} == {None}


def test_terminal_shows_fit_names_as_they_are() -> None:
    assert all(plain(name) == name for name in FIT)
    assert plain("a\x1b[31m\u202eb\n") == "a\ufffd[31m\ufffdb\ufffd"
