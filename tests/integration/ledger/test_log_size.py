"""The size of SQLite's log, as the doctor sees it."""

from __future__ import annotations

import pytest

from gate.diagnostics import doctor
from gate.diagnostics.doctor import look_over
from gate.model.tool import Tools
from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio


async def test_log_that_an_open_reader_keeps_from_being_emptied_is_a_finding(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not house.sql_url.startswith("sqlite"):
        pytest.skip("Postgres has no such log")
    await house.release(await house.acquire())
    monkeypatch.setattr(doctor, "LOG_MAX_BYTES", 1)
    found = [one for one in await look_over(None, house.sql_url, Tools()) if one.what == "wal"]
    assert len(found) == 1 and "gate.db-wal has 0 MB" in found[0].says
    monkeypatch.undo()
    assert not [one for one in await look_over(None, house.sql_url, Tools()) if one.what == "wal"]
