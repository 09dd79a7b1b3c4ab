"""docs/redis/gate.acl: the least that gate needs, nothing that it does not, and people who can look and never touch."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gate.diagnostics.verify import verify
from gate.ledger.admin import migrate
from gate.model.errors import GateError, StoreDown, UserBusy
from gate.runtime.embedded_redis import binary
from gate.runtime.wiring import open_gate
from gate.slots import keys, scripts
from gate.workers import waiter_poll
from tests.support.gate_in_process import House
from tests.support.paths import ROOT
from tests.support.script_lane import settings_of
from tests.support.servers import free_port
from tests.support.stores import fresh_database, other_redis
from tests.support.wait import until

pytestmark = pytest.mark.anyio

FILE = ROOT / "docs" / "redis" / "gate.acl"
RULES = {line.split()[1]: line.split()[2:] for line in FILE.read_text().splitlines()}
PASSWORDS = {user: next(rule[1:] for rule in rules if rule.startswith(">")) for user, rules in RULES.items()}
ALLOWED = [rule[1:] for rule in RULES["gate"] if rule.startswith("+")]


class Guarded:
    """A Redis that was started with the file."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.operator = redis.Redis.from_url(self.url("default"), decode_responses=True)

    def url(self, user: str) -> str:
        return f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{self.port}/0"

    def cli(self, *words: str) -> str:
        """redis-cli of one of the people."""
        return subprocess.run(
            ["redis-cli", "-u", self.url("people"), "--no-auth-warning", *words], capture_output=True, text=True, timeout=20
        ).stdout.strip()

    def both_listen(self) -> bool:
        return sum(client["psub"] == "1" for client in self.operator.client_list()) == 2

    def denied(self) -> set[str]:
        """The commands that the user gate was refused."""
        return {str(entry["object"]).lower() for entry in self.operator.acl_log() if entry["username"] == "gate"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    program = [str(other_redis() or binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([*program, "--aclfile", str(FILE), "--logfile", "log"]) as process:
        made = Guarded(port)
        give_up = time.monotonic() + 10
        while True:
            try:
                made.operator.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None and time.monotonic() < give_up, (folder / "log").read_text()
                time.sleep(0.01)
        yield made
        made.operator.close()
        process.terminate()


@pytest.fixture
def guarded(server: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """As after a start: no data, no scripts, the users of the file. Only news wake who waits, not the net below them."""
    monkeypatch.setattr(waiter_poll, "EVERY_S", 3600)
    yield server
    server.operator.acl_load()


async def scenario(guarded: Guarded, sql_url: str, pool: str, patience_s: float) -> None:
    """All that gate does with Redis, by two servers that are the user gate."""
    operator, url = guarded.operator, guarded.url("gate")
    operator.flushall()
    operator.script_flush()
    operator.acl_log_reset()
    settings = {pool: settings_of(limit=1, max_active_per_user=1, cooldown_ms=50)}
    async with open_gate(url, sql_url, settings) as one, open_gate(url, sql_url, settings) as two:
        house, keeper = House(one, pool, url, sql_url, operator), one.services.jobs
        await one.semaphore.ping()
        await until(guarded.both_listen, "both listen for news", patience_s)

        a = await house.acquire("a", user="ana", credits=5)
        assert a.status == "running" and (await house.acquire("a", user="ana", credits=5)).lease_id == a.lease_id
        with pytest.raises(UserBusy):
            await house.acquire("a2", user="ana")
        assert [(await house.acquire(job_id)).position for job_id in "bcbd"] == [1, 2, 1, 3]
        assert (await keeper.cancel(pool, "d")).status == "cancelled"
        await keeper.renew(pool, "a", a.lease_id or "")

        waiting = asyncio.create_task(two.services.queries.wait(pool, "b", "queued", 60))
        await until(lambda: "b" in two.waiters.some(10), "a call waits at the second server", patience_s)
        async with two.recorder._locks[pool]:  # the first server records the grant, and has to tell the second
            await house.release(a, "failed")
            b = await asyncio.wait_for(waiting, patience_s)
        assert b.status == "granted"
        assert (await two.services.jobs.claim(pool, "b", b.lease_id or "")).status == "running"
        assert (await two.services.jobs.release(pool, "b", b.lease_id or "", "refused")).status == "queued"
        assert (await one.services.queries.pool(pool)).queue[0].job_id == "b", "it is before who came later"

        await one.services.pools.change(pool, {"limit": 2})
        for job_id in "bc":
            assert (await one.services.queries.wait(pool, job_id, "queued", patience_s)).status == "granted"
        assert (await house.acquire("e")).status == "queued"
        await until(lambda: house.outbox() == 0, "the outbox is in SQL", patience_s)

        await until(lambda: one.reconciler.sweeps, "the server has swept once", patience_s)
        operator.zrem(house.key("slots"), "b")
        await one.reconciler.sweep(pool)
        assert [found.kind for found in await one.reconciler.sweep(pool)] == ["restore"]

        def known() -> set[str]:
            return {str(job_id) for job_id in operator.hkeys(house.key("jobs"))}

        await until(lambda: known() == {"b", "c", "e"}, "what has ended is forgotten", patience_s)

        operator.flushall()
        c = await house.look("c")
        assert (await keeper.renew(pool, "c", c.lease_id or "")).status == "running"
        assert (await one.services.queries.pool(pool)).queue[0].job_id == "e"
        house.expire(c)
        await until(lambda: house.outbox() == 0, "the outbox is in SQL", patience_s)
        assert (await one.services.queries.wait(pool, "c", "running", patience_s)).status == "expired"
        assert (await one.services.queries.wait(pool, "e", "queued", patience_s)).status == "granted"
        await until(lambda: house.outbox() == 0, "the outbox is in SQL", patience_s)
        assert not verify(sql_url, url).breaches


@pytest.fixture
def empty_sql(tmp_path: Path) -> Iterator[str]:
    with fresh_database(tmp_path) as url:
        migrate.migrate(url)
        yield url


async def test_gate_needs_no_more_than_the_file_allows(guarded: Guarded, empty_sql: str, pool: str) -> None:
    await scenario(guarded, empty_sql, pool, patience_s=10)
    assert guarded.denied() <= {"client|setinfo"}, "of which the library makes nothing"


@pytest.mark.parametrize("command", ALLOWED)
async def test_without_this_command_gate_does_not_work(guarded: Guarded, tmp_path: Path, pool: str, command: str) -> None:
    guarded.operator.execute_command("ACL", "SETUSER", "gate", f"-{command}")
    for patience_s in (2, 10, 30):  # on a busy machine the first may end before gate has come to the command
        (folder := tmp_path / str(patience_s)).mkdir()
        with fresh_database(folder) as sql_url:
            migrate.migrate(sql_url)
            with pytest.raises((GateError, AssertionError, TimeoutError, LookupError, redis.RedisError)):
                await scenario(guarded, sql_url, f"{pool}-{patience_s}", patience_s)
        if command in guarded.denied():
            return
    raise AssertionError(f"gate never asked for {command}")


async def test_what_gate_may_not_ask_is_said_and_not_taken_for_damage(guarded: Guarded, empty_sql: str, pool: str) -> None:
    """An access list of an earlier gate: a rebuild would not mend it, and come again and again."""
    url = guarded.url("gate")
    async with open_gate(url, empty_sql, {pool: settings_of()}) as gate:
        epoch = await gate.registry.epoch(pool)
        guarded.operator.execute_command("ACL", "SETUSER", "gate", "-xlen")
        with pytest.raises(StoreDown, match=r"can't run|permission"):
            await House(gate, pool, url, empty_sql, guarded.operator).acquire("a")
        assert await gate.registry.epoch(pool) == epoch


def test_every_command_of_the_scripts_is_allowed() -> None:
    called = {
        command.lower()
        for path in scripts.FOLDER.glob("*.lua")
        if path.stem != "inspect"
        for command in re.findall(r"redis\.p?call\(\s*'(\w+)'", path.read_text())
    }
    assert called <= set(ALLOWED)


@pytest.mark.parametrize("words", [("SET", "other", "1"), ("GET", "other"), ("PUBLISH", "other", "x"), ("KEYS", "*"),
                                   ("FLUSHALL",), ("CONFIG", "GET", "*"), ("EVAL", "return 1", "0")])  # fmt: skip
def test_gate_itself_may_not(guarded: Guarded, words: tuple[str, ...]) -> None:
    with redis.Redis.from_url(guarded.url("gate")) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*words)


# ---- people ----------------------------------------------------------------------------------------------------

SLOTS, QUEUE, JOBS, OUTBOX, *_ = keys.keys("default")
with_cli = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="people look with redis-cli")


@pytest.fixture
def busy(guarded: Guarded, empty_sql: str) -> Guarded:
    """A pool with one job that runs and one that waits."""
    guarded.operator.flushall()
    url = guarded.url("gate")

    async def two_come() -> None:
        async with open_gate(url, empty_sql, {"default": settings_of(limit=1)}) as gate:
            house = House(gate, "default", url, empty_sql, guarded.operator)
            await house.acquire("a", user="ana", tool="upscaler")
            await house.acquire("b", user="bia")

    asyncio.run(two_come())
    return guarded


@with_cli
def test_without_a_password_no_visitor_is_let_in(guarded: Guarded) -> None:
    asked = subprocess.run(["redis-cli", "-p", str(guarded.port), "PING"], capture_output=True, text=True, timeout=20)
    assert asked.stdout.startswith("NOAUTH")


@with_cli
def test_people_see_the_pool(busy: Guarded) -> None:
    assert busy.cli("ZRANGE", SLOTS, "0", "-1", "WITHSCORES").splitlines()[0] == "a"
    assert busy.cli("LRANGE", QUEUE, "0", "-1") == "b"
    assert '"user":"bia"' in busy.cli("HGET", JOBS, "b")
    busy.operator.xadd(OUTBOX, {"kind": "by hand"})
    assert "by hand" in busy.cli("XRANGE", OUTBOX, "-", "+")
    assert busy.cli("PING") == "PONG"


@with_cli
def test_people_can_run_inspect(busy: Guarded) -> None:
    told = busy.cli("--eval", str(ROOT / "lua" / "inspect.lua"), "{default}").splitlines()
    assert told[:2] == ["pool {default}: 1 of 1 slots held, 1 waiting", "slots"]
    assert re.fullmatch(r"  1\. a  tool upscaler, user ana, running, held for \d+s, 9m \d\ds left", told[2])
    assert told[3] == "queue" and re.fullmatch(r"  1\. b  tool -, user bia, waits for \d+s", told[4])
    assert told[5:] == ["outbox: 0 not in SQL yet"]


@with_cli
@pytest.mark.parametrize(
    "words",
    [
        ("SET", "gate:x", "1"),
        ("SET", "{x}", "1"),
        ("DEL", SLOTS),
        ("ZREM", SLOTS, "a"),
        ("LPOP", QUEUE),
        ("EXPIRE", SLOTS, "1"),
        ("EVAL", f"return redis.call('DEL', '{SLOTS}')", "0"),
        ("EVAL", f"return redis.call('ZREM', '{SLOTS}', 'a')", "0"),
        ("EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "{x}"),
        ("EVAL", "return redis.call('GET', 'other')", "0"),
        ("GET", "other"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("RANDOMKEY",),
        ("PUBLISH", "gate:{default}:news", "x"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("SCRIPT", "FLUSH"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("SHUTDOWN",),
    ],
    ids=" ".join,
)
def test_people_may_not(busy: Guarded, words: tuple[str, ...]) -> None:
    before = everything(busy)
    said = busy.cli(*words)
    assert re.search(r"NOPERM|ACL failure in script|user executing the script can't", said), said
    assert everything(busy) == before


def everything(guarded: Guarded) -> dict[bytes, bytes | None]:
    with redis.Redis.from_url(guarded.url("default")) as client:
        return {key: client.dump(key) for key in client.scan_iter()}
