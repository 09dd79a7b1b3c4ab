"""docs/http.md: it is what the OpenAPI document says now."""

from __future__ import annotations

import re

from gate.http.doors import TABLE
from tests.docs.reference import PAGE, document, page
from tests.support import Served


def test_it_is_what_the_command_makes_now() -> None:
    assert PAGE.read_text() == page(), "make it anew: python -m tests.docs.reference"


def test_it_is_written_from_what_a_server_shows(served: Served) -> None:
    assert served.http.get("/openapi.json").json() == document()


def test_every_route_is_there_and_has_a_word_on_who_may(served: Served) -> None:
    routes = re.findall(r"^### (GET|PUT|POST) (\S+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(routes) == len(set(routes)) == PAGE.read_text().count("*Who*: ")
    assert {(method, path) for method, path in routes} <= {(method, path.replace(":text}", "}")) for method, path in TABLE}
