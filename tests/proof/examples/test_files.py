"""The files beside the tests of what they do: as Deno reads them, what README says of them, and the SQL on a real Postgres."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.proof.examples.platform import TABLES
from tests.proof.examples.stage import EXAMPLE, FRONT, FUNCTIONS, program
from tests.support.gate_process import Served
from tests.support.wait import until

README = (EXAMPLE / "README.md").read_text()
SOURCES = sorted((EXAMPLE / "functions").rglob("*.ts"))
ROLES = ("anon", "authenticated", "service_role")


@pytest.mark.parametrize(
    "words", [("check", "--frozen"), ("lint", "--rules-exclude=no-import-prefix"), ("fmt", "--check", "--line-width=130")]
)
def test_deno_finds_nothing(functions: Path, words: tuple[str, ...]) -> None:
    entries = [f"functions/{name}/index.ts" for name in FUNCTIONS] if words[0] == "check" else ["functions"]
    done = subprocess.run(
        [program("deno"), *words, *entries], cwd=functions, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_each_secret_that_is_needed_stands_in_the_table() -> None:
    needed = {name for source in SOURCES for name in re.findall(r'need\("(\w+)"\)', source.read_text())}
    said = set(re.findall(r"^\| `([A-Z_]+)` \|", README, flags=re.MULTILINE))
    assert needed == said | {"SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"}
    assert said == set(re.findall(r"\b([A-Z_]+)=", README.split("supabase secrets set ")[1].split("supabase functions")[0]))


def test_a_function_without_jwt_is_deployed_so() -> None:
    configured = tomllib.loads((EXAMPLE / "config.toml").read_text())["functions"]
    assert configured.keys() == set(FUNCTIONS)
    for name, of in configured.items():
        assert (f"deploy {name} --no-verify-jwt\n" in README) is not of["verify_jwt"] and f"deploy {name}" in README


def test_the_versions_are_exact_and_those_of_the_lock() -> None:
    lock = (FRONT / "deno.lock").read_text()
    named = {one for source in SOURCES for one in re.findall(r'from "(npm:[^"]+)"', source.read_text())}
    assert named and all(re.search(r"@\d+\.\d+\.\d+$", one) and f'"{one}"' in lock for one in named)
    assert "://" not in lock


def test_no_function_is_long() -> None:
    assert [source.name for source in SOURCES if len(source.read_text().splitlines()) > 120] == []


# ---- the owner's database


class Owner:
    """A gate on a Postgres where the owner's tables are too, with the two settings that README names."""

    def __init__(self, folder: Path) -> None:
        job_sql, refund_sql = re.findall(r"`(select [^`]+)`", README)
        self.gate = Served(
            folder, config='[tools.upscaler_jobs]\nname = "Upscaler"\n', GATE_JOB_SQL=job_sql, GATE_REFUND_SQL=refund_sql
        )

    @contextlib.contextmanager
    def open(self) -> Iterator[Owner]:
        with self.gate:
            engine = sa.create_engine(sa.make_url(self.gate.sql_url).set(drivername="postgresql+psycopg"))
            with engine.begin() as connection:  # what Supabase has there already
                for role in ROLES:
                    connection.exec_driver_sql(
                        f"do $$ begin create role {role}; exception when duplicate_object or unique_violation then end $$"
                    )
                connection.exec_driver_sql("create schema auth")
                connection.exec_driver_sql("create function auth.uid() returns uuid language sql as 'select null::uuid'")
                connection.connection.driver_connection.execute(
                    (EXAMPLE / "tables.sql").read_text()
                )  # as psql does: `%` is a `%`
            engine.dispose()
            yield self

    def sql(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        return self.gate.sql(text, **values)

    def row(self, table: str = "upscaler_jobs", **values: Any) -> str:
        named = {"id": str(uuid.uuid4()), "user_id": str(uuid.uuid4()), "user_credit_cost": 10} | values
        self.sql(f"insert into {table} ({', '.join(named)}) values ({', '.join(':' + name for name in named)})", **named)
        return str(named["id"])


@pytest.fixture
def owner(tmp_path: Path) -> Any:
    if "GATE_TEST_POSTGRES_URL" not in os.environ:
        pytest.skip("GATE_TEST_POSTGRES_URL names no Postgres (.ci/stores starts one)")
    with Owner(tmp_path).open() as opened:
        yield opened


def test_credits_are_charged_and_given_back(owner: Owner) -> None:
    ana = str(uuid.uuid4())
    pay = "select consume_upscaler_credits(cast(:ana as uuid), 10, 'x')"
    assert owner.sql(pay, ana=ana) == [(False,)]
    owner.sql("select refund_upscaler_credits(cast(:ana as uuid), 15, 'x')", ana=ana)
    assert [owner.sql(pay, ana=ana) for _ in range(2)] == [[(True,)], [(False,)]]
    job_id = owner.row("veste_ai_jobs", user_id=ana, credits_charged=True)
    owner.sql("select gate_refund(:ana, 10, 'x', :job)", ana=ana, job=job_id)
    assert owner.sql("select balance from user_credits") == [(15,)]
    assert owner.sql("select credits_refunded from veste_ai_jobs") == [(True,)]


@pytest.mark.parametrize(
    "values, priced",
    [
        ({"user_credit_cost": 10, "credits_charged": True}, (10, True)),
        ({"user_credit_cost": 10}, (10, False)),
        ({"user_credit_cost": 0}, (None, False)),
        ({"user_credit_cost": 0, "credits_charged": True}, (0, True)),
        ({"credits_charged": True, "credits_refunded": True}, (0, False)),
        ({"credits_charged": True, "status": "completed"}, (0, False)),
    ],
)
def test_a_row_says_what_is_charged(owner: Owner, values: dict[str, Any], priced: tuple[int | None, bool]) -> None:
    job_id = owner.row(**values)
    assert owner.sql("select credits, charged from gate_job('upscaler_jobs', :job)", job=job_id) == [priced]


def test_rows_that_were_left_are_found(owner: Owner) -> None:
    old, asked = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) - timedelta(minutes=1)
    pending = owner.row("movieled_maker_jobs", created_at=old)
    cancelled = owner.row(status="running", cancel_asked_at=asked)
    owner.row(status="running", created_at=old)
    owner.row(status="cancelled", cancel_asked_at=asked)
    owner.row(cancel_asked_at=datetime.now(UTC))
    found = owner.sql("select table_name, id::text, cancel_asked from rows_left(900, 20)")
    assert found == [("upscaler_jobs", cancelled, True), ("movieled_maker_jobs", pending, False)]
    assert len(owner.sql("select id from rows_left(900, 1)")) == 1


def test_places_are_written_to_waiters(owner: Owner) -> None:
    first, other = owner.row(status="queued"), owner.row("pose_changer_jobs", status="queued")
    runs = owner.row(status="running")
    names = (("upscaler_jobs", first, 1), ("pose_changer_jobs", other, 2), ("upscaler_jobs", runs, 3))
    places = ", ".join(
        f"jsonb_build_object('table_name', '{table}', 'id', '{job_id}', 'position', {n})" for table, job_id, n in names
    )
    owner.sql(f"select set_queue_positions(jsonb_build_array({places}))")
    placed = "select id::text, position from upscaler_jobs union all select id::text, position from pose_changer_jobs"
    assert dict(owner.sql(placed)) == {first: 1, other: 2, runs: None}  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_gate_asks_for_the_price_and_pays_back(owner: Owner) -> None:
    ana = str(uuid.uuid4())
    job_id = owner.row(user_id=ana, credits_charged=True)
    path = "/functions/v1/runninghub-queue-manager/"
    mine = {"table": "upscaler_jobs", "jobId": job_id}
    assert owner.gate.post(path + "run-or-queue", mine | {"creditCost": 1_000, "userId": "eve"}).status_code == 200
    assert owner.gate.post(path + "finish", mine | {"status": "failed"}).json() == {"success": True, "refundedAmount": 10}
    paid = lambda: owner.sql("select user_id::text, balance from user_credits")  # noqa: E731
    assert await until(paid, "gate has paid") == [(ana, 10)]
    unknown = mine | {"jobId": str(uuid.uuid4())}
    assert owner.gate.post(path + "run-or-queue", unknown).status_code == 404


@pytest.mark.parametrize("role", ROLES[:2])
def test_browsers_may_call_none_of_the_functions_and_write_no_row(owner: Owner, role: str) -> None:
    names = set(re.findall(r"create function (\w+)", (EXAMPLE / "tables.sql").read_text()))
    may = "select proname, has_function_privilege(:role, oid, 'execute') from pg_proc where proname = any(:names)"
    assert dict(owner.sql(may, role=role, names=list(names))) == dict.fromkeys(names, False)  # type: ignore[arg-type]
    bound = "select relname from pg_class where relrowsecurity"
    assert {name for (name,) in owner.sql(bound)} == {*TABLES, "user_credits"}
