"""The stage with the owner's own Postgres: the tables of an old queue manager, the guide's SQL, and gate's ledger beside them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Placeholder
from psycopg.types.json import Jsonb
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.proof.examples.platform import SERVICE_KEY, Platform, Row
from tests.proof.examples.stage import Stage
from tests.proof.pages.test_moving_over import block, file
from tests.support.paths import ROOT

AT_FIRST = 100
"""Credits of each user before the charge."""
OPERATORS = {"eq": "=", "neq": "<>", "lte": "<="}


class SqlPlatform(Platform):
    """The tables behind PostgREST, as far as the functions use it: each request is one statement."""

    def __init__(self, provider: str, url: str) -> None:
        super().__init__(provider)
        self.database_url = url

    def sql(self, text: Any, values: Any = None) -> list[Row]:
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as db:
            cursor = db.execute(text, values)
            return cursor.fetchall() if cursor.description else []

    def row(self, job_id: str, table: str = "upscaler_jobs") -> Row:
        (found,) = self.sql(SQL("select * from {} where id = %s").format(Identifier(table)), (job_id,))
        return found

    def insert(self, job_id: str, table: str = "upscaler_jobs", **values: Any) -> None:
        row = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in ({"id": job_id} | values).items()}
        columns, marks = SQL(", ").join(map(Identifier, row)), SQL(", ").join(Placeholder() * len(row))
        self.sql(SQL("insert into {} ({}) values ({})").format(Identifier(table), columns, marks), list(row.values()))

    def balance(self, user: str) -> int:
        ((found),) = self.sql("select balance from upscaler_credits where user_id = %s", (user,))
        return int(found["balance"])

    async def _table(self, request: Request) -> Response:
        if request.headers.get("apikey") != SERVICE_KEY:
            return JSONResponse({"code": "42501", "message": "permission denied"}, 401)
        table = request.path_params["table"]
        query = request.query_params
        if request.method == "POST":
            new = await request.json()
            self.insert(new.pop("id"), table, **new)
            return Response(status_code=201)
        wheres, values = [], []
        for name, condition in query.multi_items():
            if name not in ("select", "columns"):
                wheres.append(_condition(name, condition, values))
        names = SQL(", ").join(Identifier(name) for name in query.get("select", "id").split(","))
        where = SQL(" and ").join(wheres)
        if request.method == "GET":
            return JSONResponse(
                _shown(self.sql(SQL("select {} from {} where {}").format(names, Identifier(table), where), values))
            )
        change = await request.json()
        sets = SQL(", ").join(SQL("{} = %s").format(Identifier(name)) for name in change)
        statement = SQL("update {} set {} where {} returning id, status, {}").format(Identifier(table), sets, where, names)
        rows = self.sql(statement, list(change.values()) + values)
        if "status" in change:
            self.changes += [(str(row["id"]), row["status"]) for row in rows]
        return (
            JSONResponse(_shown(rows))
            if "return=representation" in request.headers.get("prefer", "")
            else Response(status_code=204)
        )

    async def _procedure(self, request: Request) -> Response:
        if request.headers.get("apikey") != SERVICE_KEY:
            return JSONResponse({"code": "42501", "message": "permission denied"}, 401)
        given = await request.json()
        named = SQL(", ").join(SQL("{} => %s").format(Identifier(name)) for name in given)
        values = [Jsonb(value) if isinstance(value, list | dict) else value for value in given.values()]
        rows = self.sql(SQL("select * from {}({})").format(Identifier(request.path_params["name"]), named), values)
        return JSONResponse(_shown(rows))


def _condition(name: str, condition: str, values: list[Any]) -> Any:
    """`eq.x`, `neq.x`, `lte.x`, `in.(a,b)`, `not.…`, as PostgREST reads them."""
    word, _, wanted = condition.partition(".")
    if word == "not":
        return SQL("not {}").format(_condition(name, wanted, values))
    if word == "in":
        values.append(wanted.strip("()").split(","))
        return SQL("{} = any (%s)").format(Identifier(name))
    values.append(wanted)
    return SQL("{} " + OPERATORS[word] + " %s").format(Identifier(name))


def _shown(rows: list[Row]) -> list[Row]:
    return [{name: str(value) if isinstance(value, uuid.UUID) else value for name, value in row.items()} for row in rows]


class OwnerStage(Stage):
    """Rows hold the price, the session and the payload, as those of today's tools do."""

    platform: SqlPlatform

    def __init__(self, folder: Path, functions: Path, pool: str, url: str) -> None:
        super().__init__(folder, functions, pool)
        self._url = url
        self._gate_url = sa.make_url(url).set(username="gate").render_as_string()
        with psycopg.connect(url, autocommit=True) as db:
            for text in (
                (ROOT / "tests/proof/pages/moving.sql").read_text(),
                block("sql", "create role gate"),
                file("database.sql"),
            ):
                db.execute(text.encode())
            db.execute(file("cancel.sql").replace("create extension if not exists pg_net;", "").encode())

    def _platform(self) -> Platform:
        return SqlPlatform(self.simulator.url, self._url)

    def _environment(self) -> dict[str, str]:
        return {"GATE_DATABASE_URL": self._gate_url}

    def _config(self) -> str:
        settings = """job_sql = "select * from gate_job(:table_name, :job_id)"
refund_sql = "select gate_refund(:user, :amount, :description, :job_id)"
"""
        return settings + super()._config()

    def new(self, user: str | None = None, cost: int = 10, table: str = "upscaler_jobs", **values: Any) -> dict[str, Any]:
        """A row that a tool has charged for and inserted, and what today's tools ask then: its name and nothing else."""
        job_id, user = str(uuid.uuid4()), user or str(uuid.uuid4())
        charge = """insert into upscaler_credits values (%(user)s, %(first)s - %(cost)s)
            on conflict (user_id) do update set balance = upscaler_credits.balance - %(cost)s"""
        self.platform.sql(charge, {"user": user, "first": AT_FIRST, "cost": cost})
        row = {"user_id": user, "user_credit_cost": cost, "credits_charged": True, "session_id": "a tab",
               "job_payload": {"webappId": "7", "nodeInfoList": []}} | values  # fmt: skip
        self.platform.insert(job_id, table, **row)
        return {"table": table, "jobId": job_id}

    def cancel_by(self, user: str, job_id: str) -> Row:
        """`rpc("user_cancel_ai_job")` of a browser. Its request to gate is not sent: it waits in net.asked."""
        with psycopg.connect(self._url, row_factory=dict_row) as db:
            db.execute("select set_config('test.user', %s, false)", (user,))
            (told,) = db.execute("select * from user_cancel_ai_job('upscaler_jobs', %s::uuid)", (job_id,)).fetchall()
        return told
