"""The kind of a failure: by the provider's code, then by the words of its text."""

from __future__ import annotations

from typing import Any

import pytest

from gate.model.messages import ErrorKind
from gate.providers.error_kind import kind_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[Errno 116] Stale file handle: '/data/a.png'", ErrorKind.INFRASTRUCTURE),
        ("torch.OutOfMemoryError: Allocation on device", ErrorKind.INFRASTRUCTURE),
        ("CUDA error: an illegal memory access was encountered", ErrorKind.INFRASTRUCTURE),
        ("ConnectionResetError: Connection reset by peer", ErrorKind.INFRASTRUCTURE),
        ("OSError: [Errno 28] No space left on device", ErrorKind.INFRASTRUCTURE),
        ("NSFW content detected. Try running it again.", ErrorKind.SAFETY),
        ("Invalid prompt: the content was flagged", ErrorKind.SAFETY),
        ("内容审核未通过", ErrorKind.SAFETY),
        ("Your balance is insufficient: insufficient credit", ErrorKind.QUOTA),
        ("the request timed out", ErrorKind.TIMEOUT),
        ("TASK_QUEUE_MAXED", ErrorKind.BUSY),
        ("Too many requests", ErrorKind.BUSY),
        ("ValueError: width must be divisible by 8", ErrorKind.INPUT),
        ("Prompt is required", ErrorKind.INPUT),
        ("no GPU", ErrorKind.UNKNOWN),
        ("", ErrorKind.UNKNOWN),
        (None, ErrorKind.UNKNOWN),
        ("x" * 100_000 + " timed out", ErrorKind.UNKNOWN),
    ],
)
def test_words_decide_the_kind(text: str | None, kind: ErrorKind) -> None:
    assert kind_of(text) is kind


@pytest.mark.parametrize("code", ["7", 7, " 7 "])
def test_a_known_code_comes_before_the_words(code: Any) -> None:
    assert kind_of("it timed out", code, known={"7": ErrorKind.INPUT}) is ErrorKind.INPUT


@pytest.mark.parametrize("code", [None, "8", [], {}, 7.5, "", True])
def test_any_other_code_leaves_it_to_the_words(code: Any) -> None:
    assert kind_of("it timed out", code, known={"7": ErrorKind.INPUT}) is ErrorKind.TIMEOUT
