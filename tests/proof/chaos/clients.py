"""Clients: each takes jobs, one after the other, does with them what people do, and asks again until it is answered."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.proof.chaos.account import Account, Call, Told

ANSWER_S = 15.0
"""Beyond the time a call asked to wait: whatever happens, there is an answer by then, if only 503."""
PATIENCE_S = 90.0
CREDITS = range(0, 20)


class Unanswered(Exception):
    """This client got no answer for so long that it gives up."""


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    body: dict[str, Any]
    told: Told

    @property
    def job(self) -> dict[str, Any] | None:
        return self.body.get("job") if self.code >= 400 else self.body


class Client:
    """`servers` are addresses; a call that gets no answer is repeated as it is, at another one (or at `only`)."""

    def __init__(
        self, name: str, http: httpx2.AsyncClient, servers: list[str], account: Account, seed: str, only: int | None = None
    ) -> None:
        self.only = only
        self.takes = {200, 202, 409, 410}
        """Answers that are no mistake."""
        self.name, self.http, self.servers, self.account = name, http, servers, account
        self.dice = random.Random(f"{seed}-{name}")
        self.count = 0
        self.old: collections.deque[tuple[Told, str]] = collections.deque(maxlen=20)

    # ---- calls ---------------------------------------------------------------------------------------------------

    async def acquire(self, pool: str = "default", *, wait_s: float = 0, **body: Any) -> Answer:
        self.count += 1
        told = self.account.opened(f"{self.name}-{self.count}", pool, self.dice.choice(CREDITS))
        return await self.ask_again(told, wait_s=wait_s, **body)

    async def ask_again(self, told: Told, *, wait_s: float = 0, **body: Any) -> Answer:
        given = {"job_id": told.job_id, "user": self.name, "credits": told.credits, "wait_seconds": wait_s} | body
        return await self._call(told, "acquire", f"/v1/pools/{told.pool}/acquire", given, wait_s)

    async def act(self, told: Told, verb: str, **body: Any) -> Answer:
        return await self._call(told, verb, f"/v1/pools/{told.pool}/jobs/{told.job_id}/{verb}", body, 0)

    async def look(self, told: Told, wait_s: float = 0) -> Answer:
        path = f"/v1/pools/{told.pool}/jobs/{told.job_id}?wait_seconds={wait_s}"
        return await self._call(told, "look", path, None, wait_s)

    async def release(self, told: Told, lease_id: str, outcome: str) -> Answer:
        self.account.giving_back(told, outcome, time.time())
        return await self.act(told, "release", lease_id=lease_id, outcome=outcome)

    async def cancel(self, told: Told) -> Answer:
        self.account.giving_back(told, "cancelled", time.time())
        return await self.act(told, "cancel", reason="changed my mind")

    async def bind(self, told: Told, provider: str, task_id: str) -> Answer:
        path = f"/v1/pools/{told.pool}/jobs/{told.job_id}/task"
        return await self._call(told, "bind", path, {"provider": provider, "task_id": task_id}, 0, "PUT")

    async def _call(
        self, told: Told, verb: str, path: str, body: dict[str, Any] | None, wait_s: float, method: str = ""
    ) -> Answer:
        at = self.dice.randrange(len(self.servers)) if self.only is None else self.only
        give_up = time.time() + PATIENCE_S
        while time.time() < give_up:
            sent = time.time()
            method = method or ("GET" if body is None else "POST")
            try:
                reply = await self.http.request(method, self.servers[at] + path, json=body, timeout=ANSWER_S + wait_s)
                code = reply.status_code
            except httpx2.TimeoutException:
                code = -1
            except httpx2.TransportError:
                code = 0
            now = time.time()
            self.account.calls.append(Call(at, verb, sent, now, wait_s, code))
            after = reply.headers.get("retry-after", "") if code in (429, 503) else ""
            self.account.expect(
                code not in (429, 503) or after.isdigit(), f"{verb} {told.job_id}: {code} without Retry-After"
            )
            if code > 0 and code != 503:
                return self._heard(Answer(code, reply.json() if code < 500 else {}, told), verb, sent, now)
            if code == 503:
                await asyncio.sleep(float(after) if after.isdigit() else 1)
            else:
                self.account.expect(code == 0, f"{verb} {told.job_id}: no answer in {ANSWER_S:g} s")
                at = (at + 1) % len(self.servers) if self.only is None else self.only
                await asyncio.sleep(self.dice.uniform(0.02, 0.2))
        self.account.wrong.append(f"{verb} {told.job_id}: no answer in {PATIENCE_S:g} s")
        raise Unanswered

    def _heard(self, answer: Answer, verb: str, sent: float, now: float) -> Answer:
        told, code = answer.told, answer.code
        word = f"{verb} {told.job_id}: {code} {answer.body.get('code', '')}"
        self.account.expect(code in self.takes, f"{word}, told {told.status or 'nothing'} before")
        if answer.job is not None and code < 500 and "status" in answer.job:
            self.account.hear(answer.job, sent, now, verb == "look")
        return answer

    # ---- jobs ----------------------------------------------------------------------------------------------------

    async def one_job(self) -> None:
        """From the acquire to its end, or to where this client loses interest."""
        answer = await self.acquire(lease_seconds=self.dice.choice((2, 3)), wait_s=self.dice.choice((0, 0.05, 5)))
        told = answer.told
        if self.dice.random() < 0.1:
            answer = await self.ask_again(told)
        for _ in range(500):
            job = answer.job or (await self.look(told)).job
            if told.outcome or job is None:
                return
            if job["status"] == "queued":
                if self.dice.random() < 0.04:
                    await self.cancel(told)
                    return
                answer = await self.look(told, self.dice.choice((0.2, 5, 5)))
            elif job["status"] == "granted":
                if self.dice.random() < 0.02:
                    return  # never comes
                answer = await self.act(told, self.dice.choice(("claim", "renew")), lease_id=job["lease"]["lease_id"])
            elif (left := await self.hold(told, job["lease"]["lease_id"])) is None:
                return
            else:
                answer = left
        self.account.wrong.append(f"{told.job_id}: {told.status}, and on and on")

    async def hold(self, told: Told, lease_id: str) -> Answer | None:
        """What its holder does with it. None: it is over for this client."""
        for _ in range(self.dice.randrange(0, 3)):
            await asyncio.sleep(self.dice.random() * 0.1)
            if self.dice.random() < 0.5:
                renewed = await self.mine(told, lease_id, "renew")
                if renewed.code != 200:
                    return renewed
            elif self.old and self.dice.random() < 0.3:
                await self.stale()
        self.old.append((told, lease_id))
        end = self.dice.random()
        if end < 0.015:
            return None  # never calls back
        if end < 0.03:
            await asyncio.sleep(max(told.lives_until() - time.time(), 0) + self.dice.uniform(-0.1, 0.5))
        if end < 0.1:
            await self.cancel(told)
            return None
        (outcome,) = self.dice.choices(("completed", "failed", "cancelled", "refused"), (60, 20, 17, 3))
        answer = await self.mine(told, lease_id, "release", outcome)
        if outcome != "refused" and self.dice.random() < 0.15:
            again = await self.release(told, lease_id, outcome)
            self.account.expect(again.code == answer.code, f"{told.job_id}: release {answer.code}, repeated {again.code}")
        return answer if outcome == "refused" and answer.code == 200 else None

    async def mine(self, told: Told, lease_id: str, verb: str, outcome: str = "") -> Answer:
        """A call by a lease: while the deadline it was told is not over, the slot is its own."""
        until = told.lives_until()
        if verb == "release":
            answer = await self.release(told, lease_id, outcome)
        else:
            answer = await self.act(told, verb, lease_id=lease_id)
        early = until - time.time()
        # A refusal that was heard and not answered is a refusal; asked again, it may name a lease that was given back.
        lost = answer.code != 200 and early > 0 and outcome != "refused" and not self.account.edited
        self.account.expect(not lost, f"{verb} {told.job_id}: {answer.code}, {early:.1f} s before its deadline")
        return answer

    async def stale(self) -> None:
        """A lease of an earlier job of this client's."""
        other, lease_id = self.dice.choice(self.old)
        if other.outcome:
            answer = await self.act(other, self.dice.choice(("renew", "claim")), lease_id=lease_id)
            self.account.expect(answer.code in (409, 410), f"{other.job_id}: {answer.code} by a lease that is over")
