"""What is kept of a text and an output from outside: clean, bounded, with a mark where it was cut."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.model.errors import Unreadable
from gate.providers import parsing
from gate.providers.parsing import MARK, kept_output, kept_text, leniently, strictly

LIMIT = 8 * 1024 * 1024
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(st.characters(codec=None)), inside, max_size=4),
    max_leaves=20,
)


def size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


@pytest.mark.parametrize("read", [strictly, leniently])
def test_a_body_has_eight_mebibytes_and_not_a_byte_more(read: Any) -> None:
    assert read(b'{"a": 1}'.ljust(LIMIT)) == {"a": 1}
    with pytest.raises(Unreadable, match="at most 8388608 bytes"):
        read(b'{"a": 1}'.ljust(LIMIT + 1))


def test_a_text_is_cut_with_a_mark_inside_its_limit() -> None:
    assert kept_text("x" * 4000) == "x" * 4000
    assert kept_text("x" * 4001) == "x" * 3993 + MARK
    assert kept_text("x" * 11, 10) == "xxx" + MARK
    assert kept_text(" a\x00\ud83d ") == "a"


def test_no_number_that_json_lacks_is_kept() -> None:
    odd = json.loads('{"a": NaN, "b": [1e999, -Infinity, 1.5]}')
    assert kept_output(odd) == {"a": None, "b": [None, None, 1.5]}
    assert kept_text(odd) == '{"a": null, "b": [null, null, 1.5]}'


@pytest.mark.parametrize("letter", ["x", '"', "\x01", "é", "\U0001f600"])
def test_an_output_that_is_too_large_is_the_beginning_of_its_json(letter: str) -> None:
    fits = letter * ((64 * 1024 - 2) // (size(letter) - 2))
    assert kept_output(fits) == fits
    before = time.process_time()
    cut = kept_output({"a": letter * 3_000_000})
    assert time.process_time() - before < 5, "its cost grows with its length, and no faster"
    assert set(cut) == {"cut", "text"} and cut["cut"] is True
    assert cut["text"].startswith('{"a": "') and cut["text"].endswith(MARK)
    assert 64 * 1024 - 16 < size(cut) <= 64 * 1024


def test_an_output_has_another_limit_on_demand() -> None:
    assert kept_output("x" * 62, 64) == "x" * 62
    assert kept_output("x" * 63, 64)["text"].endswith("x" + MARK)
    assert size(kept_output("x" * 63, 64)) <= 64


def test_what_is_deeper_than_32_levels_is_a_mark() -> None:
    deep: Any = 1
    for _ in range(32):
        deep = {"a": deep}
    assert kept_output(deep) == deep
    assert json.dumps(kept_output([deep]), ensure_ascii=False) == "[" + '{"a": ' * 31 + f'"{MARK}"' + "}" * 31 + "]"
    for _ in range(400):
        deep = [deep]
    assert json.dumps(kept_output(deep), ensure_ascii=False) == "[" * 32 + f'"{MARK}"' + "]" * 32


@settings(max_examples=100, deadline=None)
@given(JSON, st.integers(64, 400))
def test_whatever_is_kept_can_be_stored(value: Any, most: int) -> None:
    text, output = kept_text(value, most), kept_output(value, most)
    assert text is None or 1 <= len(text) <= most
    assert size(output) <= most
    assert not parsing.UNSTORABLE.search(text or "") and json.dumps(output, ensure_ascii=False).encode()
    assert kept_output(output, most) == output and kept_text(text, most) == text, "what is kept once is kept as it is"
