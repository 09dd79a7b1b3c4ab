"""The worker that asks providers about tasks, before their leases run out, and stops the tasks of jobs that ended without them.

Silence is never a verdict: while a provider does not answer, the lease is extended, for a bounded time. Only a named end ends a job, in
exactly the way of a callback. A question holds no lock, so calls of tools never wait for a provider.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import structlog

from gate.coordination.jobs import JobCoordinator
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import CallbackResult, Heard, Question, Questions
from gate.model.account import Account, Accounts
from gate.model.errors import AlreadyEnded, JobUnknown, LeaseLost, PoolUnknown, StartedByGate, StoreDown
from gate.model.messages import Answer, AnswerState
from gate.providers.page import ProviderPage
from gate.telemetry import counters
from gate.workers.provider_client import NoReply, ProviderClient

log = structlog.get_logger("gate.asking")

WITHIN_S = 10.0
"""Longest timeout (s) of a request to a provider."""
PART_OF_LEASE = 6
"""A request takes this part of a lease at most, but a second: a question and its further request take less than half of it."""
HOLD_MS = 60_000
"""Time (ms) for which a question is held: for a stop, a question and a further request, and for the record of the answer."""
AT_ONCE = 16
"""Questions of each account at once, and as many stops, so that a provider that hangs delays only the questions of its own account."""
EVERY_S = 1.0
"""Longest pause (s) between two looks for due questions. Another server may have written one without a wake-up here."""
REST_S = 5.0
"""Longest time (s) without a look while no pool of an account has a job: all that can come due then is a stop whose slot is free already."""
AGAIN_S = 0.05
"""Shortest pause (s) between two looks. A question may be due while its account has no room for it, and a busy pool changes hundreds
of times a second: without the pause each change costs a look, which is a fifth more CPU for each job."""
FULL_S = 0.25
"""Pause (s) after a look that took none of the questions that are due: as many as allowed are under way, and each look is a transaction."""
SETTLE_S = 1.0
"""Time (s) that questions have to end when the server stops."""
PART = 4
"""A question comes when this part of the time since the start has passed again: a long task is asked about less often."""
STOP_AGAIN_MS = 2_000
"""Time (ms) after which a task that has to be stopped is asked about, and stopped again. It doubles with each question."""
STOP_AGAIN_MAX_MS = 30_000
"""Longest such time (ms)."""
STOPS_MS = 600_000
"""Time (ms) after which a stop is given up."""
ALIVE = (AnswerState.QUEUED, AnswerState.RUNNING, AnswerState.ENDED)
"""Answers after which a lease is extended like by its holder, if they end nothing yet."""


class AskingWorker:
    """Asks about tasks that are due, and records the answers."""

    def __init__(
        self, questions: Questions, accounts: Accounts, pages: Mapping[str, ProviderPage], jobs: JobCoordinator,
        pools: PoolRegistry, client: ProviderClient,
    ) -> None:  # fmt: skip
        self._questions, self._accounts, self._pages = questions, accounts, pages
        self._jobs, self._pools, self._client = jobs, pools, client
        self._busy: Counter[tuple[str, str, bool]] = Counter()
        self._asked: set[asyncio.Task[None]] = set()
        self._due = asyncio.Event()
        self._freed = False
        self._rests_until = 0.0
        self._refused: set[tuple[str, str]] = set()
        """Accounts that this server has found to be refused, so that a later answer opens them again."""
        self.on_refused_key: Callable[[Account, Answer], Awaitable[None]] = _ignore
        self.on_accepted_key: Callable[[Account], Awaitable[None]] = _ignore

    def kick(self) -> None:
        """Wake the worker, because a question may be due."""
        self._rests_until = 0.0
        self._due.set()

    async def keep(self) -> None:
        """Ask due questions, for ever."""
        while True:
            self._due.clear()
            wait_s, pause_s = EVERY_S, AGAIN_S
            try:
                if not self._freed:
                    await self._questions.free(list(self._accounts))  # guard: free-questions-of-a-dead-server
                    self._freed = True
                if not self._rests():
                    self._rests_until = time.monotonic() + REST_S  # before the look, so that a change during it ends the rest
                    left_s = await self._questions.due_in_s(list(self._accounts))
                    if left_s == 0 and not await self._take():
                        pause_s = FULL_S
                    if left_s is not None:
                        wait_s = min(EVERY_S, max(left_s, AGAIN_S))
                        self._rests_until = min(self._rests_until, time.monotonic() + left_s)
            except StoreDown as error:
                log.debug("asking.store_away", error=str(error))
                self._rests_until = 0.0
                self._due.clear()
            await asyncio.sleep(pause_s)  # guard: changes-share-a-look
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s - pause_s):
                    await self._due.wait()

    def _rests(self) -> bool:
        """Say whether nothing can have come due since the last look: no pool has a job, and nothing has changed."""
        return time.monotonic() < self._rests_until and all(self._pools.is_idle(pool) for pool in self._accounts.pools)

    async def settle(self) -> None:
        """Wait up to 1 s for questions under way, then cancel them. A cancelled question is asked again later."""
        if self._asked:
            _, left = await asyncio.wait(self._asked, timeout=SETTLE_S)
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take(self) -> int:
        """Take questions that are due. Returns their number."""
        lanes = [(one.provider, one.name, stops) for one in self._accounts for stops in (False, True)]
        room = {lane: AT_ONCE - self._busy[lane] for lane in lanes}
        taken = await self._questions.take(list(self._accounts), room, HOLD_MS)
        for question in taken:
            self._busy[question.lane] += 1
            asked = asyncio.create_task(self._ask(question))
            self._asked.add(asked)
            asked.add_done_callback(self._asked.discard)
        return len(taken)

    async def _ask(self, question: Question) -> None:
        try:
            account = self._accounts.get(question.provider, question.account)
            assert account is not None
            page = self._pages[question.provider]
            if question.is_stopping:
                await self._stop(question, account, page)
            else:
                is_held = await self._hold(question, account)  # guard: hold-before-the-question
                asked, answer = await self._answer(question, account, page)
                await self._heed(asked, answer, is_held)
        except StoreDown as error:
            log.warning("asking.not_recorded", error=str(error), pool=question.pool, job_id=question.job_id)
        except Exception:
            log.exception("asking.crashed", pool=question.pool, job_id=question.job_id)
        finally:
            self._busy[question.lane] -= 1

    async def _answer(
        self, question: Question, account: Account, page: ProviderPage
    ) -> tuple[Question, Answer | None]:  # fmt: skip
        """Ask about a task, at the other accounts of its pool too when its own does not know it.

        Returns:
            The question, at the account that has the task; and the answer, None when the provider does not reply.
        """
        answer = await self._asked_at(question, account, page)
        if answer is None or answer.state is not AnswerState.UNKNOWN:
            return question, answer
        for other in self._accounts.beside(account):  # guard: unknown-task-may-be-of-another-account
            found = await self._asked_at(question, other, page)
            if found is not None and found.state in ALIVE:
                return replace(question, account=other.name, is_moved=True), found
        return question, answer

    async def _asked_at(self, question: Question, account: Account, page: ProviderPage) -> Answer | None:
        """Ask about a task at one account."""
        task_id, key, began = question.task_id, account.key, time.perf_counter()
        try:
            answer = await self._client.answer(
                account, page.ask(task_id, key), lambda reply: page.read_answer(task_id, reply, key), _within_s(question)
            )
        except NoReply as error:
            log.info("asking.no_reply", pool=question.pool, job_id=question.job_id, why=str(error))
            answer = None
        counters.question_seconds[question.provider].add(time.perf_counter() - began)
        counters.questions[question.provider, answer.state.value if answer else "silent"] += 1
        await self._heed_key(account, answer)
        return answer

    async def _heed_key(self, account: Account, answer: Answer | None) -> None:
        """Take the account down when its key is refused, and open it at the first answer about a task after that."""
        name = (account.provider, account.name)
        if answer is not None and answer.state is AnswerState.BAD_KEY:
            self._refused.add(name)
            await self.on_refused_key(account, answer)  # guard: refused-key-takes-the-account-down
        elif answer is not None and name in self._refused and answer.state in ALIVE:
            self._refused.discard(name)
            await self.on_accepted_key(account)

    async def _heed(self, question: Question, answer: Answer | None, is_held: bool) -> None:
        """Apply an answer about a task that is not to be stopped. `is_held`: its lease was extended for this question."""
        state = answer.state if answer is not None else None
        # guard: answer-ends-the-job
        if answer is not None and state is AnswerState.ENDED and not self._is_doubtful(question, answer):
            return await self._end(question, answer)
        # A success without output that was said once only counts like a task that runs: its output may only be late.
        is_extended = (
            (state in ALIVE and await self._extend(question))  # guard: answer-extends-the-lease
            or is_held
        )
        why = answer.why if answer is not None else f"no reply within {_within_s(question):g} s"
        await self._questions.record(question, Heard(state, why, self._wait_ms(question, answer), is_extended))

    @staticmethod
    def _is_doubtful(question: Question, answer: Answer) -> bool:
        """Whether one more question has to confirm an answer: one success without output proves nothing."""
        return answer.is_without_output and question.state is not AnswerState.ENDED  # guard: empty-success-said-twice

    async def _end(self, question: Question, answer: Answer) -> None:
        """End the job as a callback would."""
        assert answer.report is not None
        with contextlib.suppress(PoolUnknown):
            result = await self._jobs.hear(question.pool, question.provider, answer.report, _body(answer))
            counters.ends_by_question[question.provider, result.value] += 1
            account = self._accounts.get(question.provider, question.account)
            if account is not None and account.calls_back and result in (CallbackResult.ENDED, CallbackResult.RETRIED):
                counters.callbacks_missing[question.provider] += 1
        await self._questions.record(question, Heard(AnswerState.ENDED, answer.why, None))

    async def _hold(self, question: Question, account: Account) -> bool:
        """Extend the lease before the question if it could run out before the next one. Silence may be the answer.

        Silence holds a lease for a bounded time, and so does a first answer that the provider does not know the task.
        """
        if question.silent_since is not None:
            silent_ms = question.asked_at - question.silent_since
            if silent_ms > account.silence_ms:  # guard: silence-holds-for-a-time
                return False
        if question.denied_at is not None:  # guard: unknown-said-twice
            return False
        hold_ms = 2 * question.spacing_ms + round(2000 * _within_s(question))
        return self._left_ms(question) < hold_ms and await self._renew(question, hold_ms)

    async def _extend(self, question: Question) -> bool:
        """Extend the lease of a task that the provider has, when less than half of it is left."""
        return self._left_ms(question) < question.lease_ms / 2 and await self._renew(question, None)

    def _left_ms(self, question: Question) -> float:
        """Time (ms) until the lease is over; without end when the task holds none."""
        if not question.is_current or question.expires_at is None:
            return math.inf
        return question.expires_at - self._pools.expected_ms(question.pool)

    async def _renew(self, question: Question, lease_ms: int | None) -> bool:
        try:
            # guard: answer-renews-in-redis
            await self._jobs.renew(question.pool, question.job_id, question.lease_id, lease_ms)
        except (LeaseLost, AlreadyEnded, StartedByGate, JobUnknown, PoolUnknown):
            return False
        counters.extensions[question.provider] += 1
        return True

    def _wait_ms(self, question: Question, answer: Answer | None) -> int | None:
        """Time (ms) until the next question; None when the lease is over."""
        most, soonest = question.spacing_ms, max(question.spacing_ms // 12, 50)
        if not question.is_held:
            return None
        if not question.is_current:
            return most  # guard: replaced-task-is-still-stopped
        is_denied = answer is not None and answer.state is AnswerState.UNKNOWN and question.denied_at is None
        wait = most / 6 + 1 if is_denied else min(max((question.asked_at - question.asked_since) / PART, soonest), most)
        if question.hard_expires_at is not None:
            to_limit = question.hard_expires_at - self._pools.expected_ms(question.pool) - soonest
            wait = min(wait, to_limit) if to_limit > 0 else wait
        if answer is not None and answer.retry_s:
            wait = max(wait, min(answer.retry_s * 1000, most))
        return round(max(wait, 1))

    async def _stop(self, question: Question, account: Account, page: ProviderPage) -> None:
        """Stop a task, and find out whether it is over. Then its slot is free."""
        question, answer = await self._stopped(question, account, page)
        is_gone = answer.state is AnswerState.UNKNOWN and question.denied_at is not None
        if answer.state is AnswerState.ENDED or is_gone:
            await self._over(question, answer)
            return
        assert question.stop_at is not None
        since_ms = question.asked_at - question.stop_at
        if since_ms > STOPS_MS:
            log.warning("asking.stop_given_up", pool=question.pool, job_id=question.job_id, why=answer.why)
            await self._questions.record(question, Heard(answer.state, answer.why, None, stop="given_up"))
            counters.stops[question.provider, "given_up"] += 1
            return
        wait_ms = min(max(STOP_AGAIN_MS, since_ms // 2), STOP_AGAIN_MAX_MS)
        await self._questions.record(question, Heard(answer.state, answer.why, wait_ms))

    async def _stopped(self, question: Question, account: Account, page: ProviderPage) -> tuple[Question, Answer]:
        """Stop a task, and ask what became of it. A task that another account has is stopped there the next time."""
        task_id, key = question.task_id, account.key
        try:
            answer = await self._client.answer(
                account, page.stop(task_id, key), lambda reply: page.read_stop(task_id, reply, key), _within_s(question)
            )
        except NoReply as error:
            answer = Answer(AnswerState.UNCLEAR, str(error))
        if answer.state is AnswerState.ENDED:
            return question, answer
        asked, found = await self._answer(question, account, page)
        return asked, found or answer

    async def _over(self, question: Question, answer: Answer) -> None:
        """Give the slot of a stopped task away, because the task is over."""
        if answer.report is not None:
            with contextlib.suppress(PoolUnknown):  # the stop of a task outlives its pool
                await self._jobs.hear(question.pool, question.provider, answer.report, _body(answer))
        is_last = await self._questions.record(question, Heard(AnswerState.ENDED, answer.why, None, stop="confirmed"))
        counters.stops[question.provider, "confirmed"] += 1
        if is_last:  # guard: last-stop-frees-the-slot
            with contextlib.suppress(PoolUnknown):
                await self._pools.pool(question.pool).drained(question.job_id, question.lease_id)


async def _ignore(account: Account, answer: Answer | None = None) -> None:
    """Do nothing about an account whose key is refused, or taken again."""


def _within_s(question: Question) -> float:
    """Timeout (s) of a request about a task."""
    return min(WITHIN_S, max(question.lease_ms / 1000 / PART_OF_LEASE, 1.0))


def _body(answer: Answer) -> str:
    """Return what is kept in the place of a callback's body."""
    return json.dumps({"asked": True, "why": answer.why}, ensure_ascii=False)
