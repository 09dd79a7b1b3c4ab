"""Whose price counts for the owner's money: that of the owner's function, and that of a caller with a tool key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.proof.billing.shop import TABLE, Shop, look
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio
ADMIN = "the-admin-key"


@pytest.fixture(scope="module")
def running(serve: Callable[..., Served]) -> Iterator[Served]:
    with serve(GATE_ADMIN_KEY=ADMIN) as served:
        served.http.headers["apikey"] = ADMIN
        yield served


@pytest.fixture(scope="module")
def tool_key(running: Served, shop: Shop) -> str:
    made = run_gate("keys", "create", "shop", "--role", "tool", "--json", cwd=running.folder, GATE_DATABASE_URL=shop.url)
    return json.loads(made.stdout)["key"]


@pytest.mark.parametrize(
    "role, priced, by_the_owner",
    [("tool", False, True), ("admin", False, False), ("tool", True, True), ("admin", True, True)],
)
async def test_the_owner_pays_its_own_price_or_the_charge_of_a_tool_key(
    served: Served, shop: Shop, tool_key: str, role: str, priced: bool, by_the_owner: bool
) -> None:
    job_id = shop.sells() if priced else fresh()
    shown = {"apikey": tool_key if role == "tool" else ADMIN}
    body = {"job_id": job_id, "user": "ana", "credits": 7} | ({"tool": TABLE} if priced else {})

    def ask(path: str, body: dict[str, object]) -> object:
        answer = served.http.post(f"/v1/pools/default/{path}", json=body, headers=shown)
        return answer.json() if answer.status_code == 200 else None

    await until(lambda: ask("acquire", body), "the key counts, and the job runs")
    assert ask(f"jobs/{job_id}/cancel", {})
    refund = await until(lambda: (r := look(served, job_id)["refund"]) and not r["owed"] and r, "it is paid")
    assert refund["amount"] == 7 and shop.booked(job_id) == [7]
    assert shop.paid(job_id) == ([7] if by_the_owner else [])
