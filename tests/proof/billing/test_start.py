"""What `gate serve` says of the two statements before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof.billing.shop import JOB_SQL, REFUND_SQL, TABLE
from tests.support.gate_process import Served


@pytest.mark.parametrize("setting", [{"GATE_JOB_SQL": JOB_SQL}, {"GATE_REFUND_SQL": REFUND_SQL}])
def test_on_sqlite_gate_says_in_one_line_that_the_owners_functions_cannot_be_there(
    tmp_path: Path, setting: dict[str, str]
) -> None:
    gate = Served(tmp_path, on_defaults=True, **setting)
    with pytest.raises(AssertionError) as said, gate:
        pass
    lines = str(said.value).splitlines()
    assert len(lines) == 1 and "in the ledger's own Postgres" in lines[0], lines
    assert gate.process.wait(20) == 1


def test_an_empty_statement_is_none(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, GATE_JOB_SQL="", GATE_REFUND_SQL=" \n") as served:
        assert served.acquire(tool=TABLE).status_code == 200
