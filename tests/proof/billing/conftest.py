"""A Postgres for the owner's functions: the run's own, or a private one; a gate on a fresh database of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proof.billing.shop import JOB_SQL, REFUND_SQL, TABLE, Shop, need_postgres
from tests.support.gate_process import Served
from tests.support.servers import Postgres
from tests.support.stores import fresh_database


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    if (named := os.environ.get("GATE_TEST_POSTGRES_URL")) is not None:
        yield named
        return
    need_postgres()
    # Not in pytest's own folder: each run that begins beside this one closes that to the user of Postgres.
    with tempfile.TemporaryDirectory(prefix="gate-owner-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder) / "postgres")
        try:
            server.start()
            yield server.url
        finally:
            server.crash()


@pytest.fixture(scope="module")
def shop(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with fresh_database(tmp_path_factory.mktemp("shop"), postgres) as url:
        yield Shop(url)


@pytest.fixture(scope="module")
def serve(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Served]:
    """Makes a server on the shop's database, not yet started; what it says of errors stands in `folder / "errors.log"`."""

    def made(**environment: str) -> Served:
        settings = {
            "GATE_DATABASE_URL": shop.url, "GATE_JOB_SQL": JOB_SQL, "GATE_REFUND_SQL": REFUND_SQL, "GATE_LIMIT": "500",
        }  # fmt: skip
        folder: Path = tmp_path_factory.mktemp("gate")
        return Served(folder, config=f"[tools.{TABLE}]\n", **settings | environment)

    return made


@pytest.fixture(scope="module")
def running(serve: Callable[..., Served]) -> Iterator[Served]:
    """One server for the tests of a module. No key exists: what it pays is paid because the owner gave the price."""
    with serve() as served:
        yield served


@pytest.fixture
def served(running: Served, shop: Shop) -> Iterator[Served]:
    """The owner's functions work again after each test."""
    yield running
    shop.price_is("")
    shop.refund_is("")
