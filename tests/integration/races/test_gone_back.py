"""SQL has gone back behind a Redis that knows more: a restored backup, a standby that lagged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import gate.coordination.drift as drift
from gate.cli.context import opened
from gate.coordination.ledger_mark import FILE, Mark, MarkFile
from gate.diagnostics.doctor import look_over
from gate.explain.facts import by_both
from gate.explain.sentences import sections
from gate.ledger.admin import migrate
from gate.ledger.admin.backup import backup, is_copy
from gate.ledger.admin.prune import prune
from gate.model.errors import CannotStart
from gate.model.job import Job, Request
from gate.model.tool import Tools
from gate.runtime.settings import Settings
from gate.runtime.wiring import ExternalServices, RunningGate, open_gate
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.servers import RedisServer
from tests.support.stores import fresh_database
from tests.support.wait import until

pytestmark = pytest.mark.anyio
SETTINGS = {"default": settings_of()}


async def acquire(gate: RunningGate, job_id: str) -> Job:
    return await gate.services.admission.acquire("default", Request(job_id, credits=5))


async def complete(gate: RunningGate, job: Job) -> None:
    await gate.services.jobs.release("default", job.job_id, job.lease_id or "", "completed")


async def start(gate: RunningGate, job_id: str) -> Job:
    job = await gate.services.queries.wait("default", job_id, "queued", 5)
    return await gate.services.jobs.claim("default", job_id, job.lease_id or "")


async def pause_reason(gate: RunningGate) -> str | None:
    event = (await gate.services.ledger.held()).get("default")
    return event.why if event else None


async def is_paused(server: RedisServer) -> bool:
    return str(server.cli("hget", "gate:{default}:meta", "paused")).strip() == "1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer("valkey", tmp_path / "redis")
    made.start()
    yield made
    made.kill()


@pytest.fixture
async def old(server: RedisServer, sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A ledger of the past. In it a, b, c run and d, e wait. Since then a, b, d were completed; c, e, f run, and g waits."""
    monkeypatch.setattr(drift, "STRANGER_MS", 0)
    async with open_gate(server.url, sql_url, SETTINGS) as gate:
        held = [await acquire(gate, job_id) for job_id in "abcde"]
    with fresh_database(tmp_path / "old", like=sql_url) as url:
        async with open_gate(server.url, sql_url, SETTINGS) as gate:
            await complete(gate, held[0])
            await complete(gate, held[1])
            waiters = [await start(gate, job_id) for job_id in "de"]
            await complete(gate, waiters[0])
            assert [(await acquire(gate, job_id)).status for job_id in "fg"] == ["running", "queued"]
            await gate.registry.age.look()
            await gate.registry.pool("default").tick()
        yield url


async def sweeps(gate: RunningGate) -> list[tuple[str, str]]:
    found = [await gate.reconciler.sweep("default") for _ in range(3)]
    return [(one.kind.value, one.job_id) for sweep in found for one in sweep]


async def test_ledger_that_went_back_is_held_until_an_operator_resumes(server: RedisServer, old: str) -> None:
    async with open_gate(server.url, old, SETTINGS) as gate:
        assert "has gone back" in (await until(lambda: pause_reason(gate), "the first sweep has found it"))
        await until(lambda: is_paused(server), "Redis has heard of it")
        assert await sweeps(gate) == [], "the slot of f is not freed, d is not queued again, a is not expired"
        view = await gate.services.queries.pool("default")
        assert {job.job_id for job in view.holders} == {*"ce"} and view.line.paused, "SQL does not know f"
        assert int(server.cli("zcard", "gate:{default}:slots")) == 3
        assert [one.about for one in await look_over(server.url, old, Tools()) if one.what == "gone_back"] == ["default"]
        for job_id in "ab":
            await gate.services.jobs.cancel("default", job_id)
        await gate.services.pools.change("default", {"paused": False}, "looked at the provider")
        assert await pause_reason(gate) is None
        assert ("stranger", "f") in await sweeps(gate), "the repairs go on"
        await gate.reconciler.sweep_all(gate.services.health)
        assert await pause_reason(gate) is None, "it is not held again for the same loss"
        assert not [one for one in await look_over(server.url, old, Tools()) if one.what == "gone_back"]


async def test_hold_outlives_a_restart_and_a_loss_of_redis(server: RedisServer, old: str) -> None:
    async with open_gate(server.url, old, SETTINGS) as gate:
        await until(lambda: pause_reason(gate), "the first sweep has found it")
    server.cli("flushall")
    async with open_gate(server.url, old, SETTINGS) as gate:
        assert await pause_reason(gate) is not None
        assert (await gate.services.queries.pool("default")).line.paused


async def test_pool_that_is_loaded_again_from_an_old_ledger_is_held_before_it_grants(server: RedisServer, old: str) -> None:
    """By a command, which has no sweep."""
    server.cli("del", "gate:{default}:slots")
    server.cli("set", "gate:{default}:slots", "damaged")
    async with open_gate(server.url, old) as gate:
        await gate.registry.pool("default").tick()
        assert await pause_reason(gate) is not None and await is_paused(server)


async def test_epoch_of_redis_above_that_of_sql_holds_the_pool(server: RedisServer, sql_url: str, tmp_path: Path) -> None:
    async with open_gate(server.url, sql_url, SETTINGS) as gate:
        await acquire(gate, "a")
    with fresh_database(tmp_path / "old", like=sql_url) as url:
        async with open_gate(server.url, sql_url, SETTINGS) as gate:
            await gate.services.pools.rebuild("default")
        server.cli("hdel", "gate:{default}:meta", "recorded")
        async with open_gate(server.url, url, SETTINGS) as gate:
            assert "epoch" in (await until(lambda: pause_reason(gate), "it is found"))
            await until(lambda: is_paused(server), "the pool is loaded above the epoch of Redis")
            await gate.services.pools.change("default", {"paused": False}, None)
            await gate.reconciler.sweep_all(gate.services.health)
            assert await pause_reason(gate) is None


async def test_ledger_that_did_not_go_back_is_not_held(server: RedisServer, old: str, sql_url: str) -> None:
    async with open_gate(server.url, sql_url, SETTINGS) as gate:
        await gate.reconciler.sweep_all(gate.services.health)
        assert await sweeps(gate) == [] and await pause_reason(gate) is None
    server.cli("flushall")
    async with open_gate(server.url, sql_url, SETTINGS) as gate:
        await gate.reconciler.sweep_all(gate.services.health)
        assert await pause_reason(gate) is None, "a loss of Redis is no loss of SQL"


async def test_restored_backup_with_an_empty_redis_is_held(server: RedisServer, sql_url: str, tmp_path: Path) -> None:
    if not sql_url.startswith("sqlite"):
        pytest.skip("gate backup copies a SQLite file")
    async with open_gate(server.url, sql_url, SETTINGS | {"empty": settings_of()}) as gate:
        for job_id in "abcd":
            await acquire(gate, job_id)
        backup(sql_url, tmp_path / "copy.db")
    server.cli("flushall")
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    async with open_gate(server.url, url, SETTINGS) as gate:
        assert [*await gate.services.ledger.held()] == ["default"], "no job of the other pool can have ended since"
        assert (await gate.services.queries.pool("default")).line.paused and not is_copy(url)
        await gate.services.pools.change("default", {"paused": False}, None)
    async with open_gate(server.url, url, SETTINGS) as gate:
        assert await pause_reason(gate) is None


async def test_data_dir_shows_that_sql_has_gone_back_when_redis_was_emptied_too(
    server: RedisServer, sql_url: str, tmp_path: Path
) -> None:
    outside = ExternalServices(mark_file=tmp_path / FILE)
    both = SETTINGS | {"empty": settings_of()}
    async with open_gate(server.url, sql_url, both, outside=outside) as gate:
        await acquire(gate, "a")
    with fresh_database(tmp_path / "old", like=sql_url) as old_url, fresh_database(tmp_path / "new") as new_url:
        async with open_gate(server.url, sql_url, both, outside=outside) as gate:
            await acquire(gate, "b")
        server.cli("flushall")
        migrate.migrate(new_url)
        kept = (tmp_path / FILE).read_text()
        async with open_gate(server.url, new_url, SETTINGS, outside=outside) as gate:
            assert not await gate.services.ledger.held(), "another ledger is not an older one"
        (tmp_path / FILE).write_text(kept)
        server.cli("flushall")
        async with open_gate(server.url, old_url, both, outside=outside) as gate:
            assert sorted(await gate.services.ledger.held()) == ["default", "empty"], "b may have run in any pool"
            for pool in both:
                await gate.services.pools.change(pool, {"paused": False}, None)
        async with open_gate(server.url, old_url, both, outside=outside) as gate:
            assert not await gate.services.ledger.held(), "the same loss is found once"


async def test_backup_made_while_gate_was_stopped_is_not_held(server: RedisServer, sql_url: str, tmp_path: Path) -> None:
    if not sql_url.startswith("sqlite"):
        pytest.skip("gate backup copies a SQLite file")
    outside = ExternalServices(mark_file=tmp_path / FILE)
    async with open_gate(server.url, sql_url, SETTINGS, outside=outside) as gate:
        await acquire(gate, "a")
    kept = (tmp_path / FILE).read_text()
    assert json.loads(kept)["stopped"]
    for name, mark in (
        ("equal", kept),
        ("killed", kept.replace("true", "false")),
        ("later", kept.replace('"newest": ', '"newest": 1')),
        ("none", ""),
    ):
        copy = tmp_path / f"{name}.db"
        backup(sql_url, copy)
        server.cli("flushall")
        (tmp_path / FILE).write_text(mark)
        async with open_gate(server.url, f"sqlite:///{copy}", SETTINGS, outside=outside) as gate:
            assert (await pause_reason(gate) is None) == (name == "equal"), name


def test_command_without_a_server_makes_no_backup_equal(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"newest": 7, "ledgers": ["l"], "stopped": True}))
    with pytest.raises(CannotStart):
        opened(Settings(data_dir=tmp_path), "redis://127.0.0.1:1")
    assert MarkFile(tmp_path / FILE).read() == Mark(7, ["l"], stopped=False)


async def test_mark_that_redis_has_of_a_later_commit_is_no_proof(house: House) -> None:
    """Another server has read SQL later than this one has."""
    await house.acquire()
    await house.gate.registry.age.look()
    await house.gate.registry.pool(house.pool).tick()
    house.gate.registry.age.newest = 1
    assert await house.gate.registry.age.hold([house.pool]) == []


async def test_newest_event_is_not_pruned(house: House) -> None:
    await house.release(await house.acquire())
    reading = house.gate.services.ledger
    newest = await reading.newest()
    await until(lambda: prune(house.sql_url, 0).jobs, "the job ended some milliseconds ago")
    assert await reading.newest() == newest


async def test_ledger_that_goes_back_under_a_running_gate_is_held_at_the_next_look(house: House) -> None:
    """Before new commits have reached the number that was lost."""
    waiter = [await house.acquire() for _ in range(4)][3]
    reading = house.gate.services.ledger
    house.gate.registry.age.newest = 1_000_000
    assert await house.gate.services.health.look()
    assert [*await reading.held([house.pool])] == [house.pool]
    assert house.people.hget(house.key("meta"), "paused") == "1"
    told = sections(await by_both(house.gate.services.queries, reading, await house.look(waiter)))
    assert "SQL has gone back" in str(told), "explain says why it waits"
    await house.gate.services.pools.change(house.pool, {"paused": False}, None)
    assert await house.gate.services.health.look() and not await reading.held([house.pool])
