"""The scripts against the rules: hypothesis plays any calls in any order, and both must say and hold the same."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import Any, ClassVar

import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.proof.state_machine.rules import Rules
from tests.support.clock import Clock
from tests.support.script_lane import Fake, LineOfPool

JOBS = st.sampled_from("abcdefgh")
LEASES = st.sampled_from((1_000, 5_000, 30_000))
EXAMPLES = int(os.environ.get("GATE_TEST_EXAMPLES", "60"))


class LineAgainstRules(RuleBasedStateMachine):
    redis_url: ClassVar[str | None]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        client = redis.asyncio.Redis.from_url(self.redis_url) if self.redis_url else Fake()
        self.line = LineOfPool(client, f"m-{secrets.token_hex(6)}", Clock())
        self.grants: dict[str, list[tuple[int, str]]] = {}  # job -> its leases, by the number of the grant
        self.seen = 0

    @initialize(
        limit=st.integers(0, 3), queue_max=st.integers(0, 6), cap=st.integers(0, 2), claim_ms=st.sampled_from((500, 4_000)),
        passing=st.integers(1, 3),
    )  # fmt: skip
    def load(self, limit: int, queue_max: int, cap: int, claim_ms: int, passing: int) -> None:
        self.rules = Rules(limit, claim_ms, 40_000, 20_000, queue_max, 3_000, cap, self.line.clock.now, passing)
        self.run(
            self.line.load(
                limit=limit, claim_ms=claim_ms, max_hold_ms=40_000, queue_ms=20_000, queue_max=queue_max, cooldown_ms=3_000,
                max_active_per_user=cap, refusals_before_passing=passing,
            )
        )  # fmt: skip

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def same(self, call: Any, word: str) -> Any:
        reply = self.run(call)
        assert reply.result == word
        return reply

    def lease(self, job: str, newest: bool) -> tuple[int, str]:
        """A grant of the job, by number and lease: its newest, or its first."""
        known = self.grants.get(job)
        return known[-1 if newest else 0] if known else (-1, "0" * 32)

    @rule(job=JOBS, user=st.sampled_from((None, "ana", "bruno")), lease_ms=LEASES)
    def acquire(self, job: str, user: str | None, lease_ms: int) -> None:
        self.same(self.line.acquire(job, user=user, lease_ms=lease_ms), self.rules.acquire(job, user, lease_ms))

    @rule(job=JOBS, newest=st.booleans())
    def claim(self, job: str, newest: bool) -> None:
        grant, lease = self.lease(job, newest)
        self.same(self.line.claim(job, lease), self.rules.extend(job, grant, None))

    @rule(job=JOBS, newest=st.booleans(), lease_ms=LEASES)
    def renew(self, job: str, newest: bool, lease_ms: int) -> None:
        grant, lease = self.lease(job, newest)
        self.same(self.line.renew(job, lease, lease_ms), self.rules.extend(job, grant, lease_ms))

    @rule(job=JOBS, newest=st.booleans())
    def release(self, job: str, newest: bool) -> None:
        grant, lease = self.lease(job, newest)
        self.same(self.line.release(job, lease), self.rules.release(job, grant))

    @rule(job=JOBS, newest=st.booleans())
    def requeue(self, job: str, newest: bool) -> None:
        grant, _ = self.lease(job, newest)
        fence = (1 << 32) + grant
        self.same(self.line.requeue(job, fence), self.rules.requeue(job, grant))

    @rule(job=JOBS)
    def cancel(self, job: str) -> None:
        self.same(self.line.cancel(job), self.rules.cancel(job))

    @rule()
    def tick(self) -> None:
        self.same(self.line.tick(), self.rules.tick())

    @rule(ms=st.sampled_from((1, 499, 500, 999, 1_000, 3_000, 5_000, 20_000, 40_000)))
    def time_passes(self, ms: int) -> None:
        self.line.clock.turn(ms)
        self.rules.passes(ms)

    @rule()
    def pause_or_resume(self) -> None:
        word = self.rules.pause_or_resume()
        self.same(self.line.configure(paused=int(self.rules.paused)), word)

    @rule()
    @precondition(lambda self: self.rules.outbox)
    def record(self) -> None:
        self.run(self.line.client.delete(self.line.key("outbox")))
        self.rules.outbox.clear()

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "rules"):
            return
        state = self.run(self.line.dump())
        slots = {job.decode(): int(due) for job, due in state["slots"]}
        assert slots == {job: holder.due for job, holder in self.rules.slots.items()}
        assert [job.decode() for job in state["queue"]] == list(self.rules.queue)
        outbox = [(fields[b"kind"].decode(), fields[b"job"].decode()) for _, fields in state["outbox"]]
        assert outbox == self.rules.outbox
        assert {job.decode() for job in state["jobs"]} == set(self.rules.slots) | set(self.rules.queue)
        assert int(state["meta"][b"cooling_until"]) == self.rules.cooling_until
        live = self.rules.queue | {job: holder.job for job, holder in self.rules.slots.items()}
        assert len(state["users"]) == sum(waiter.user is not None for waiter in live.values())
        self.learn_leases()

    def learn_leases(self) -> None:
        for job, holder in self.rules.slots.items():
            known = self.grants.setdefault(job, [])
            if not known or known[-1][0] != holder.grant:
                entry = self.run(self.line.entry(job))
                assert int(entry["fence"]) == (1 << 32) + holder.grant
                known.append((holder.grant, entry["lease_id"]))

    @invariant()
    def the_promises_hold(self) -> None:
        if hasattr(self, "rules"):
            assert len(self.rules.slots) <= self.rules.limit

    def teardown(self) -> None:
        self.run(self.line.sweep_up())
        self.run(self.line.client.aclose())
        self.runner.close()


@pytest.mark.parametrize("lane", ["valkey", "fakeredis"])
def test_the_scripts_do_what_the_rules_say(lane: str, request: pytest.FixtureRequest) -> None:
    class Machine(LineAgainstRules):
        redis_url = request.getfixturevalue("valkey") if lane == "valkey" else None

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck),
            database=None, print_blob=True,
        ),
    )  # fmt: skip
