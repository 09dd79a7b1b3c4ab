"""docs/moving-over.md is played from top to bottom: its SQL on a Postgres as the owner's, its commands against a `gate serve` that is
configured as it says, with a stand-in for the functions that only Supabase runs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.types.json import Jsonb

from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.needs import missing
from tests.support.paths import ROOT
from tests.support.servers import Postgres, lacking
from tests.support.stores import fresh_database
from tests.support.tool import SECRET, Tool
from tests.support.wait import until

GUIDE = (ROOT / "docs/moving-over.md").read_text()
MANAGER = "/functions/v1/runninghub-queue-manager"
PRICE = 10
_numbers = itertools.count(0x100)


def block(language: str, *containing: str) -> str:
    (found,) = (
        text
        for text in re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
        if all(c in text for c in containing)
    )
    return str(found)


def file(name: str) -> str:
    return (ROOT / "docs/moving-over" / name).read_text()


class Owner:
    """The owner's database, and the functions beside it as far as gate sees them: they start each job, and write each event into its row."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sql((ROOT / "tests/proof/pages/moving.sql").read_text())
        self.tool = Tool()
        self.tool.events_answer = self._written

    def sql(self, text: str, user: str = "") -> list[list[tuple[Any, ...]]]:
        """The rows of each statement that has some. `user` is who is signed in."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("select set_config('test.user', %s, false)", (user,))
            cursor = db.execute(text)
            found = []
            while True:
                found += [cursor.fetchall()] if cursor.description else []
                if not cursor.nextset():
                    return found

    def row(self, status: str, user: str | None = None, price: int = PRICE, **values: Any) -> str:
        """A job of a user who had 100 credits, and paid for it."""
        number = next(_numbers)
        user = user or f"00000000-0000-4000-8000-{number:012}"
        values = {
            "id": f"00000000-0000-4000-9000-{number:012}", "user_id": user, "status": status, "user_credit_cost": price,
            "credits_charged": True, **values,
        }  # fmt: skip
        names = ", ".join(values)
        with psycopg.connect(self.url, autocommit=True) as db:
            charge = """insert into upscaler_credits values (%s, 100 - %s)
                on conflict (user_id) do update set balance = upscaler_credits.balance - %s"""
            db.execute(charge, (user, price, price))
            db.execute(
                f"insert into upscaler_jobs ({names}) values ({', '.join(['%s'] * len(values))})", list(values.values())
            )
        return str(values["id"])

    def of(self, job_id: str) -> tuple[str, bool, int]:
        """Its status, whether its charge went back, and what its user has."""
        query = f"""select status, credits_refunded, balance from upscaler_jobs join upscaler_credits using (user_id)
            where id = '{job_id}'"""
        ((found,),) = self.sql(query)
        return found

    def user(self, job_id: str) -> str:
        (((user,),),) = self.sql(f"select user_id::text from upscaler_jobs where id = '{job_id}'")
        return str(user)

    def _written(self, body: dict[str, Any]) -> int:
        job = body["data"]
        status = {"granted": "starting", "expired": "failed"}.get(job["status"], job["status"])
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("update upscaler_jobs set status = %s where id = %s::uuid", (status, job["job_id"]))
        return 204


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    if "postgres" in lacking("embedded", "postgres"):
        missing("needs Postgres: the owner's tables live there")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user
        server = Postgres(Path(folder) / "postgres")
        server.start()
        yield server.url
        server.crash()


class Terminal:
    """Where the guide's commands are typed: in a checkout, beside the `gate serve` of the guide."""

    def __init__(self, served: Served, owner: Owner, gate_url: str) -> None:
        self.folder, self.owner = served.folder, owner
        programs = self.folder / "bin"
        programs.mkdir()
        (programs / "gate").write_text(f'#!/bin/sh\nexec {sys.executable} -m gate "$@"\n')
        (programs / "gate").chmod(0o755)
        for name in ("docs", "lua"):
            (self.folder / name).symlink_to(ROOT / name)
        self.environment = gate_environment(
            PATH=f"{programs}:{os.environ['PATH']}", GATE_DATABASE_URL=gate_url, GATE_URL=served.url, DATABASE_URL=owner.url
        )

    def types(self, text: str, fails: bool = False) -> str:
        """What was said. What is the owner's platform's is left out."""
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
        mine = [line for line in lines if not re.search(r"^supabase |PROJECT|^export |^gate serve|venv \.venv", line)]
        script = "set -e\n" + "\n".join(mine).replace(".venv/bin/python", sys.executable)
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == fails, f"{script}\n{done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def role(postgres_url: str) -> tuple[str, str]:
    """The role of gate, for all databases of the server. Returns the statements of the guide that each database needs beside it."""
    create, of_each_database = block("sql", "create role gate").split(";", 1)
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute(create)
    return postgres_url, of_each_database


@pytest.fixture
def owner(role: tuple[str, str]) -> Iterator[Owner]:
    """The owner's database, as the guide's step 2 leaves it; one for each test."""
    with fresh_database(Path(), role[0]) as url:
        made = Owner(url)
        made.sql(role[1])
        made.sql(file("database.sql"))
        yield made


def test_the_guide_can_be_played(owner: Owner, tmp_path: Path) -> None:
    with owner.tool.running():
        play(owner, tmp_path)


def play(owner: Owner, tmp_path: Path) -> None:
    # ---- the database
    owner.sql(file("database.sql"))  # once more
    trial = owner.row("pending", id="00000000-0000-0000-0000-00000000000a")
    told, during, after = owner.sql(block("sql", "rollback;"))
    assert told[0][1:] == (PRICE, True, None, None) and after[0][1] is True and len(during) == 1
    assert owner.of(trial) == ("pending", False, 90), "the trial is not kept"
    owner.sql(f"delete from upscaler_jobs where id = '{trial}'")

    # ---- settings and keys
    config = block("toml", "[tools.upscaler_jobs]")
    config = (
        config.replace(f"https://PROJECT.supabase.co{MANAGER}", owner.tool.url)
        .replace("whsec_…", SECRET)
        .replace("…", "a-token")
        .replace("[providers.runninghub]", '[providers.runninghub]\nbase_url = "http://127.0.0.1:9"')  # no provider is there
    )
    gate_url = sa.make_url(owner.url).set(username="gate").render_as_string()
    with Served(tmp_path, config=config, on_defaults=True, GATE_DATABASE_URL=gate_url, RUNNINGHUB_API_KEY="a-key") as served:
        terminal = Terminal(served, owner, gate_url)
        types, environment = terminal.types, terminal.environment
        environment["GATE_KEY"], tool_key = types(block("sh", "gate keys create")).split()[-2:]
        admin = {"authorization": f"Bearer {environment['GATE_KEY']}"}
        served.http.headers.update(admin)
        asyncio.run(until(lambda: served.http.get("/v1/pools").status_code == 200, "the key counts", within_s=5))
        (((named,),),) = owner.sql(block("sql", "string_agg"))
        assert named == "flyer_maker_jobs pose_changer_jobs upscaler_jobs veste_ai_jobs video_upscaler_jobs"
        assert types(block("sh", "tomllib")) == "upscaler_jobs\n", (
            "the guide's file has one section, and says to add the others"
        )
        unnamed = served.post(f"{MANAGER}/run-or-queue", {"table": "veste_ai_jobs", "jobId": "unnamed"})
        assert (unnamed.status_code, unnamed.json()["code"], unnamed.json()["refunded"]) == (400, "tool_unknown", False)
        assert types(block("sh", "gate demo")).count(" ok ") == 13 + 19 + 22

        cut_over(owner, served, types, tool_key)
        way_back(owner, served, types)


def cut_over(owner: Owner, served: Served, types: Any, tool_key: str) -> None:
    def status(job_id: str) -> str:
        return str(served.http.get(f"/v1/pools/default/jobs/{job_id}").json()["status"])

    def row_is(job_id: str, *wanted: Any) -> None:
        asyncio.run(until(lambda: owner.of(job_id) == wanted, f"the row of {job_id} is {wanted}"))

    runs = owner.row("running", task_id="1900000000000000001")
    waits = [owner.row("queued", job_payload=json.dumps({"webappId": "1"})) for _ in range(2)]
    again = owner.row("queued", owner.user(waits[0]), id="00000000-0000-0000-0000-00000000000b")
    before = owner.row("completed")

    for _ in range(2):
        owner.sql(file("disarm.sql"))
    assert owner.sql("select active from cron.job order by jobid") == [[(False,), (True,)]]
    assert owner.sql("select * from cleanup_all_stale_ai_jobs()") == [[]]
    hold, let_go = block("sql", "generate_series"), block("sql", "delete from")
    owner.sql(hold)
    ((queued, running),) = owner.sql(block("sql", "group by table_name"))
    assert (queued[1:3], running[1:3]) == (("queued", 3), ("running", 1))

    # ---- the import, while one runs
    import_ = block("sh", "import.py")
    starting = owner.row("starting")
    assert f"{starting} is just starting" in types(import_, fails=True)
    assert served.http.get("/v1/pools/default").json()["running"] == 0, "all of it or nothing"
    owner.sql(f"delete from upscaler_jobs where id = '{starting}'")
    said = types(import_)
    assert said.count(f"{runs} runs as task 1900000000000000001") == 1 and f"{again} is NOT admitted" in said
    assert [status(job_id) for job_id in (runs, *waits)] == ["running", "queued", "queued"]
    assert served.http.get(f"/v1/pools/default/jobs/{before}").status_code == 404
    queue = served.http.get("/v1/pools/default").json()["queue"]
    assert [job["job_id"] for job in queue] == waits and queue[0]["payload"] == {"webappId": "1"}
    assert queue[0]["credits"] == PRICE and queue[0]["user"] == owner.user(waits[0])
    assert json.loads(types(block("sh", "only one job at a time"))) == {"success": True, "refundedAmount": PRICE}
    row_is(again, "failed", True, 90)
    row_is(runs, "running", False, 90)

    # ---- what the old functions did meanwhile
    owner.sql(f"update upscaler_jobs set status = 'completed' where id = '{runs}'")
    late = owner.row("queued")
    lost = owner.row("queued")
    types(import_)
    assert [status(job_id) for job_id in (runs, late)] == ["completed", "queued"]
    owner.sql(f"update upscaler_jobs set status = 'cancelled', credits_refunded = true where id = '{lost}'")
    types(import_)
    assert status(lost) == "cancelled"
    row_is(lost, "cancelled", True, 90)
    asyncio.run(until(lambda: '"count": 0' in run_gate_status(served, types), "nothing is owed"))
    assert owner.of(lost)[2] == 90, "the old function has paid, gate's refund pays nothing more"

    strange = owner.row("running", task_id="1900000000000000009")
    assert "1 run that gate does not know" in types(import_, fails=True)
    owner.sql(f"delete from upscaler_jobs where id = '{strange}'")

    # ---- a user cancels
    secrets = block("sql", "vault.create_secret").replace("https://gate.example", served.url).replace("gate_tool_…", tool_key)
    owner.sql(secrets)
    assert file("cancel.sql").count("create extension if not exists pg_net;") == 1
    owner.sql(file("cancel.sql").replace("create extension if not exists pg_net;", ""))
    cancel = f"set role authenticated; select * from user_cancel_ai_job('upscaler_jobs', '{late}')"
    assert owner.sql(cancel, owner.user(runs)) == [[(False, 0, "there is no such job of yours")]]
    assert owner.sql(cancel) == [[(False, 0, "there is no such job of yours")]]
    assert owner.sql(cancel, owner.user(late)) == [[(True, PRICE, None)]]
    (((url, body, headers),),) = owner.sql("select url, body, headers from net.asked")
    assert httpx2.post(url, json=body, headers=headers).json()[0]["success"] is True
    row_is(late, "cancelled", True, 100)
    assert owner.sql(cancel, owner.user(late)) == [[(False, 0, "the job is over")]]

    # ---- go
    assert served.http.get("/v1/pools/default").json()["paused"]
    types(block("sh", "/resume"))
    owner.sql(let_go)
    for job_id in waits:
        row_is(job_id, "running", False, 90)
    word = {
        "event": "TASK_END",
        "taskId": f"t-{waits[0]}",
        "eventData": {"code": 0, "data": [{"fileUrl": "https://a.example/1.png"}]},
    }
    assert httpx2.post(f"{served.url}/v1/webhooks/runninghub/default?token=a-token", json=word).json() == {
        "result": "applied"
    }
    row_is(waits[0], "completed", False, 90)
    word["taskId"], word["eventData"] = f"t-{waits[1]}", {"code": 805, "msg": "no"}
    assert httpx2.post(f"{served.url}/functions/v1/runninghub-webhook?token=a-token", json=word).json() == {
        "result": "applied"
    }
    row_is(waits[1], "failed", True, 100)

    # ---- one by hand
    by_hand = owner.row("running", id="00000000-0000-0000-0000-00000000000c", task_id="1900000000000000001")
    types(block("sh", "/acquire").replace("1900000000000000001", "1900000000000000002"))
    assert served.http.get(f"/v1/pools/default/jobs/{by_hand}").json()["task"]["task_id"] == "1900000000000000002"

    # ---- is it so?
    differ, unpaid = block("sql", "full join"), block("sql", "refunds.kind")
    asyncio.run(until(lambda: owner.sql(differ) == [[]], "rows and gate say the same"))
    assert owner.sql(unpaid) == [[]]
    astray = owner.row("running")
    assert owner.sql(differ) == [[(astray, "running", None)]]
    owner.sql(f"delete from upscaler_jobs where id = '{astray}'")
    shown = types(block("sh", "gate verify"))
    assert "clean: I1-I9 hold" in shown and "slots" in shown and by_hand in shown


def run_gate_status(served: Served, types: Any) -> str:
    return json.dumps(json.loads(types("gate status --json"))["owed"])


def way_back(owner: Owner, served: Served, types: Any) -> None:
    for command in block("sh", '"queue_max": 0').splitlines():
        types(command)
    served.post(
        f"{MANAGER}/finish",
        {"table": "upscaler_jobs", "jobId": "00000000-0000-0000-0000-00000000000c", "status": "completed"},
    )
    late = owner.row("pending")
    said = served.post(f"{MANAGER}/run-or-queue", {"table": "upscaler_jobs", "jobId": late})
    assert (said.status_code, said.json()["code"], said.json()["refunded"]) == (400, "queue_full", False)
    end = {"table": "upscaler_jobs", "jobId": late, "status": "failed", "errorMessage": "full", "notAdmitted": True}
    assert served.post(f"{MANAGER}/finish", end).json() == {"success": True, "refundedAmount": PRICE}
    assert served.post(f"{MANAGER}/finish", end).json()["skipped"] is True
    asyncio.run(until(lambda: owner.of(late) == ("failed", True, 100), "its charge went back, once"))
    for _ in range(2):
        owner.sql(file("back.sql"))
    assert owner.sql("select active from cron.job order by jobid") == [[(True,), (True,)]]
    mine = f"set role authenticated; select * from user_cancel_ai_job('upscaler_jobs', '{late}')"
    assert owner.sql(mine) == [[(True, 0, "the old one")]]
    stale = owner.row("running")
    assert owner.sql("select * from cleanup_all_stale_ai_jobs()") == [[(1,)]] and owner.of(stale) == ("failed", True, 100)
    (undo,) = re.findall(r'\(`(\{"limit".*?\})`\)', GUIDE)
    assert served.http.put("/v1/pools/default", json=json.loads(undo)).json()["limit"] == 3
    assert run_gate("verify", cwd=served.folder).returncode == 0


@pytest.mark.parametrize("path", ["docs/moving-over/database.sql", "examples/supabase/tables.sql"])
def test_places_in_line_that_are_written_at_once_do_not_deadlock(owner: Owner, path: str) -> None:
    pattern = r"create (?:or replace )?function set_queue_positions\(.*?^\$\$;"
    (made,) = re.findall(pattern, (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)
    owner.sql(made.replace("create function", "create or replace function"))
    waiting = [owner.row("queued") for _ in range(60)]
    threads = 8
    together = threading.Barrier(threads)

    def write(number: int) -> None:
        order = waiting[:] if number % 2 else waiting[::-1]
        with psycopg.connect(owner.url, autocommit=True) as db:
            for turn in range(20):
                places = [
                    {"table_name": "upscaler_jobs", "id": job_id, "position": place + number + turn}
                    for place, job_id in enumerate(order)
                ]
                together.wait(30)
                db.execute("select set_queue_positions(%s)", (Jsonb(places),))

    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(write, number) for number in range(threads)]:
                done.result(60)
    finally:
        owner.sql("delete from upscaler_jobs where status = 'queued'")
        owner.sql(file("database.sql"))


def test_a_place_that_is_right_already_is_not_written(owner: Owner) -> None:
    job_id = owner.row("queued", position=4)
    place = json.dumps([{"table_name": "upscaler_jobs", "id": job_id, "position": 4}])
    version = f"select xmin::text from upscaler_jobs where id = '{job_id}'"
    before = owner.sql(version)
    owner.sql(f"select set_queue_positions('{place}')")
    assert owner.sql(version) == before
    owner.sql(f"delete from upscaler_jobs where id = '{job_id}'")


def test_the_old_clean_up_is_put_away_also_where_there_is_none(owner: Owner) -> None:
    owner.sql("alter function cleanup_all_stale_ai_jobs() rename to kept_for_the_test")
    try:
        owner.sql(file("disarm.sql"))
        assert owner.sql("select to_regprocedure('cleanup_all_stale_ai_jobs()') is null") == [[(True,)]]
        owner.sql(file("back.sql"))
        assert owner.sql("select active from cron.job order by jobid") == [[(True,), (True,)]]
    finally:
        owner.sql("alter function kept_for_the_test() rename to cleanup_all_stale_ai_jobs")


def test_it_is_not_paid_when_the_owners_function_says_no(owner: Owner) -> None:
    job_id = owner.row("failed")
    owner.sql(f"delete from upscaler_credits where user_id = '{owner.user(job_id)}'")
    with pytest.raises(psycopg.errors.RaiseException, match="no such user"):
        owner.sql(f"select gate_refund('{owner.user(job_id)}', 10, 'x', '{job_id}')")
    assert owner.sql(f"select credits_refunded from upscaler_jobs where id = '{job_id}'") == [[(False,)]]
    with pytest.raises(psycopg.errors.RaiseException, match="no row of job"):
        owner.sql(f"select gate_refund('{owner.user(job_id)}', 10, 'x', 'nobody')")


@pytest.mark.parametrize(
    "returns, answers", [("void", ""), ("json", "return '{\"success\": true}'::json;"), ("integer", "return 1;")]
)
def test_it_is_paid_whatever_the_owners_function_returns(owner: Owner, returns: str, answers: str) -> None:
    job_id = owner.row("failed")
    pays = "update upscaler_credits set balance = balance + _amount where user_id = _user_id;"
    owner.sql("drop function refund_upscaler_credits")
    owner.sql(
        f"""create function refund_upscaler_credits(_user_id uuid, _amount integer, _description text default 'Refund')
        returns {returns} language plpgsql as $$ begin {pays} {answers} end $$"""
    )
    for _ in range(2):
        owner.sql(f"select gate_refund('{owner.user(job_id)}', 10, 'x', '{job_id}')")
    assert owner.of(job_id) == ("failed", True, 100)
