"""The functions, deployed once a run; each file of tests has a stage of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.diagnostics.verify import verify
from tests.proof.examples.stage import Stage, deployed


@pytest.fixture(scope="session")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="module")
def stage(functions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    pool = "max_active_per_user = 1\ncooldown_seconds = 0.5\n"
    with Stage(tmp_path_factory.mktemp("stage"), functions, pool) as opened:
        yield opened
        opened.clear()
        assert not verify(opened.gate.sql_url, opened.gate.redis_url).breaches


@pytest.fixture
def empty(stage: Stage) -> Iterator[Stage]:
    yield stage
    stage.clear()
