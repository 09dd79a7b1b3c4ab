"""What the panel, `gate explain` and the metrics say of a task that gate asks about, on a real gate."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.simulator import Simulator
from tests.proof.simulator.test_accounts import counting, start, two_keys
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def page(served: Served, job: dict[str, Any], language: str = "en") -> str:
    """Return the text of the job's page, its white space joined."""
    headers = {"accept": "text/html", "accept-language": language}
    said = httpx2.get(f"{served.url}/pools/default/jobs/{job['job_id']}", headers=headers)
    assert said.status_code == 200, said.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", said.text)).split())


def explained(served: Served, job: dict[str, Any]) -> str:
    return " ".join(run_gate("explain", job["job_id"], cwd=served.folder).stdout.split())


async def heard(served: Served, job: dict[str, Any], state: str) -> None:
    """Let gate ask now, and wait until the job shows this state."""
    path = f"/v1/pools/default/jobs/{job['job_id']}"
    served.http.post(f"{path}/ask")
    await until(lambda: served.http.get(path).json()["task"]["state"] == state, f"its state is {state}")


async def test_the_last_answer_and_then_silence_are_told_in_words(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            job = start(served, simulator)
            await heard(served, job, "running")
            assert re.search(r"Account first Provider asked [\d:]+ ago: running Questions \d", page(served, job))
            assert re.search(r"Provedor consultado há [\d:]+ : em execução", page(served, job, "pt-BR"))
            assert re.search(
                r"on account first \d+ times?: \d+ s ago the provider said that it is running\.", explained(served, job)
            )
            simulator.control(away_s=60)
            await heard(served, job, "silent")
            assert re.search(r"Provider no answer for [\d:]+ Questions \d", page(served, job))
            assert re.search(r"Provedor sem resposta há [\d:]+", page(served, job, "pt-BR"))
            assert re.search(r"times: no answer for \d+ s, since [\d:]+\.", explained(served, job))


async def test_a_stop_is_told_while_it_is_owed_and_once_it_is_confirmed(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3, drain_seconds=60) as served:
            job = start(served, simulator, deaf=True)
            assert "Stop stopping" not in page(served, job)
            told = json.loads(run_gate("explain", job["job_id"], "--json", cwd=served.folder).stdout)["job"]["task"]
            assert told == served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()["task"] and told["stop"] is None
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel")
            assert "Stop stopping at the provider" in page(served, job)
            assert "Parada parando no provedor" in page(served, job, "pt-BR")
            assert "Its task is being stopped at the provider." in explained(served, job)
            other = start(served, simulator)
            served.http.post(f"/v1/pools/default/jobs/{other['job_id']}/cancel")
            await until(lambda: "Stop confirmed by the provider" in page(served, other), "the provider has stopped it")
            said = explained(served, other)
            assert "The provider has confirmed that its task is over." in said
            assert "answer to a question about task " in said and "callback" not in said, "no callback came"
            assert "the answer to a question of gate" in page(served, other)
            assert "a resposta a uma pergunta do gate" in page(served, other, "pt-BR")


async def test_a_job_that_gate_does_not_ask_about_says_nothing_of_questions(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator, counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
        job = served.acquire(job_id=fresh()).json()
        assert "Questions" not in page(served, job) and "has asked about it" not in explained(served, job)


def figure(served: Served, name: str) -> float:
    """Return the value of one line of the metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", served.http.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


async def test_questions_extensions_and_stops_are_counted_from_0(tmp_path: Path) -> None:
    about = 'provider="runninghub"'
    names = [f"gate_question_seconds_count{{{about}}}", f"gate_question_extensions_total{{{about}}}"]
    names += [f'gate_stops_total{{{about},result="{word}"}}' for word in ("confirmed", "given_up")]
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3, more="lease_seconds = 4") as served:
            assert [figure(served, name) for name in names] == [0, 0, 0, 0]
            gone = start(served, simulator)
            await until(lambda: figure(served, names[1]) > 0, "its lease was extended", 20)
            served.http.post(f"/v1/pools/default/jobs/{gone['job_id']}/cancel")
            await until(lambda: figure(served, names[2]) == 1, "its stop is confirmed", 20)
            assert figure(served, names[0]) > 0
            deaf = start(served, simulator, deaf=True)
            served.http.post(f"/v1/pools/default/jobs/{deaf['job_id']}/cancel")
            served.sql("update @tasks set stop_at = stop_at - 600000 where stop = 'owed'")  # its ten minutes are over
            await until(lambda: figure(served, names[3]) == 1, "the next stop was the last one", 40)
            assert "given up: stop the task at the provider, for" in overview(served)
            assert "its slot was given away" in overview(served)
            assert "given away given up: stop the task at the provider" in status(served)


async def test_ends_are_counted_by_what_told_of_them_and_a_missing_callback_is_one(tmp_path: Path) -> None:
    asked, called = (f'gate_{by}_ends_total{{provider="runninghub",result="ended"}}' for by in ("question", "callback"))
    missing = 'gate_callbacks_missing_total{provider="runninghub"}'
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            assert [figure(served, name) for name in (asked, called, missing)] == [0, 0, 0]
            job = start(served, simulator, seconds=0.1)
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
            await until(lambda: figure(served, asked) == 1, "a question has found the end")
            assert [figure(served, name) for name in (called, missing)] == [0, 1]
            other = start(served, simulator)
            body = {"event": "TASK_END", "taskId": look_up(served, other), "eventData": '{"code": 0, "data": []}'}
            served.http.post("/v1/webhooks/runninghub/default", params={"token": "t0ken-of-the-test"}, json=body)
            assert [figure(served, name) for name in (asked, called, missing)] == [1, 1, 1]


def look_up(served: Served, job: dict[str, Any]) -> str:
    """Return the task of a job."""
    found: str = served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()["task"]["task_id"]
    return found


def overview(served: Served, language: str = "en") -> str:
    """Return the text of the pool's page, its white space joined."""
    headers = {"accept": "text/html", "accept-language": language}
    said = httpx2.get(f"{served.url}/pools/default", headers=headers)
    assert said.status_code == 200, said.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", said.text)).split())


def status(served: Served, *flags: str) -> str:
    return " ".join(run_gate("status", *flags, cwd=served.folder).stdout.split())


async def test_a_draining_slot_is_listed_with_its_task_and_its_latest_end(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3, drain_seconds=60) as served:
            job = start(served, simulator, deaf=True)
            task = look_up(served, job)
            assert "stopping at the provider" not in overview(served) and "have to be stopped" not in status(served)
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel")
            listed = rf"{job['job_id']} Task {task} Account first "
            said = overview(served)
            assert re.search(
                listed + r"stopping at the provider, for [\d:]+ ; its slot is free in [\d:]+ at the latest", said
            ), said
            said = overview(served, "pt-BR")
            assert re.search(r"parando no provedor, há [\d:]+ ; sua vaga fica livre em [\d:]+ no máximo", said), said
            said = status(served)
            assert re.search(
                rf"{job['job_id']} runninghub first {task} .* free in \d+ (?:s|min) at the latest being stopped", said
            ), said
            told = json.loads(status(served, "--json"))["stopping"]
            assert [(one["task_id"], one["stop"], one["until"] > one["since"]) for one in told] == [(task, "owed", True)]


async def test_the_terminal_says_what_the_provider_said_last(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            job = start(served, simulator)
            await heard(served, job, "running")
            said = status(served)
            assert re.search(rf"{job['job_id']} running .* asked \d+ s ago: running", said), said
            assert re.search(r"default runninghub first 3 \d \d", said), said
            asked = run_gate("ask", job["job_id"], cwd=served.folder).stdout
            assert re.search(r"task state\s+asked \d+ s ago: running", asked), asked
            names = {"provider", "task_id", "account", "state", "heard_at", "questions", "stop"}
            for command in ("ask", "explain"):
                told = json.loads(run_gate(command, job["job_id"], "--json", cwd=served.folder).stdout)
                task = told.get("job", told)["task"]
                assert set(task) == names and (task["account"], task["state"]) == ("first", "running")
