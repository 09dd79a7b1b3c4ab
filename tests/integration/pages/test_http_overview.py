"""docs/http-overview.md: its routes are those of the OpenAPI document, its codes those of the table of errors."""

from __future__ import annotations

import re

from gate.http.problems import HTTP_CODES, TABLE
from tests.support.gate_process import Served
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "http-overview.md"


def test_every_route_is_in_the_table(served: Served) -> None:
    listed = set(re.findall(r"^\| `(GET|PUT|POST|DELETE) (/[^`]*)` \|", PAGE.read_text(), flags=re.MULTILINE))
    paths = served.http.get("/openapi.json").json()["paths"]
    assert listed == {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_the_codes_are_those_of_the_table_of_errors() -> None:
    named = PAGE.read_text().split("with a stable `code`:")[1].split("\n\n")[0]
    known = {(status, code) for status, code, _ in TABLE.values()} | {
        (status, code) for status, (code, _) in HTTP_CODES.items()
    }
    assert set(re.findall(r"`(\w+)`", named)) == {code for _, code in known}
    for status, code in known:
        assert re.search(rf"{status}[^·]*`{code}`", named)
