"""SQL: each function is one transaction of the ledger, under the lock of the pool's row. All of it, or nothing."""

from __future__ import annotations

from tests.proof.model.state import (
    ENDED,
    FRESH,
    HOLDING,
    LIVE,
    REFUNDED,
    Lease,
    Note,
    Redis,
    Reply,
    Row,
    State,
    Task,
    held,
    off,
    with_row,
    wrong,
)
from tests.proof.model.tasks import account_for, drains, has_account, judge_expiry, let_go, task_of, with_task

Answered = tuple[State, Reply]


def _room(state: State) -> bool:
    return "room" in off or (not state.pool.paused and held(state) < state.pool.limit and has_account(state))


def _newer(state: State, fence: int, last: int) -> bool:
    if "newer_fence" in off:
        return fence >= last and fence > state.pool.void
    return fence > max(last, state.pool.void)


def _take(state: State, job: int, status: str, ticket: int, fence: int, due: int) -> State:
    """A grant is written down."""
    if any(fence in (row.fence, row.first) for row in state.rows if row.job != job):
        state = wrong(state, "two jobs have a grant of the same fence")
    if fence <= state.rows[job].fence:
        state = wrong(state, "a job took back in a grant that it had given up")
    if state.pool.paused or held(state) >= state.pool.limit:
        state = wrong(state, "SQL has more slots held than its limit")
    first = state.rows[job].first or fence
    state, account = account_for(state, job)
    told = due if status == "granted" else 0  # a read of the job tells it; a caller is told by its own call
    return with_row(state, job, status=status, ticket=ticket, fence=fence, due=due, told=told, first=first, account=account)


def _end(state: State, job: int, outcome: str) -> State:
    """The outcome and its refund, in one transaction."""
    row = state.rows[job]
    refunds = row.refunds
    if outcome in REFUNDED and not (refunds and "refund_once" not in off):
        refunds += 1
    return with_row(state, job, status=outcome, refunds=refunds, ticket=0, due=0, told=0, first=0, passed=False)


def admit(state: State, epoch: int, decision: Reply, leased: bool, goes_back: bool = False) -> Answered:
    """What Redis decided: running under its lease, or (not `leased`) queued. `goes_back`: its grant is about to."""
    job = decision.job
    over = decision.fence and not decision.due and "in_time" not in off
    if over or (state.pool.epoch != epoch and "epoch_admit" not in off):
        return state, Reply("stale", job)
    row = state.rows[job]
    fence = decision.fence if leased else 0
    if row.status in ENDED:
        return state, Reply("ended", job)
    if row.status in HOLDING and fence not in (0, row.fence):
        return state, Reply("live", job, row.ticket, row.fence, row.due)
    if row.status != "queued" and row.status:
        return state, _as_it_stands(row)
    if fence and fence != row.fence:
        if not (_newer(state, fence, row.fence) and _room(state)):
            return state, Reply("no_room", job)
        state = _take(state, job, "running", row.ticket or decision.ticket, fence, decision.due)
    elif not row.status:
        # A commit so late that its turn may be over: a later ticket is here already.
        late = any(row.ticket > decision.ticket for row in state.rows)
        state = with_row(state, job, status="queued", ticket=decision.ticket)._replace(shuffled=state.shuffled or late)
    if not row.status or "charge_once" in off:
        state = with_row(state, job, charges=row.charges + 1)
    if goes_back:
        state = _given_up(state, job, decision.fence)
    return state, _as_it_stands(state.rows[job])


def _given_up(state: State, job: int, fence: int) -> State:
    """A returned grant is never recorded again. Otherwise its return would take it from a holder that was told since."""
    row = state.rows[job]
    if fence <= row.fence or row.status != "queued":
        return state
    return with_row(state, job, fence=fence if "given_up" not in off else row.fence, first=row.first or fence)


def _as_it_stands(row: Row) -> Reply:
    return Reply("admitted", row.job, row.ticket, row.fence, row.due, rest=(row.status,))


def end(state: State, job: int, outcome: str, fence: int | None) -> Answered:
    """`fence`: of the lease that its holder named; None when an operator ends it."""
    row = state.rows[job]
    if not row.status:
        return state, Reply("unknown", job)
    if fence is not None and _is_lost(row, fence):
        return state, Reply("lost", job)
    if row.status in ENDED and "outcome_stays" not in off:
        return state, _over(state, row, "repeat" if row.status == outcome else "already")
    if fence is not None and (row.fence != fence or row.status == "queued"):
        state = wrong(state, "a stale release ended the job of a newer holder")
    state = _end(state, job, outcome)
    if outcome != "completed" and "stop_same" not in off:
        state = let_go(state, row, FRESH)
    return state, _over(state, row, "ended")


def _is_lost(row: Row, fence: int) -> bool:
    """A waiter keeps the fence of its last lease, which ends nothing any more."""
    return (row.fence != fence and "end_lease" not in off) or (row.status == "queued" and "end_waiter" not in off)


def _over(state: State, row: Row, word: str) -> Reply:
    """`rest` says what becomes of its slot: it drains; or (with `stop_same` switched off) its stop has yet to be written."""
    task = task_of(state, row.job, row.fence)
    if task is None:
        return Reply(word, row.job)
    if drains(task) and not (word == "repeat" and "repeat_cancel" in off):
        return Reply(word, row.job, fence=row.fence, rest=("drain",))
    if "stop_same" in off and task.bound and not task.stop:
        return Reply(word, row.job, fence=row.fence, rest=("owe",))
    return Reply(word, row.job)


def refuse(state: State, job: int, fence: int) -> Answered:
    row = state.rows[job]
    if row.status not in HOLDING or (row.fence != fence and "refuse_lease" not in off):
        return state, Reply("repeat" if row.status == "queued" and row.fence == fence else "lost", job)
    if row.fence != fence:
        state = wrong(state, "a stale refusal took the slot of a newer holder")
    if "stop_refused" not in off:
        state = let_go(state, row, 0)
    if state.pool.accounts and state.strangers:
        state = state._replace(refused=True)
    state = with_row(state, job, status="queued", due=0, told=0)
    return state, Reply("refused", job, row.ticket, row.fence)


def extend(state: State, epoch: int, job: int, fence: int, due: int) -> Answered:
    if (not due and "in_time" not in off) or (state.pool.epoch != epoch and "epoch_extend" not in off):
        return state, Reply("stale", job)
    row = state.rows[job]
    if row.status not in HOLDING or (row.fence != fence and "extend_lease" not in off):
        return state, Reply("queued" if row.status == "queued" else "lost", job)
    if task := task_of(state, job, fence):
        state = with_task(state, task, denied=0, given_up=False)
    return with_row(state, job, status="running", due=max(due, row.due)), Reply("extended", job, due=max(due, row.due))


def record(state: State, epoch: int, notes: tuple[Note, ...]) -> Answered:
    """A page of the outbox. `rest`: what is done with, and the grants that go back."""
    if state.pool.epoch != epoch and "epoch_record" not in off:
        return state, Reply("stale")
    done: list[Note] = []
    returns: list[Lease] = []
    over = {(note.job, note.fence) for note in notes if note.kind == "expired"}
    for note in notes:
        if not state.rows[note.job].status:
            continue  # its commit is on the way: the entry stays
        done.append(note)
        if not (note.kind == "granted" and (note.job, note.fence) in over):
            state, back = _record(state, note)
            if back:
                row = state.rows[note.job]
                returns.append(Lease(note.job, note.fence, row.ticket, back))
                state = _given_up(state, note.job, note.fence)
    return state, Reply("recorded", rest=(tuple(done), tuple(returns)))


def _record(state: State, note: Note) -> tuple[State, str]:
    """And why the grant goes back, if it does."""
    row = state.rows[note.job]
    if note.kind == "granted":
        if row.status != "queued" or not _newer(state, note.fence, row.fence):
            return state, ""
        if not _room(state):
            return state, "not_taken"
        return _take(state, note.job, "granted", row.ticket, note.fence, note.due), ""
    if note.kind == "passed":
        return (with_row(state, note.job, passed=True) if row.status == "queued" else state), ""
    if not note.fence:
        ends = row.status == "queued" if "queue_timeout" not in off else row.status in LIVE
        return (_expire(state, note.job) if ends else state), ""
    if row.status in HOLDING and (row.fence == note.fence or "expiry_fence" in off):
        if row.fence != note.fence:
            state = wrong(state, "an expiry ended the lease of a newer grant")
        return _expire(state, note.job), ""
    return state, "lost" if row.status == "queued" and note.fence > row.fence else ""


def _expire(state: State, job: int) -> State:
    if state.rows[job].told:
        state = wrong(state, "expired before the deadline that its holder was told")
    state = judge_expiry(state, job)
    if "stop_expired" not in off:
        state = let_go(state, state.rows[job], 0)
    return _end(state, job, "expired")


def expire_overdue(state: State, epoch: int, job: int, fence: int) -> Answered:
    row = state.rows[job]
    fits = state.pool.epoch == epoch and row.status in HOLDING
    if not fits or row.fence != fence or row.due:
        return state, Reply("no", job)
    return _expire(state, job), Reply("expired", job)


def void(state: State, epoch: int, job: int, fence: int) -> Answered:
    row = state.rows[job]
    unseen = not row.status or (row.status in HOLDING and row.fence != fence)
    if state.pool.epoch != epoch or not (unseen or "void_checked" in off):
        return state, Reply("no", job)
    if "void" not in off:
        state = state._replace(pool=state.pool._replace(void=max(state.pool.void, fence)), shuffled=True)
    return state, Reply("void", job)


def begin_rebuild(state: State, refused: int | None, identity: int, floor: int) -> Answered:
    """Epoch+1 in the Redis of this identity, and the rows to load; or the epoch that another server has loaded there meanwhile."""
    pool = state.pool
    if pool.identity == identity and (refused is None or pool.epoch > refused):
        return state, Reply("taken", rest=(pool.epoch, identity))
    if identity in pool.replaced and "replaced_stays" not in off:
        return state, Reply("replaced")
    epoch = max(pool.epoch, floor) + 1
    if identity in pool.replaced:
        state = wrong(state, "a Redis that was replaced is loaded again: two servers rebuild in turns")
    replaced = pool.replaced if identity == pool.identity else tuple(sorted({*pool.replaced, pool.identity}))
    live = tuple([row for row in state.rows if row.status in LIVE])
    if "load_drains" not in off:
        live += tuple([task for task in state.tasks if drains(task) and state.rows[task.job].status in ENDED])
    raised = pool._replace(epoch=epoch, identity=identity, replaced=replaced)
    if "committed_first" in off:
        raised = pool
    return state._replace(pool=raised), Reply("begun", rest=(epoch, pool.limit, pool.paused, live))


def begin_late(state: State, epoch: int, identity: int) -> Answered:
    """Only with `committed_first` switched off: the epoch of a pool that is loaded already."""
    return state._replace(pool=state.pool._replace(epoch=max(epoch, state.pool.epoch), identity=identity)), Reply("raised")


def change_pool(state: State, limit: int, paused: bool) -> Answered:
    return state._replace(pool=state.pool._replace(limit=limit, paused=paused)), Reply("changed")


def live_rows(state: State) -> Answered:
    """What the sweep reads of SQL, ended jobs that Redis still names among them."""
    return state, Reply("rows", rest=state.rows)


def live_tasks(state: State) -> tuple[State, tuple[Task, ...]]:
    """... and of tasks whose slots drain."""
    return state, tuple([task for task in state.tasks if drains(task)])


def survey(state: State, server: int) -> tuple[State, Redis]:
    return state, state.redises[state.servers[server].link]
