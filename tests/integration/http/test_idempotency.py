"""An Idempotency-Key stands for one charged job, also when its caller gets another API key in between."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from gate.model.errors import UserBusy
from gate.model.job import Request
from tests.support.gate_in_process import House
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio
BODY = {"user": "ana", "tool": "upscaler", "credits": 5, "payload": {"prompt": "a fox"}}


class Keyed:
    """A gate whose callers need keys."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def key(self, role: str = "tool") -> tuple[str, str]:
        """A key that counts: its name and itself."""
        name = fresh("key")
        key = json.loads(run_gate("keys", "create", name, "--role", role, "--json", cwd=self.served.folder).stdout)["key"]
        asyncio.run(until(lambda: self.get("/v1/pools", key).status_code == 200, "the key counts"))
        return name, key

    def get(self, path: str, key: str, **query: Any) -> httpx2.Response:
        return self.served.http.get(path, headers={"apikey": key}, params=query)

    def ask(self, key: str, idempotency_key: str, **body: Any) -> httpx2.Response:
        headers = {"apikey": key, "Idempotency-Key": idempotency_key}
        return self.served.http.post("/v1/pools/wide/acquire", json=BODY | body, headers=headers)

    def charges(self, key: str, user: str) -> list[str]:
        return [row["job_id"] for row in self.get("/v1/ledger", key, user=user, kind="charge").json()["rows"]]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    config = "[pools.wide]\nlimit = 100\n"
    with Served(tmp_path_factory.mktemp("keyed"), config=config, GATE_ADMIN_KEY="of-the-environment") as served:
        yield Keyed(served)


@pytest.mark.parametrize("old_key", ["revoked", "living"])
def test_rotated_api_key_charges_nothing_twice(keyed: Keyed, old_key: str) -> None:
    (name, before), (_, after) = keyed.key(), keyed.key()
    user, idempotency_key = fresh("user"), fresh("key")
    first = keyed.ask(before, idempotency_key, user=user)
    assert (first.status_code, first.json().get("replayed")) == (200, None)
    if old_key == "revoked":
        run_gate("keys", "revoke", name, cwd=keyed.served.folder)
    again = keyed.ask(after, idempotency_key, user=user)
    assert (again.status_code, again.json()) == (200, first.json() | {"replayed": True})
    assert keyed.charges(after, user) == [first.json()["job_id"]]
    release = {"lease_id": first.json()["lease"]["lease_id"], "outcome": "failed"}
    keyed.served.http.post(
        f"/v1/pools/wide/jobs/{first.json()['job_id']}/release", json=release, headers={"apikey": after}
    ).raise_for_status()
    over = keyed.ask(after, idempotency_key, user=user)
    assert (over.status_code, over.json()["code"], over.json()["job"]["refund"]["amount"]) == (409, "already_ended", 5)
    assert keyed.charges(after, user) == [first.json()["job_id"]]


def test_same_idempotency_key_of_another_request_is_another_job(keyed: Keyed) -> None:
    (_, one), (_, other) = keyed.key(), keyed.key()
    idempotency_key = fresh("key")
    first = keyed.ask(one, idempotency_key, user=fresh("user")).json()
    assert keyed.ask(other, idempotency_key, user=fresh("user")).json()["job_id"] != first["job_id"]
    free = [keyed.ask(key, idempotency_key + "-free", credits=None).json()["job_id"] for key in (one, other)]
    assert free[0] != free[1], "what was not charged is not charged twice"
    assert keyed.ask(one, idempotency_key, user=first["user"], credits=6).json()["code"] == "job_id_reused"


def test_job_id_of_an_idempotency_key_stays_as_it_was(keyed: Keyed) -> None:
    """Calls that were made before an upgrade may be repeated after it."""
    headers = {"apikey": "of-the-environment", "Idempotency-Key": "kept"}
    answer = keyed.served.http.post("/v1/pools/wide/acquire", json={}, headers=headers)
    assert answer.json()["job_id"] == "i64f7f45e3fbb733c2d97a8acbf271ab59f164a27"


async def test_repeat_under_another_id_while_the_first_is_recorded_is_the_first(house: House) -> None:
    """Both calls looked before either was recorded. SQL decides, under the lock of the pool's row."""
    first, second = f"{house.pool}-first", f"{house.pool}-second"
    looked = house.gate.services.admission._rows.jobs
    held = threading.Event()

    async def sees_nothing_yet(job_ids: Any) -> Any:
        return await looked(job_ids) if held.is_set() else {}

    house.gate.services.admission._rows.jobs = sees_nothing_yet  # type: ignore[method-assign]
    request = Request(first, user="ana", credits=5)
    one = await house.gate.services.admission.acquire(house.pool, request)
    repeat = request._replace(job_id=second, aliases=(first,))
    again = await house.gate.services.admission.acquire(house.pool, repeat)
    held.set()
    assert (again.job_id, again.lease_id, again.replayed) == (one.job_id, one.lease_id, True)
    assert await house.gate.services.ledger.job(second) is None
    assert house.people.zcard(house.key("slots")) == 1


async def test_user_is_not_busy_because_of_the_same_call_under_another_id(open_house: Any) -> None:
    async with open_house(max_active_per_user=1) as house:
        request = Request(f"{house.pool}-first", user="ana", credits=5)
        one = await house.gate.services.admission.acquire(house.pool, request)
        repeat = request._replace(job_id=f"{house.pool}-second", aliases=(one.job_id,))
        assert (await house.gate.services.admission.acquire(house.pool, repeat)).job_id == one.job_id
        with pytest.raises(UserBusy):
            await house.gate.services.admission.acquire(house.pool, repeat._replace(credits=6))
