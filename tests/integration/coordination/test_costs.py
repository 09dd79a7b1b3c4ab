"""What a pair costs, in things that no machine makes more or fewer of: journeys to Redis, statements and commits of SQL, rows that a
query looks at, and a script beside one that does nothing. A change that makes gate slower is noticed by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis
import sqlalchemy as sa

from gate.ledger import Database
from gate.ledger.commit import unit_of_work as batch
from gate.ledger.commit.group_commit import GroupCommitter
from gate.ledger.sql import statements
from gate.slots.pipeline import CommandPipeline
from tests.support.gate_in_process import House
from tests.support.script_lane import LineOfPool

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_disk")]
PAIRS = 200
AT_ONCE = 20
TURNS = 60


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, house: House) -> Counter[str]:
    """By what was asked of Redis; `statements` and `commits` of the writer."""
    found: Counter[str] = Counter()
    ask, say, commit = CommandPipeline.ask, statements.say, GroupCommitter.commit

    async def counting_ask(self: CommandPipeline, *words: Any) -> Any:
        found[words[0]] += 1
        return await ask(self, *words)

    def counting_say(connection: Any, text: str, *values: Any) -> Any:
        found["statements"] += 1
        return say(connection, text, *values)

    def counting_commit(self: GroupCommitter, *batch: Any) -> bool:
        found["commits"] += 1
        return commit(self, *batch)

    monkeypatch.setattr(CommandPipeline, "ask", counting_ask)
    monkeypatch.setattr(statements, "say", counting_say)
    monkeypatch.setattr(GroupCommitter, "commit", counting_commit)
    engine = house.gate.ledger._database._write_engine
    sa.event.listen(engine, "before_cursor_execute", lambda *_: found.update(["statements"]))
    return found


async def pair(house: House, number: int) -> None:
    job = await house.acquire(f"{house.pool}-cost-{number}", user=f"u{number}", credits=5, payload={"a": number})
    await house.release(job, "failed" if number % 10 == 0 else "completed")


def ticks_since(began: float) -> int:
    """One a second, and some for what begins and ends."""
    return 20 + round(time.monotonic() - began)


async def test_a_pair_is_two_scripts_and_two_commits_of_five_statements(house: House, counted: Counter[str]) -> None:
    await pair(house, 0)
    counted.clear()
    began = time.monotonic()
    for number in range(1, PAIRS + 1):
        await pair(house, number)
    assert counted["EVALSHA"] <= 2 * PAIRS + ticks_since(began)
    assert counted["XRANGE"] <= ticks_since(began) and counted["PUBLISH"] <= PAIRS
    assert counted["commits"] <= 2 * PAIRS + 5
    assert counted["statements"] <= 2 * 5 * PAIRS


async def test_pairs_at_once_share_commits_and_statements(house: House, counted: Counter[str]) -> None:
    await house.gate.services.pools.change(house.pool, {"limit": AT_ONCE})
    await pair(house, 0)
    counted.clear()
    for start in range(1, PAIRS, AT_ONCE):
        await asyncio.gather(*(pair(house, number) for number in range(start, start + AT_ONCE)))
    assert counted["commits"] <= PAIRS // 4, "each by itself would need two"
    assert counted["statements"] <= 7 * counted["commits"], "however many they are"


async def test_a_wait_and_its_hand_over_look_at_nothing_again(
    house: House, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification carries the job that a waiter waits for, and a reply carries what its script did."""
    read, tell_line, in_line = Database.read, house.keeper._news.tell_line, asyncio.Event()

    def counting_read(self: Database, work: Any) -> Any:
        counted["reads"] += 1
        return read(self, work)

    def telling(*told: Any) -> None:
        in_line.set()
        tell_line(*told)

    monkeypatch.setattr(Database, "read", counting_read)
    monkeypatch.setattr(house.keeper._news, "tell_line", telling)
    await house.gate.services.pools.change(house.pool, {"limit": 1})
    holder = await house.acquire()
    counted.clear()
    began = time.monotonic()
    for _ in range(TURNS):
        in_line.clear()
        waiting = asyncio.create_task(house.acquire(wait_s=30))
        await in_line.wait()
        await house.release(holder)
        holder = await waiting
        await house.keeper.claim(house.pool, holder.job_id, holder.lease_id or "")
    assert counted["EVALSHA"] <= 3 * TURNS + ticks_since(began)
    assert counted["XRANGE"] <= ticks_since(began) and counted["reads"] <= 20
    assert counted["commits"] <= 4 * TURNS + 20


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres")
async def test_a_batch_is_two_journeys_to_postgres(
    house: House, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, counting_say = statements.together, statements.say

    @contextlib.contextmanager
    def counting_together(connection: Any) -> Iterator[None]:
        counted["journeys"] += 1
        with together(connection):
            yield

    def say(connection: Any, text: str, *values: Any) -> Any:
        counted["alone"] += statements._SAID not in connection.info
        return counting_say(connection, text, *values)

    monkeypatch.setattr(batch, "together", counting_together)
    monkeypatch.setattr(statements, "say", say)
    await pair(house, 0)
    counted.clear()
    for number in range(1, PAIRS + 1):
        await pair(house, number)
    assert counted["journeys"] == 2 * counted["commits"]
    assert counted["alone"] <= PAIRS // 10 + 10, "but for a refund that is looked up, and what keeps itself busy"


MANY_JOBS = """
insert into gate.jobs (job_id, pool, status, credits, ticket, fence, lease_ms, enqueued_at, ended_at, ended_by)
select 'before-' || n, %s, 'completed', 0, n, n, 1000, n, n, 'holder' from generate_series(1, 20000) as n"""


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres's planner")
async def test_no_statement_of_a_pair_reads_a_whole_table_of_postgres(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner has no statistics yet, as in a young database."""
    asked: dict[str, tuple[Any, ...]] = {}
    say = statements.say

    def hearing(connection: Any, text: str, *values: Any) -> Any:
        asked[text] = values
        return say(connection, text, *values)

    await house.gate.services.pools.change(house.pool, {"limit": AT_ONCE})
    with psycopg.connect(house.sql_url, autocommit=True) as people:
        people.execute(MANY_JOBS, [house.pool])
        monkeypatch.setattr(statements, "say", hearing)
        await pair(house, 0)
        await asyncio.gather(*(pair(house, number) for number in range(1, AT_ONCE)))
        monkeypatch.undo()
        plans = {
            text: "\n".join(row[0] for row in people.execute(f"explain {text}", values))
            for text, values in asked.items()
            if re.match(r"(?i)\s*(select|insert|update)", text)
        }
        people.execute("delete from gate.jobs where job_id like 'before-%'")  # of which nothing else speaks
    assert len(plans) > 5
    assert not {text: plan for text, plan in plans.items() if re.search("Seq Scan on (jobs|ledger|events)", plan)}


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite's planner")
async def test_no_query_of_a_pair_looks_at_more_rows_than_it_needs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    database = house.gate.ledger._database
    await pair(house, 0)
    assert database._at_once is not None
    connection = database._at_once._committer._connection
    assert connection is not None
    driver: Any = connection.connection.dbapi_connection
    driver.set_trace_callback(asked.add)
    await asyncio.gather(*(pair(house, number) for number in range(1, 4)))
    driver.set_trace_callback(None)
    queries = {query for query in asked if re.match(r"(?i)\s*(select|insert|update)", query)}
    assert len(queries) > 5
    plans = {
        query: await database.read(lambda c, q=query: [row[3] for row in c.exec_driver_sql(f"explain query plan {q}")])
        for query in queries
    }
    scans = {
        query: plan
        for query, plan in plans.items()
        if any(re.match(r"SCAN (?!one|json_each|CONSTANT|\d+ CONSTANT)", step) for step in plan)
    }
    assert not scans


def of_a_script(people: redis.Redis, command: str = "evalsha") -> float:
    """Microseconds of Redis for each script since it was last told to forget."""
    return people.info("commandstats")[f"cmdstat_{command}"]["usec_per_call"]


async def test_a_script_is_not_dearer_than_so_many_that_do_nothing(house: House) -> None:
    """Redis's own account, of the same moments: a ratio, no time."""
    nothing = house.people.script_load("return 1")
    ratios = []
    for _ in range(3):
        house.people.config_resetstat()
        for number in range(100):
            house.people.evalsha_ro(nothing, 0)
            await pair(house, len(ratios) * 1000 + number)
            house.people.evalsha_ro(nothing, 0)
        ratios.append(of_a_script(house.people) / of_a_script(house.people, "evalsha_ro"))
    assert min(ratios) <= 60, ratios


@pytest.mark.parametrize("line", ["valkey"], indirect=True)
async def test_in_a_long_line_no_waiter_is_searched_among_all(line: LineOfPool, people: redis.Redis) -> None:
    """A place at either end, and an end of a wait, with so many waiting beside the same with few: a ratio of one run."""

    async def cost(count: int) -> float:
        """Put there by hand: what a script has loaded is cleared away in those that come after it."""
        await line.load(epoch=line.epoch + 1, limit=0, queue_max=30_000)
        entry = {"queued_at": line.clock.now, "lease_ms": 1_000}
        entries = {f"j{n}": json.dumps(entry | {"ticket": str(n)}) for n in range(1, count + 1)}
        people.hset(line.key("jobs"), mapping=entries)
        people.rpush(line.key("queue"), *entries)
        people.config_resetstat()
        for n in range(1, 31):
            assert (await line.status(f"j{n % 10 + 1}", most=0)).position == n % 10 + 1
            assert (await line.status(f"j{count}", most=0)).position == count
            await line.acquire(f"new{n}")
            assert (await line.cancel(f"new{n}")).result == "left_queue"
        return of_a_script(people)

    ratios = []
    for _ in range(3):
        few = await cost(20)
        ratios.append(await cost(20_000) / few)
    assert min(ratios) <= 1.7, ratios
