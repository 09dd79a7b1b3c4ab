"""Questions to providers about tasks, and stops of tasks. The transaction of a binding or of an end writes when they are due.

A server takes a row of `tasks` by compare-and-set, and asks until `taken_until`. No other server asks before that. A question holds no
lock: an end may come meanwhile, and its stop is not overwritten by the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.job_rows import is_unanswered
from gate.ledger.sql.tables import accounts, events, jobs, tasks
from gate.model.account import Account
from gate.model.job import HOLDING, Job, JobStatus, now_ms
from gate.model.messages import AnswerState

SPACING_MAX_MS = 60_000
"""Longest time (ms) between two questions about a task."""
SPACING_OF_A_LEASE = 10
"""Questions that fit into a lease at least."""
SOONEST = 12
"""Part of the longest spacing that lies between two questions at least."""
HOLD_MAX_MS = 60_000
"""Longest time (ms) for which a server holds a question."""
BURST_MS = 1_000
"""Time (ms) of silence towards a provider that counts towards its limit of questions a second."""

Lane = tuple[str, str, bool]
"""Provider, account, and whether it is about stops. Stops never wait for questions, nor questions for stops."""


def spacing_ms(lease_ms: int) -> int:
    """Return the longest time (ms) between two questions about a task whose leases are that long (ms)."""
    return min(SPACING_MAX_MS, lease_ms // SPACING_OF_A_LEASE)


@dataclass(frozen=True, slots=True)
class Question:
    """A question that is due, or a stop.

    Attributes:
        provider: Name of the provider.
        task_id: The task.
        job_id: Job of the task.
        pool: Pool of the job.
        account: Name of the account of the task.
        lease_id: Lease that the task is bound to.
        lease_ms: Length of the leases of the job (ms).
        asked_since: When it was bound (ms since 1970). This and the next times are of SQL's clock.
        asked_at: When this question was taken.
        silent_since: First question without an answer since the last answer; None when the last one was answered.
        denied_at: First answer since the last other one by which the provider does not know the task; None without one.
        stop_at: When its job ended without the provider's word; None when it has not.
        is_stopping: The task has to be stopped.
        state: The last answer; None before the first.
        questions: Questions so far, with this one.
        status: Status of the job.
        is_held: The job holds its slot by this lease.
        is_current: ... and for this task. Else another task has replaced it.
        expires_at: Deadline of the job's lease (ms since 1970, by the pool's clock); None without a lease.
        hard_expires_at: Its hard limit; None without a lease.
        is_moved: Another account than the one that SQL has turned out to have the task: `account`.
    """

    provider: str
    task_id: str
    job_id: str
    pool: str
    account: str
    lease_id: str
    lease_ms: int
    asked_since: int
    asked_at: int
    silent_since: int | None
    denied_at: int | None
    stop_at: int | None
    is_stopping: bool
    state: AnswerState | None
    questions: int
    status: JobStatus
    is_held: bool
    is_current: bool
    expires_at: int | None
    hard_expires_at: int | None
    is_moved: bool = False

    @property
    def lane(self) -> Lane:
        """Lane of this question."""
        return self.provider, self.account, self.is_stopping

    @property
    def held_ms(self) -> int:
        """Time (ms) for a question, a further request and the record. The lease is extended by more before the question.

        If its server dies, another one asks before the lease is over.
        """
        return self.spacing_ms + min(max(self.lease_ms // 3, 2_000), 20_000)

    @property
    def spacing_ms(self) -> int:
        """Longest time (ms) between two questions about this task."""
        return spacing_ms(self.lease_ms)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a question has brought.

    Attributes:
        state: The answer; None when there was none.
        why: The provider's words in short, or why there was no answer.
        wait_ms: Time (ms) until the next question; None when there is none.
        is_extended: The lease was extended.
        stop: `confirmed` when the task that had to be stopped is over, `given_up` when that was not to be had; None otherwise.
    """

    state: AnswerState | None
    why: str
    wait_ms: int | None
    is_extended: bool = False
    stop: str | None = None


SILENT: Collection[AnswerState | None] = (None, AnswerState.BUSY, AnswerState.UNCLEAR, AnswerState.BAD_KEY)
"""Answers that say nothing of the task."""


def first(batch: UnitOfWork, account: Account | None, job: Job) -> dict[str, object]:
    """Return the columns of a new task that say when it is asked about.

    Args:
        batch: Has locked the pool's row.
        account: Account of the task; None not to ask.
        job: The job, which is bound to the task. A job that has ended owes a stop.
    """
    if account is None:
        return {}
    now = clock_ms(batch.connection)
    if job.ended:  # guard: stop-a-late-start
        return owed(batch, account)
    most = spacing_ms(job.lease_ms)
    ask_at = now + (most if account.calls_back else most // SOONEST)  # guard: ask-before-the-deadline
    return {"account": account.name, "asked_since": now, "ask_at": ask_at}


def owed(batch: UnitOfWork, account: Account) -> dict[str, object]:
    """Return the columns of a new task that has to be stopped at once.

    Args:
        batch: Has locked the pool's row.
        account: Account of the task.
    """
    now = clock_ms(batch.connection)
    return {"account": account.name, "asked_since": now, "ask_at": now, "stop": "owed", "stop_at": now}


def again(batch: UnitOfWork, account: Account | None, job: Job, provider: str, task_id: str) -> None:
    """Ask about a task that a lease had before, and has again.

    Args:
        batch: Has locked the pool's row.
        account: Account of the task; None not to ask.
        job: The job.
        provider: Name of the provider.
        task_id: The task.
    """
    values = {"stop": None, "stop_at": None, "denied_at": None, "silent_since": None} | first(batch, account, job)
    this = (tasks.c.provider == provider) & (tasks.c.task_id == task_id)
    batch.connection.execute(tasks.update().where(this).values(**values))


def end(batch: UnitOfWork, job: Job, is_over: bool = False) -> None:
    """End the questions about the tasks of a lease that has just ended, or owe their stop.

    Args:
        batch: Has locked the pool's row.
        job: The job, still with its task.
        is_over: Whether its task is over: by the provider's own word, or because the holder has its result.
    """
    connection = batch.connection
    mine = tasks.update().where(tasks.c.job_id == job.job_id, tasks.c.ask_at.is_not(None))
    if is_over:
        this = (tasks.c.provider == job.provider) & (tasks.c.task_id == job.task_id)
        connection.execute(mine.where(this).values(ask_at=None))
    now = clock_ms(connection)
    connection.execute(mine.where(tasks.c.stop.is_(None)).values(ask_at=now, stop="owed", stop_at=now))
    batch.forget_use(job.pool)


def take(
    connection: Connection, by: str, asked: Collection[Account], room: Mapping[Lane, int], hold_ms: int
) -> list[Question]:
    """Take questions that are due, those first whose leases end soonest, then stops.

    Args:
        connection: A connection in a transaction.
        by: Name of this server.
        asked: The accounts.
        room: Number of questions, and of stops, to take at most.
        hold_ms: How long to hold a stop (ms), and a question at most.
    """
    now = clock_ms(connection)
    taken = []
    for account in asked:
        budget, found = _Budget(connection, account, now), list[Question]()
        order = False, True  # guard: stops-hold-up-no-question
        for stops in order:
            most = min(room.get((account.provider, account.name, stops), 0), budget.left - len(found))
            if most > 0:
                bound = {"provider": account.provider, "account": account.name, "now": now, "most": most}
                query = _due.where((tasks.c.stop == "owed") if stops else tasks.c.stop.is_(None), _is_untaken(now))
                found += [_question(row, now) for row in connection.execute(query, bound).all()]
        for one in found:
            held_ms = hold_ms
            if not one.is_stopping:
                held_ms = min(hold_ms, one.held_ms)  # guard: question-held-less-than-its-lease
            held = {"taken_by": by, "taken_until": now + held_ms, "questions": one.questions}
            connection.execute(_of(one).values(**held))
        budget.spend(len(found))
        taken += found
    return taken


def record(batch: UnitOfWork, question: Question, by: str, heard: Heard) -> bool:
    """Record what a question has brought, and when the next one is due. A stop that is owed meanwhile stays due.

    Args:
        batch: A unit of work.
        question: The question.
        by: Name of this server. A question that another server has taken is left alone.
        heard: What it has brought.

    Returns:
        Whether no other task of the lease has to be stopped any more.
    """
    connection = batch.connection
    now = clock_ms(connection)
    is_silent = heard.state in SILENT
    next_at = None if heard.wait_ms is None else now + heard.wait_ms
    stays: sa.ColumnElement[bool] = tasks.c.ask_at.is_(None)  # the task is over by now
    if not question.is_stopping:  # guard: stop-stays-due
        stays |= tasks.c.stop == "owed"
    if next_at is not None:  # guard: hint-outlasts-a-question
        # A hint that came meanwhile may tell of an end after this answer, so its question stays due.
        stays |= (tasks.c.ask_at > question.asked_at) & (tasks.c.ask_at < next_at)
    values: dict[str, object] = {
        "taken_by": None, "taken_until": None, "ask_at": sa.case((stays, tasks.c.ask_at), else_=next_at),
    }  # fmt: skip
    values["silent_since"] = (question.silent_since or question.asked_at) if is_silent else None
    if not is_silent and heard.state is not None:
        values |= {"heard_at": now_ms(), "state": heard.state.value}
        values["denied_at"] = (question.denied_at or question.asked_at) if heard.state is AnswerState.UNKNOWN else None
    if heard.stop is not None:
        values["stop"] = heard.stop
    if question.is_moved:
        values["account"] = question.account
        its = (jobs.c.job_id == question.job_id) & (jobs.c.lease_id == question.lease_id)
        connection.execute(jobs.update().where(its).values(account=question.account))
    mine = _of(question).where(tasks.c.taken_by == by)
    connection.execute(mine.values(**values))
    for kind, why in _events(question, heard):
        row = {"at": now_ms(), "pool": question.pool, "job_id": question.job_id, "kind": kind, "fence": None}
        batch.add(events, **row, by="provider" if kind == "answer" else "gate", why=why)
    others = sa.select(tasks.c.task_id).where(
        tasks.c.job_id == question.job_id, tasks.c.lease_id == question.lease_id, tasks.c.stop == "owed",
        tasks.c.ask_at.is_not(None),
    )  # fmt: skip
    return heard.stop is None or batch.connection.execute(others.limit(1)).first() is None


def stops(batch: UnitOfWork, pool: str) -> list[tuple[Job, int]]:
    """Return the jobs of a pool whose slots may drain, each with the time (ms) since its end.

    Their tasks have to be stopped, or their start calls were unanswered at their end. A job that expired is left out, because its
    slot was free at once. A task may be named long after the end: by then its slot is another job's.
    """
    now, since = clock_ms(batch.connection), dict[str, int]()
    unanswered = sa.select(jobs.c.job_id, jobs.c.ended_at).where(jobs.c.pool == pool, is_unanswered)
    for row in batch.connection.execute(unanswered):  # guard: load-slots-of-unanswered-starts
        since[row.job_id] = batch.now_ms(pool) - row.ended_at
    stopped = sa.select(tasks.c.job_id, tasks.c.stop_at, jobs.c.ended_at).join(jobs, jobs.c.job_id == tasks.c.job_id)
    stopped = stopped.where(
        tasks.c.ask_at.is_not(None), tasks.c.stop == "owed", jobs.c.pool == pool, jobs.c.status != "expired"
    )
    for stop in batch.connection.execute(stopped).all():
        by_end = batch.now_ms(pool) - (stop.ended_at or stop.stop_at)  # guard: drain-from-the-end-of-the-job
        since[stop.job_id] = max(now - stop.stop_at, by_end)
    found = [batch.job(pool, job_id) for job_id in since]
    return [(job, since[job.job_id]) for job in found if job is not None and job.ended]


def confirm(batch: UnitOfWork, provider: str, task_id: str | None) -> str | None:
    """Record that a task which has to be stopped is over, because its provider has called back about it.

    Args:
        batch: Has locked the pool's row.
        provider: Name of the provider.
        task_id: The task; None for a callback that names no task.

    Returns:
        The lease whose slot is free now; None when no stop was owed, or another task of the lease still has to be stopped.
    """
    this = (tasks.c.provider == provider) & (tasks.c.task_id == task_id) & (tasks.c.stop == "owed")
    mine = batch.connection.execute(sa.select(tasks.c.job_id, tasks.c.lease_id).where(this)).first()
    if mine is None:
        return None
    batch.connection.execute(tasks.update().where(this).values(stop="confirmed", ask_at=None))
    others = sa.select(tasks.c.task_id).where(
        tasks.c.job_id == mine.job_id, tasks.c.lease_id == mine.lease_id, tasks.c.stop == "owed", tasks.c.ask_at.is_not(None)
    )
    return str(mine.lease_id) if batch.connection.execute(others.limit(1)).first() is None else None


def nudge(batch: UnitOfWork, job: Job) -> bool:
    """Make the question about the current task of a job due at once. One that is under way stays as it is: its answer comes soon.

    Returns:
        False when gate does not ask about it.
    """
    connection = batch.connection
    now = clock_ms(connection)
    is_under_way = tasks.c.taken_until > now  # guard: ask-joins-a-question
    mine = tasks.update().where(tasks.c.provider == job.provider, tasks.c.task_id == job.task_id, tasks.c.ask_at.is_not(None))
    ask_at = sa.case((is_under_way, tasks.c.ask_at), else_=now)
    return connection.execute(mine.values(ask_at=ask_at)).rowcount > 0


def free(connection: Connection, by: str, asked: Collection[Account]) -> None:
    """Make the questions due again that this server held when it died, and ask at an account under its new name.

    Args:
        connection: A connection in a transaction.
        by: Name of this server. Only one living process has it.
        asked: The accounts.
    """
    gone = tasks.update().where(tasks.c.ask_at.is_not(None), tasks.c.taken_by == by)
    connection.execute(gone.values(taken_by=None, taken_until=None))
    for one in asked:
        named = [other.name for other in asked if other.provider == one.provider]
        its = sa.select(jobs.c.job_id).where(jobs.c.pool == one.pool, jobs.c.job_id == tasks.c.job_id)
        renamed = (tasks.c.provider == one.provider) & tasks.c.ask_at.is_not(None) & tasks.c.account.not_in(named)
        moved = sa.select(tasks.c.job_id).where(renamed, its.exists())
        connection.execute(jobs.update().where(jobs.c.job_id.in_(moved)).values(account=one.name))
        connection.execute(tasks.update().where(renamed, its.exists()).values(account=one.name))


def _events(question: Question, heard: Heard) -> list[tuple[str, str]]:
    """Return the kinds and reasons of the events. An answer like the last one is no event."""
    found = []
    is_silent = heard.state in SILENT
    changed = question.silent_since is None if is_silent else heard.state is not question.state
    if changed:
        said = heard.state.value if heard.state is not None else "silent"
        found.append(("answer", f"{said}: {heard.why}"))
    if heard.is_extended:
        found.append(("extended", said_of(heard.state)))
    if heard.stop is not None:
        found.append(("stop", f"{heard.stop}: {heard.why}"))
    return found


def said_of(state: AnswerState | None) -> str:
    """Say why a lease is extended after such an answer."""
    return "the provider does not answer" if state in SILENT else "the provider has the task"


def _of(question: Question) -> sa.Update:
    return tasks.update().where(tasks.c.provider == question.provider, tasks.c.task_id == question.task_id)


class _Budget:
    """How many questions an account may be asked now. Its row is locked until the transaction ends."""

    def __init__(self, connection: Connection, account: Account, now: int) -> None:
        self._connection, self._interval = connection, 1000 / account.questions_per_second
        self._mine = (accounts.c.provider == account.provider) & (accounts.c.name == account.name)
        query = sa.select(accounts.c.next_at).where(self._mine).with_for_update()
        next_at = connection.execute(query).scalar()
        if next_at is None:
            connection.execute(_new_account(connection), {"provider": account.provider, "name": account.name, "next_at": 0})
            next_at = connection.execute(query).scalar_one()
        went_back = next_at > now + self._interval  # guard: budget-after-the-clock-went-back
        self._begins = max(0 if went_back else next_at, now - max(BURST_MS, self._interval))
        self.left = int((now - self._begins) / self._interval)

    def spend(self, count: int) -> None:
        """Note that so many questions are asked."""
        if count:
            next_at = round(self._begins + count * self._interval)
            self._connection.execute(accounts.update().where(self._mine).values(next_at=next_at))


def _new_account(connection: Connection) -> sa.Insert:
    """Another server may add the same row at this moment."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(accounts).on_conflict_do_nothing()


def _question(row: sa.Row[*tuple[object, ...]], now: int) -> Question:
    found = dict(row._mapping)
    holds = found.pop("job_lease_id") == found["lease_id"] and found["status"] in HOLDING
    bound = found.pop("job_task_id") == found["task_id"]
    stop, state = found.pop("stop"), found.pop("state")
    found["questions"] += 1
    return Question(
        **found,
        asked_at=now,
        is_stopping=stop == "owed",
        state=None if state is None else AnswerState(state),
        is_held=holds,
        is_current=holds and bound,
    )


def _is_too_far(now: int | sa.BindParameter[int]) -> sa.ColumnElement[bool]:
    """Whether a question is further away than any pause: SQL's clock was set back since. Waiting for it would lose the lease."""
    of_its_lease = tasks.c.stop.is_(None) & (tasks.c.ask_at > now + jobs.c.lease_ms / SPACING_OF_A_LEASE + 1)
    is_far = (tasks.c.ask_at > now + SPACING_MAX_MS) | of_its_lease  # guard: question-due-after-the-clock-went-back
    return is_far


def _is_untaken(now: int) -> sa.ColumnElement[bool]:
    """Whether no server holds a question. A hold that is longer than any was written before SQL's clock was set back."""
    is_over = (tasks.c.taken_until <= now) | (tasks.c.taken_until > now + HOLD_MAX_MS)
    is_untaken = tasks.c.taken_until.is_(None) | is_over  # guard: question-taken-by-one-server
    return is_untaken


_now = sa.bindparam("now", type_=sa.BigInteger)
_due = (
    sa.select(
        tasks.c.provider, tasks.c.task_id, tasks.c.job_id, tasks.c.account, tasks.c.lease_id, tasks.c.asked_since,
        tasks.c.silent_since, tasks.c.denied_at, tasks.c.stop_at, tasks.c.stop, tasks.c.state, tasks.c.questions,
        jobs.c.pool, jobs.c.lease_ms, jobs.c.status, jobs.c.lease_id.label("job_lease_id"),
        jobs.c.task_id.label("job_task_id"), jobs.c.expires_at,
        jobs.c.hard_expires_at,
    )
    .join(jobs, jobs.c.job_id == tasks.c.job_id)
    .where(
        tasks.c.provider == sa.bindparam("provider"),
        tasks.c.account == sa.bindparam("account"),
        tasks.c.ask_at.is_not(None),  # the condition of the partial index
        (tasks.c.ask_at <= _now) | _is_too_far(_now),
    )
    .order_by(jobs.c.expires_at, tasks.c.ask_at)
    .limit(sa.bindparam("most"))
    .with_for_update(of=tasks, skip_locked=True)
)  # fmt: skip


class Questions:
    """The functions above, each in a transaction of its own. Its methods raise StoreDown when SQL cannot take the change."""

    def __init__(self, database: Database, by: str) -> None:
        """Act for one server.

        Args:
            database: The ledger's database.
            by: Name of this server, which no other living server has.
        """
        self._database, self._by = database, by

    async def due_in_s(self, asked: Collection[Account]) -> float | None:
        """Return the time (s) until the next question of these accounts is due, 0 if one is; None without any. It only reads."""
        return await self._database.read(lambda connection: _due_in_s(connection, asked))

    async def free(self, asked: Collection[Account]) -> None:
        """Make the questions due again that this server held when it died, as `free` does."""
        await self._database.write("", "", lambda batch: free(batch.connection, self._by, asked))

    async def take(self, asked: Collection[Account], room: Mapping[Lane, int], hold_ms: int) -> list[Question]:
        """Take questions that are due, as `take` does."""
        return await self._database.write("", "", lambda batch: take(batch.connection, self._by, asked, room, hold_ms))

    async def record(self, question: Question, heard: Heard) -> bool:
        """Record what a question has brought, as `record` does."""
        return await self._database.write("", "", lambda batch: record(batch, question, self._by, heard))


def _due_in_s(connection: Connection, asked: Collection[Account]) -> float | None:
    now = clock_ms(connection)
    known = sa.or_(*((tasks.c.provider == one.provider) & (tasks.c.account == one.name) for one in asked))
    later_of = sa.func.greatest if connection.dialect.name == "postgresql" else sa.func.max
    ask_at = sa.case((_is_too_far(now), now), else_=tasks.c.ask_at)
    soonest: sa.ColumnElement[int] = later_of(ask_at, sa.case((_is_untaken(now), 0), else_=tasks.c.taken_until))
    query = sa.select(sa.func.min(soonest)).join_from(tasks, jobs, jobs.c.job_id == tasks.c.job_id)
    next_at = connection.execute(query.where(tasks.c.ask_at.is_not(None), known)).scalar()
    return None if next_at is None else max(next_at - now, 0) / 1000
