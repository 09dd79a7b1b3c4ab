"""What `gate serve` says of the two statements before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.owner_money.shop import JOB_SQL, REFUND_SQL, TABLE
from tests.support import Served, run_gate


@pytest.mark.parametrize("setting", [{"GATE_JOB_SQL": JOB_SQL}, {"GATE_REFUND_SQL": REFUND_SQL}])
def test_on_sqlite_gate_says_in_one_line_that_the_owners_functions_cannot_be_there(
    tmp_path: Path, setting: dict[str, str]
) -> None:
    ended = run_gate("serve", "--port", "0", cwd=tmp_path, **setting)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1 and "in the ledger's own Postgres" in ended.stderr, ended.stderr


def test_an_empty_statement_is_none(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, GATE_JOB_SQL="", GATE_REFUND_SQL=" \n") as served:
        assert served.acquire(tool=TABLE).status_code == 200
