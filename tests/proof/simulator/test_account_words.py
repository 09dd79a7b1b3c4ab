"""What the page of a pool says of its accounts and of its limit in force, on a real gate."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx2
import pytest

from gate.simulator import Simulator
from tests.proof.simulator.test_accounts import KEYS, account, counting, pool, start, two_keys
from tests.support.gate_process import Served
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def page(served: Served, language: str = "en", path: str = "") -> str:
    """Return the text of the pool's page, its white space joined."""
    headers = {"accept": "text/html", "accept-language": language}
    said = httpx2.get(f"{served.url}/pools/default{path}", headers=headers)
    assert said.status_code == 200, said.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", said.text)).split())


async def test_the_page_lists_the_accounts_and_says_that_the_provider_is_full(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        simulator.control(keys={KEYS["first"]: {"limit": 3, "strangers": 1}})
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            assert "Accounts first runninghub open 0 of 3 running" in page(served) and "in force:" not in page(served)
            start(served, simulator)
            await until(lambda: pool(served)["limit_in_force"] == 2, "two counts have shown the stranger", 40)
            said = page(served)
            assert "Accounts first runninghub open 1 of 2 running, tasks of others: 1" in said
            assert "2 of 3 slots in force: the provider is full" in said
            said = page(served, "pt-BR")
            assert "Contas first runninghub aberta 1 de 2 em execução, tarefas de outros: 1" in said
            assert "2 de 3 vagas em vigor: o provedor está cheio" in said


async def test_the_page_shows_why_an_account_is_down(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6, capacity="off") as served:
            job = start(served, simulator)
            simulator.control(keys={KEYS["first"]: {"code": 802}})
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
            await until(lambda: account(served, "first")["state"] == "down", "a question was answered so")
            why, said = account(served, "first")["why"], page(served)
            assert re.search(rf"first runninghub down 1 running {re.escape(why)} second runninghub open", said), said
            assert re.search(r"\d of 6 slots in force: an account is down", said), said
            assert "the room of the accounts has changed limit in force 4 of 6" in said and "None" not in said
            said = page(served, "pt-BR")
            assert "as vagas das contas mudaram limit in force 4 of 6" in said and "None" not in said
            assert re.search(r"first runninghub fora do ar .* second runninghub aberta", said), said
            assert re.search(r"\d de 6 vagas em vigor: uma conta está fora do ar", said), said
            assert KEYS["first"] not in said


async def test_the_page_says_that_an_account_cools_down(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6, more="cooldown_seconds = 60") as served:
            job = served.acquire().json()
            served.act(job, "release", outcome="refused")
            await until(lambda: account(served, "first")["state"] == "cooling", "the refusal is recorded")
            assert "first runninghub cooling down after a refusal" in page(served)
            assert "3 of 6 slots in force: an account cools down after a refusal" in page(served)
            assert "3 de 6 vagas em vigor: uma conta está em resfriamento após uma recusa" in page(served, "pt-BR")


async def test_the_form_of_the_limit_shows_the_limit_and_not_what_is_in_force(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 1, "second": 1}, limit=6) as served:
            await until(lambda: pool(served)["limit_in_force"] == 2, "the accounts take two tasks")
            form = httpx2.get(f"{served.url}/pools/default/do/limit", headers={"accept": "text/html"}).text
            field = re.search(r'<input[^>]*name="limit"[^>]*>', form)
            assert field and 'value="6"' in field[0], form


async def test_the_page_of_a_pool_without_accounts_has_no_list_of_them(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert "Accounts" not in page(served) and "in force:" not in page(served)
