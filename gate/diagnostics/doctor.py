"""Diagnosis of a gate: finds what is wrong, and says what helps. With `fix` it mends what is safe to mend.

drift        Redis and SQL differ, in two looks in a row
server       the gate that ran here died, or does not answer
sql          it does not answer, or takes no writes
redis        it, or a primary of its cluster, does not answer, takes no writes, may evict gate's keys, or holds another gate's pool
clock        the clocks of Redis and this machine differ, so the times shown to people are wrong by the difference; or that of
             Redis stepped
invariant    one of I1-I9 of `gate verify` does not hold
gone_back    SQL has lost commits: a backup was restored, or a standby that lagged was promoted
migrations   the tables are of another version than this gate, which cannot serve on them
standby      a standby of Postgres that lags or is not synchronous: what a failover to it would lose; or one that commits wait for in vain
durability   Postgres answers commits before they are on its disk, or on that of its synchronous standby
replica      the replica that runs the reports is away or far behind
owed         refunds that the owner's function has not paid
undelivered  calls that a tool has not answered, or whose tool is no longer configured
tool_down    a tool whose start address answers 401, 403, 404 or with a redirect: gate starts none of its jobs
wal          SQLite's log is far above its normal size, because a program holds a read transaction open
held_back    a transaction of gate stays open, so the pages of the ledger end before its rows
unstarted    jobs of a tool without a start address, which no caller starts either
unbound      callbacks whose task is bound to no job
unread       callbacks with the right secret that could not be read
refusals     a pool whose provider refuses more than it takes: its limit is above the provider's
poison       a job that its provider refuses again and again, while other jobs of the pool are started
queue        a pool whose queue_max does not fit its queue_seconds and how long its jobs run, if jobs have expired in its line in the
             last day, or if the line is now longer than what has a turn in time
account      the provider refuses an account: its key is wrong, or its wallet is empty
allowed      a provider allows another number of tasks than the configured limit of an account
strangers    tasks on an account that are not gate's take slots from its pool
no_account   an account has tasks and is not in gate.toml any more: gate asks nowhere about them
silent       a provider that should call back has not done so in the last day, while questions have brought the ends
stop         a task that gate could not stop at its provider
no_task      jobs that hold slots without a task in a pool with accounts: gate cannot ask about them
servers      servers of two versions have run beside each other for an hour, or the clock of one is far off
crowded      a pool in which one user has most of the queue while others wait, and no user has a cap
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from gate.diagnostics.diagnosis import Diagnosis as Diagnosis
from gate.diagnostics.outages import Outage
from gate.diagnostics.provider_findings import orphan_findings, provider_findings
from gate.diagnostics.replication_findings import replica_findings, replication_findings
from gate.diagnostics.server_findings import server_findings
from gate.diagnostics.verify import verify
from gate.ledger import Database, Ledger, LedgerQueries, Pool, PoolSettings
from gate.ledger.admin import migrate
from gate.ledger.reports.backlog import Crowd, LineLength, Pending, PoolBacklog
from gate.ledger.reports.refused_jobs import RefusedJob
from gate.ledger.sql.engines import LOG_PAGES, PAGE_BYTES
from gate.model.account import Accounts
from gate.model.errors import CannotStart, StoreDown
from gate.model.job import now_ms
from gate.model.store_url import names_several
from gate.model.tool import Tools
from gate.runtime.wiring import RunningGate, open_gate

BETWEEN_LOOKS_S = 1.0
"""Time (s) between the two looks for drift. A commit under way at the first look has arrived at the second."""
SKEW_MS = 1_000
"""Difference of clocks (ms) that is not reported. People do not notice less."""
LATELY_MS = 3_600_000
"""Age (ms) up to which refusals and unclaimed jobs are counted. Older ones say nothing about the settings of now."""
TOOL_DOWN_LATELY_MS = 600_000
"""Age (ms) up to which a failed start call is reported. gate tries a tool each minute, unless there is nothing to start."""
TOOL_DOWN = "look at the provider's key where the answer says that the provider turns every call away; else at start_url and secret of"
"""Advice for a tool whose start address fails. The name of its table follows."""
RUNS_MIN = 10
"""Fewest runs from which the length of a run is judged."""
REFUSALS_MIN = 10
"""Fewest refusals that are reported. Fewer say nothing about a provider."""
OPEN_S = 10.0
"""Age (s) above which an open transaction of gate is reported. Its locks and its idle time have shorter limits."""
CROWD_MIN = 10
"""Fewest waiting jobs of one user that are reported. Fewer hold up other users for a short time."""
STEPPED_LATELY_MS = 24 * 3_600_000
"""Age (ms) up to which a step of Redis's clock is reported, so that a check once a day sees it."""
TIMED_OUT_LATELY_MS = 24 * 3_600_000
"""Age (ms) up to which the end of a wait is reported, so that a check once a day sees it."""
LOG_MAX_BYTES = 2 * LOG_PAGES * PAGE_BYTES
"""Size of SQLite's log (bytes) above which it is reported: twice the size to which SQLite cuts it back."""
UNBOUND_NAMED = 3
"""Most tasks that a finding names. More would make the line too long to read."""
WEEK_MS = 7 * 24 * 3_600_000
"""Age (ms) above which a callback that was not applied is no longer reported."""


async def look_over(
    redis_url: str | None,
    sql_url: str,
    tools: Tools,
    fix: bool = False,
    outages: Sequence[Outage] = (),
    accounts: Accounts | None = None,
    replica_url: str | None = None,
) -> list[Diagnosis]:
    """Look for everything that is wrong. A part that cannot be looked at is a finding, and the others are looked at.

    Args:
        redis_url: URL of Redis; None if no gate runs here. Then only SQL is looked at.
        sql_url: URL of the ledger.
        tools: The tools that are configured.
        fix: True to mend what is safe to mend.
        outages: What the server and Redis were asked before.
        accounts: The accounts at providers that are configured.
        replica_url: Address of the replica that runs the reports; None when there is none.

    Returns:
        The findings. If the schema is of another version and was not mended, no other part of SQL is looked at.
    """
    found = [Diagnosis(one.what, ABOUT[one.what], one.says, one.helps) for one in outages]
    found += replica_findings(replica_url)
    if any(one.what == "redis" and one.unseen for one in outages):
        redis_url = None
    try:
        schema = migrate.state(sql_url)
    except CannotStart as error:
        found.append(Diagnosis("sql", "SQL", f"{error.detail}; nothing in it was looked at", AWAY))
        return found + (await _invariants(None, redis_url) if redis_url is not None else [])
    if schema.due or schema.misfit:
        found.append(_of_another_version(schema, sql_url, fix))
        if not found[-1].mended:
            return found  # tables of another version cannot be read
    if redis_url is not None:
        found += await _in_both_stores(redis_url, sql_url, fix)
    drifts = {one.about for one in found if one.what == "drift"}
    found += [one for one in await _invariants(sql_url, redis_url) if not (one.about in drifts and one.says[:2] in OF_REDIS)]
    known = {one.what for one in found}
    return found + [
        one
        for one in await _in_sql_alone(sql_url, tools, accounts or Accounts(), fix)
        if one.what != "sql" or "sql" not in known
    ]


async def _in_both_stores(redis_url: str, sql_url: str, fix: bool) -> list[Diagnosis]:
    found: list[Diagnosis] = []
    try:
        async with open_gate(redis_url, sql_url) as gate:
            async for one in _in_both(gate, fix):
                found.append(one)
    except CannotStart as error:
        found.append(Diagnosis("redis", "Redis", error.detail, "mend it soon: gate serve would not start on it again"))
    except StoreDown as error:
        says = f"{error.detail}; drift was not looked for to its end"
        found.append(Diagnosis(error.store, ABOUT[error.store], says, AWAY))
    return found


async def _invariants(sql_url: str | None, redis_url: str | None) -> list[Diagnosis]:
    try:
        broken = await asyncio.to_thread(verify, sql_url, redis_url)
    except CannotStart as error:
        return [Diagnosis("invariant", "both stores", f"I1-I9 were not looked at: {error.detail}", AWAY)]
    return [Diagnosis("invariant", one.about, f"{one.invariant}: {one.finding}", BREACH) for one in broken.breaches]


async def _in_sql_alone(sql_url: str, tools: Tools, accounts: Accounts, fix: bool) -> list[Diagnosis]:
    found: list[Diagnosis] = []
    database = Database(sql_url)
    try:
        async for one in _in_sql(database, tools, accounts, fix):
            found.append(one)
        await Ledger(database).prove()
    except StoreDown as error:
        found.append(Diagnosis("sql", "SQL", error.detail, AWAY))
    finally:
        database.close()
    return found


def _of_another_version(schema: migrate.SchemaState, sql_url: str, fix: bool) -> Diagnosis:
    says = f"the tables are of version {schema.at}, this gate wants {migrate.HEAD}"
    if schema.misfit:
        says += f": {schema.misfit}"
        return Diagnosis("migrations", migrate.shown(sql_url), says, "use the gate that wrote them, or a newer one")
    helps = "gate serve does it when it starts, and gate db upgrade: after gate backup"
    if not fix:
        return Diagnosis("migrations", migrate.shown(sql_url), says, helps)
    try:
        return Diagnosis("migrations", migrate.shown(sql_url), says, helps, mended=migrate.migrate(sql_url))
    except CannotStart as error:
        helps = "its tables are not those of the version it names: put a backup back, or set alembic_version right"
        return Diagnosis("migrations", migrate.shown(sql_url), f"{says}; {error.detail}", helps)


async def _in_both(gate: RunningGate, fix: bool) -> AsyncIterator[Diagnosis]:
    await gate.semaphore.probe()
    for primary, why in sorted(gate.semaphore.link.away.items()):
        yield Diagnosis(
            "redis", "Redis", f"the primary {primary} of the cluster: {why}", "start it, or let its replica take over"
        )
    before = time.time() * 1000
    by_redis = await gate.semaphore.now_ms()
    skew_ms = by_redis - (before + time.time() * 1000) / 2
    if abs(skew_ms) > SKEW_MS:
        fast = "ahead of" if skew_ms > 0 else "behind"
        says = (
            f"Redis is {abs(skew_ms) / 1000:.1f} s {fast} this machine: deadlines are Redis's, times that are shown are off"
        )
        yield Diagnosis("clock", "Redis", says, "let both keep time by NTP")
    await gate.reconciler.drift_all()
    await asyncio.sleep(BETWEEN_LOOKS_S)
    for pool, one in await gate.reconciler.drift_all(fix):
        yield Diagnosis(
            "drift", one.job_id or pool, DRIFT[one.kind], "a running gate mends it within 25 s; so does --fix", fix
        )


OF_REDIS = ("I7", "I9")
"""Invariants that drift may break. Their breach is not reported beside a drift of the same job or pool."""
ABOUT = {"server": "gate serve", "redis": "Redis", "sql": "SQL"}
"""Names of the parts that may be away, by kind of finding."""
GONE_BACK = "see docs/backup.md: end the jobs that have ended since, wait for those that run, then gate resume"
"""Advice for a ledger that has gone back."""
AWAY = "start it, free its disk, or point gate at the right one"
"""Advice for a store that does not answer, or that takes no writes."""
BREACH = "gate's own fault, or a hand's: keep a gate backup of now, and look at the job's history"
"""Advice for a breach of an invariant."""
DRIFT = {
    "ended": "the job has ended in SQL, but Redis still has it",
    "overdue": "the lease is over, and neither store has ended the job",
    "restore": "the job holds a lease in SQL that Redis has lost",
    "seat": "the job waits in SQL, but is not in Redis",
    "adopt": "the job holds a slot in Redis, and SQL has no record of the grant",
    "give_back": "the job holds a slot in Redis, but gave it back in SQL",
    "stranger": "the job is in Redis, but not in SQL",
    "unheard": "the outbox in Redis names a job that is in neither store",
    "settings": "Redis has other settings of the pool than SQL",
}
"""Words for each kind of drift."""


async def _in_sql(database: Database, tools: Tools, accounts: Accounts, fix: bool) -> AsyncIterator[Diagnosis]:
    reading = LedgerQueries(database)
    for pool, event in sorted((await reading.held()).items()):
        yield Diagnosis("gone_back", pool, f"{event.why}; gate grants none of its slots", GONE_BACK)
    by_pool = await reading.backlog.by_pool(LATELY_MS)
    for pool, backlog in sorted(by_pool.items()):
        for finding in _behind(pool, backlog, fix):
            yield finding
    async for finding in _pools(reading):
        yield finding
    async for finding in _tools(reading, tools):
        yield finding
    for finding in provider_findings(await reading.provider_troubles(TIMED_OUT_LATELY_MS), accounts):
        yield finding
    for finding in orphan_findings(await reading.orphan_tasks(accounts)):
        yield finding
    seen = await reading.servers()
    for finding in server_findings(seen, max((one.seen_at + round(one.age_s * 1000) for one in seen), default=0)):
        yield finding
    if (oldest := await reading.open_longest()) is not None and oldest[1] > OPEN_S:
        says = f"a transaction of gate has been open for {oldest[1]:.0f} s, so GET /v1/ledger ends before its rows"
        helps = f"see in pg_stat_activity what process {oldest[0]} waits for; pg_terminate_backend({oldest[0]}) ends it, and gate repeats it"
        yield Diagnosis("held_back", "ledger", says, helps)
    for finding in replication_findings(await reading.replication(), names_several(database.url)):
        yield finding
    for finding in _log_of(database.url):
        yield finding
    async for finding in _callbacks(reading):
        yield finding
    if fix and any(backlog.refunds.count or backlog.calls.count for backlog in by_pool.values()):
        await reading.backlog.hurry()


def _behind(pool: str, backlog: PoolBacklog, fix: bool) -> Iterator[Diagnosis]:
    """Find refunds that are owed, calls that are not answered, and a provider that refuses more than it runs."""
    owed, waits = backlog.refunds, backlog.calls
    asks = "; it is being asked again now: look again" if fix else "; --fix asks it again at once"
    if owed.count:
        says = f"refunds owed: {owed.count}, of {owed.credits} credits{_since(owed)}"
        yield Diagnosis("owed", pool, says, f"look at the function that GATE_REFUND_SQL names for the server{asks}")
    if waits.count:
        says = f"calls to tools that are not answered: {waits.count}{_since(waits)}"
        yield Diagnosis("undelivered", pool, says, f"look at the tool's address{asks}")
    yield from _refused(pool, backlog.refused, backlog.ran)


async def _pools(reading: LedgerQueries) -> AsyncIterator[Diagnosis]:
    """Find clocks that stepped, poison jobs, settings that do not fit, and users who fill a queue."""
    steps = await reading.backlog.clock_steps(STEPPED_LATELY_MS)
    lines = await reading.backlog.lines(TIMED_OUT_LATELY_MS)
    pools = await reading.pools()
    poison = await reading.backlog.refused_jobs({one.name: one.settings.refusals_before_passing for one in pools})
    runs, crowds = await reading.runs_by_pool(lines.keys()), await reading.backlog.crowds()
    for one in pools:
        if one.name in steps:
            yield _stepped(one, *steps[one.name])
        for job in poison.get(one.name, ()):
            yield _poison(one.name, job)
        if (line := lines.get(one.name)) is not None:
            for finding in _unfit(one.name, one.settings, [took_ms for _, took_ms in runs.get(one.name, ())], line):
                yield finding
        if one.name in crowds and not one.settings.has_user_cap:
            for finding in _crowded(one.name, crowds[one.name]):
                yield finding


async def _tools(reading: LedgerQueries, tools: Tools) -> AsyncIterator[Diagnosis]:
    """Find tools that are configured no longer, whose start address fails, or that have none."""
    configured = {tool.table for tool in tools}
    for table, count in sorted((await reading.backlog.calls_by_tool()).items()):
        if table not in configured:
            says = f"calls for a tool that is configured no longer: {count}"
            yield Diagnosis("undelivered", table, says, f"put [tools.{table}] back into gate.toml, until they are made")
    for table, error in sorted((await reading.backlog.tools_down(TOOL_DOWN_LATELY_MS)).items()):
        says = f"its start address fails, and none of its jobs is started: {error}"
        yield Diagnosis("tool_down", table, says, f"{TOOL_DOWN} [tools.{table}]")
    addressed = {tool.table for tool in tools if tool.start_url is not None}
    for table, counts in sorted((await reading.backlog.unstarted(addressed, LATELY_MS)).items()):
        yield _unstarted(table, *counts)


async def _callbacks(reading: LedgerQueries) -> AsyncIterator[Diagnosis]:
    """Find callbacks whose task is bound to no job, and those that could not be read."""
    unbound, tasks = await reading.backlog.bindings(UNBOUND_NAMED)
    if unbound:
        such = "; the newest of " if unbound > len(tasks) else "; of "
        says = f"callbacks of the last week whose task is bound to no job: {unbound}{such}{', '.join(tasks)}"
        yield Diagnosis(
            "unbound", "webhooks", says, "the tool that starts a task has to name it: task_id in its answer, or PUT …/task"
        )
    unread, tasks = await reading.unread.lately(now_ms() - WEEK_MS, UNBOUND_NAMED)
    if unread:
        such = f"; the newest of task {', '.join(tasks)}" if tasks else ""
        says = f"callbacks of the last week that could not be read: {unread}{such}"
        helps = "gate callbacks shows them; gate callbacks apply ID JOB --outcome … --reason … ends a job by one, and gate callbacks"
        helps += " dismiss ID --reason … settles one that is about no job"
        yield Diagnosis("unread", "callbacks", says, helps)


def _log_of(sql_url: str) -> Iterator[Diagnosis]:
    file = migrate.sqlite_file(sql_url)
    log = file and file.with_name(f"{file.name}-wal")
    if log is not None and log.exists() and (size := log.stat().st_size) > LOG_MAX_BYTES:
        says = f"SQLite's log {log} has {size / 1e6:.0f} MB: a program holds a read transaction open, so the log cannot be emptied"
        yield Diagnosis("wal", "SQL", says, f"fuser -v {log} names the programs; end the reader, and gate cuts the log back")


def _since(pending: Pending) -> str:
    minutes = (time.time() * 1000 - (pending.since or 0)) / 60_000
    return f", the oldest for {minutes:.0f} min" + (f": {pending.error}" if pending.error else "")


def _unstarted(table: str, waiting: int, unclaimed: int) -> Diagnosis:
    parts = [f"live jobs that gate has to start: {waiting}"] if waiting else []
    parts += [f"jobs of the last hour that held a slot until their claim time was over: {unclaimed}"] if unclaimed else []
    says = f"no start address is configured, and no caller starts its jobs; {'; '.join(parts)}"
    return Diagnosis(
        "unstarted", table, says, f"put start_url into [tools.{table}] of gate.toml, or let the caller start them"
    )


def _stepped(pool: Pool, count: int, at: int, length: str) -> Diagnosis:
    minutes = (time.time() * 1000 - at) / 60_000
    says = f"in the last day the clock of Redis stepped {count} times, the last time by {length}, {minutes:.0f} min ago; no deadline moved"
    if pool.clock_ahead_ms:
        says += f"; the times of this pool are still {abs(pool.clock_ahead_ms) / 1000:.1f} s"
        says += f" {'behind' if pool.clock_ahead_ms > 0 else 'ahead of'} it, until the pool is empty"
    return Diagnosis("clock", pool.name, says, "let NTP slew that machine's clock, and look who sets it")


def _refused(pool: str, refused: int, ran: int) -> Iterator[Diagnosis]:
    if refused >= REFUSALS_MIN and refused > ran:
        says = f"in the last hour its provider refused {refused} jobs and ran {ran}"
        yield Diagnosis(
            "refusals", pool, says, "lower the limit to what the provider takes at a time, or see who else uses it"
        )


def _poison(pool: str, job: RefusedJob) -> Diagnosis:
    says = f"pool {pool}: its provider has refused it {job.refusals} times in a row, while {job.others} other jobs of the pool were started"
    helps = f"look at what it asks of the provider (gate explain {job.job_id}), and cancel it if that can never be taken"
    return Diagnosis("poison", job.job_id, says, helps)


def _unfit(pool: str, settings: PoolSettings, took_ms: Sequence[int], line: LineLength) -> Iterator[Diagnosis]:
    """Compare how many waiters can have a turn within the queue time with how many may wait.

    A bound that no line has reached harms no caller: the defaults would be a finding in each pool whose runs take 1.8 s.
    """
    if len(took_ms) < RUNS_MIN or not settings.limit:
        return
    run_ms = max(statistics.median(took_ms), 1)
    in_time = int(settings.queue_ms * settings.limit / run_ms)
    if in_time >= settings.queue_max or not (line.timed_out or line.waiting > in_time):
        return
    needed_s = settings.queue_max * run_ms / settings.limit / 1000
    shown = [f"{line.waiting} wait now"] if line.waiting > in_time else []
    shown += [f"{line.timed_out} expired in the queue in the last day"] if line.timed_out else []
    says = (
        f"a run takes {run_ms / 1000:.3g} s, so {in_time} waiters have a turn within queue_seconds ({settings.queue_ms / 1000:g}),"
        f" and {settings.queue_max} may wait (queue_max): those behind can only expire; {', '.join(shown)}"
    )
    helps = f"gate pools set {pool} --queue-max {max(in_time, 1)}, or --queue-seconds {needed_s:.0f}"
    yield Diagnosis("queue", pool, says, helps)


def _crowded(pool: str, crowd: Crowd) -> Iterator[Diagnosis]:
    if crowd.users > 1 and crowd.most >= CROWD_MIN and crowd.most > crowd.waiting / 2:
        says = f"user {crowd.first} has {crowd.most} of {crowd.waiting} waiting jobs; other users who wait: {crowd.users - 1}"
        yield Diagnosis(
            "crowded",
            pool,
            says,
            "give each user a cap: GATE_QUEUE_MAX_PER_USER for waiting jobs, GATE_MAX_ACTIVE_PER_USER for all",
        )
