"""The OpenAPI document against the running server: whatever it allows is answered as it says, whatever it forbids is refused.

GATE_TEST_EXAMPLES=5000 python -m pytest tests/proof/schema/test_schema.py          (half an hour)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gate.http.app import make_app
from tests.support.gate_process import Served

EXAMPLES = int(os.environ.get("GATE_TEST_EXAMPLES", "25"))


def the_code_is_named(_: Any, response: Any, case: Any) -> None:
    """The document names the code of each refusal, at the route that refuses."""
    if "application/problem+json" in response.headers["content-type"][0]:
        described = DOCUMENT["paths"][case.operation.path][case.method.lower()]["responses"][str(response.status_code)]
        assert f"`{response.json()['code']}`" in described["description"]


CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance, negative_data_rejection, the_code_is_named,
]  # fmt: skip


DOCUMENT = make_app(None, None, None).openapi()  # type: ignore[arg-type]
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT).exclude(path_regex="/events$|/admin/drain$")
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("schema")) as served:
        assert served.http.get("/openapi.json").json() == DOCUMENT
        yield served


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_the_server_is_as_its_document_says(own: Served, operation: Any, mode: GenerationMode) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def play(case: Any) -> None:
        case.call_and_validate(base_url=own.url, checks=CHECKS, timeout=70)

    try:
        play()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "nothing may be sent there that is forbidden"
