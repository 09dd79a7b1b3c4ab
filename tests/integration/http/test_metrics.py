"""`/metrics` of a real gate: what it says, what it never says, and that it is answered when a store is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.paths import ROOT
from tests.support.routes import TABLE
from tests.support.wait import until

pytestmark = pytest.mark.anyio
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(served: Served) -> Figures:
    answer = served.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def get(figures: Figures, name: str, **labels: str) -> float:
    """Of the one that has these labels, among others."""
    (found,) = [value for (known, has), value in figures.items() if known == name and labels.items() <= set(has)]
    return found


def test_what_happened_is_what_it_says(served: Served) -> None:
    before = read(served)
    jobs = [served.acquire("small", job_id=fresh(), credits=5).json() for _ in range(2)]
    now = read(served)
    for name, value in (("running", 1), ("granted", 0), ("free", 0), ("limit", 1)):
        assert get(now, f"gate_slots_{name}", pool="small") == value
    assert get(now, "gate_queue_length", pool="small") == 1 == get(now, "gate_queue_max", pool="small")
    assert get(now, "gate_lease_oldest_seconds", pool="small") > 0 < get(now, "gate_queue_oldest_seconds", pool="small")
    assert served.acquire("small", job_id=fresh()).status_code == 429
    served.act(jobs[0], "release", outcome="failed")
    served.act(jobs[1], "cancel")
    after = read(served)

    def more(name: str, **labels: str) -> float:
        return get(after, name, **labels) - get(before, name, **labels)

    assert more("gate_jobs_ended_total", pool="small", outcome="failed", cause="holder") == 1
    assert more("gate_jobs_ended_total", pool="small", outcome="cancelled", cause="operator") == 1
    assert (more("gate_refunds_total", pool="small"), more("gate_refunds_credits_total", pool="small")) == (2, 10)
    acquire = {"method": "POST", "route": "/v1/pools/{pool}/acquire"}
    assert more("gate_http_answers_total", status="2xx", **acquire) == 2
    assert more("gate_http_answers_total", status="4xx", **acquire) == 1
    assert more("gate_hold_seconds_count", pool="small") in (1, 2), "the second may have been granted before its end"
    assert get(after, "gate_script_seconds_count", verb="acquire") >= 3
    assert get(after, "gate_commit_requests_sum") >= get(after, "gate_commit_requests_count") > 4
    assert get(after, "gate_store_up", store="redis") == get(after, "gate_store_up", store="sql") == 1


def test_labels_are_of_fixed_sets(served: Served) -> None:
    """No request can create a series, because each series costs memory in Prometheus."""
    marked = fresh("mark")
    job = served.acquire(job_id=marked, user=marked, tool=marked, session=marked).json()
    served.act(job, "cancel", reason=marked)
    before = set(read(served))
    for path in (
        f"/{marked}",
        f"/v1/pools/{marked}/acquire",
        f"/v1/pools/default/jobs/{marked}x/claim",
        f"/v1/{marked}/acquire",
    ):
        assert served.post(path, {"lease_id": "x"}).status_code in (404, 422)
        for method in ("DELETE", "HEAD", "PROPFIND"):
            assert served.http.request(method, path).status_code in (404, 405)
    assert served.http.request("DELETE", "/v1/ledger").status_code == 405
    served.http.get(f"/v1/users/{marked}/active")
    read(served)
    text = served.http.get("/metrics").text
    assert marked not in text
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert routes <= {path for _, path in TABLE} | {"other"}
    assert set(re.findall(r'method="([^"]*)"', text)) <= {method for method, _ in TABLE} | {"other"}
    new = {name for name, labels in set(read(served)) - before if "route" not in dict(labels)}
    assert {name.rpartition("_")[0] for name in new} <= {"gate_script_seconds"}, "of verbs that were not asked for before"


def test_either_form_is_well_formed(served: Served) -> None:
    plain = served.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    asked = {"accept": "application/openmetrics-text; version=1.0.0"}
    opened = served.http.get("/metrics", headers=asked)
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name for family in openmetrics.text_string_to_metric_families(opened.text)}
    assert families == {family.name.removesuffix("_total") for family in text_string_to_metric_families(plain.text)}
    for family in text_string_to_metric_families(plain.text):
        assert family.documentation and re.fullmatch(r"(gate|process)_[a-z_]+", family.name)
        assert "_ms" not in family.name and "milli" not in family.name


async def test_a_store_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as own:
        own.act(own.acquire(job_id="j", credits=2).json(), "release", outcome="failed")
        whole = read(own)
        file = tmp_path / ".gate" / "gate.db"
        file.rename(file.with_suffix(".away"))
        try:
            now = read(own)
            assert get(now, "gate_store_up", store="sql") == 0 and get(now, "gate_store_up", store="redis") == 1
            assert get(now, "gate_slots_free", pool="default") == 3
            assert not [name for name, _ in now if name.startswith(("gate_refunds_owed", "gate_queue_max"))]
            assert get(now, "gate_refunds_total", pool="default") == 1, "a counter stays what it was"
        finally:
            file.with_suffix(".away").rename(file)
        with redis.Redis.from_url(own.redis_url) as client:
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            now = read(own)
            assert get(now, "gate_store_up", store="redis") == 0 and get(now, "gate_store_up", store="sql") == 1
            assert not [name for name, _ in now if name.startswith(("gate_slots", "gate_queue_length", "gate_outbox"))]
            assert get(now, "gate_queue_max", pool="default") == 1000
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: set(whole) <= set(read(own)), "everything is there again")


def test_prometheus_is_not_imported_before_the_first_scrape() -> None:
    """In a process of its own, as `gate serve` imports them: the library takes longer than all of its start may."""
    say = "import sys, gate.runtime.serve, gate.http.app, gate.runtime.wiring; print([n for n in sys.modules if 'prometheus' in n])"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
