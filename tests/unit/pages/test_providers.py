"""docs/providers.md: every provider, every function of a page, every state and every kind of failure is there."""

from __future__ import annotations

import re
from dataclasses import fields

from gate.model.messages import AnswerState, ErrorKind
from gate.providers import PAGES, PROVIDERS
from gate.providers.page import ProviderPage
from tests.support.pages import rows
from tests.support.paths import ROOT
from tests.unit.providers.test_pages import WANTED

PAGE = ROOT / "docs" / "providers.md"


def in_code(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_provider_is_there_with_what_it_has() -> None:
    table = {row[0].strip("`"): row for row in rows(PAGE, "provider", "callback")}
    assert table.keys() == {*PAGES, *PROVIDERS}
    for name, (_, callback, question, stop, count, _task) in table.items():
        assert (callback != "none") == (name in PROVIDERS)
        assert (question != "none") == (stop != "none") == (name in PAGES)
        assert (count != "none") == (name in PAGES and PAGES[name].count is not None)


def test_every_function_of_a_page_is_there() -> None:
    named = in_code(" ".join(row[0] for row in rows(PAGE, "function", "gives")))
    assert {one.split("(")[0] for one in named} == {one.name for one in fields(ProviderPage)} - {"name", "base_url"}


def test_every_state_and_every_kind_is_there() -> None:
    assert in_code(" ".join(row[0] for row in rows(PAGE, "state", "when"))) == {*AnswerState}
    (kinds,) = re.findall(r"^A failure has an `error_kind`: (.*?)\.", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert in_code(kinds) == {*ErrorKind}


def test_the_examples_that_a_table_needs_are_those_of_the_suite() -> None:
    (listed,) = re.findall(r"The table must have (.*?)\.\n", PAGE.read_text(), re.DOTALL)
    assert in_code(listed) == WANTED["ask"]
