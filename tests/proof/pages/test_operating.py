"""docs/operating.md: its unit is read by systemd, its proxy stands before a gate, its commands are played, its findings are all there are."""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gate.diagnostics import doctor, outages, provider_findings, replication_findings, server_findings
from gate.model.limits import BODY_MAX_BYTES, QUEUE_MAX, WAIT_MAX_S
from gate.providers.standard import STALE_S
from gate.runtime.graceful_stop import GRACE_S, STOP_S
from tests.support.gate_process import Served, run_gate
from tests.support.needs import missing
from tests.support.pages import block, needs_tools, play, prose, rows
from tests.support.paths import ROOT
from tests.support.servers import free_port
from tests.support.wait import until

PAGE = ROOT / "docs" / "operating.md"
PATHS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
EVERYTHING = "GATE_TEST_EVERYTHING" in os.environ


@needs_tools
def test_its_commands_can_be_played(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        play(PAGE, served, tmp_path)


# ---- the unit --------------------------------------------------------------------------------------------------


def test_the_unit_gives_gate_the_time_and_the_place_it_needs() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block(PAGE, "ini"))
    service = unit["Service"]
    assert service["ExecStart"].endswith("/gate serve") and service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > STOP_S
    assert service["ProtectSystem"] == "strict" and service["ReadWritePaths"] == service["WorkingDirectory"]
    assert f"{GRACE_S} s at most, and after {STOP_S:g} s it is forced" in prose(PAGE)
    said = block(PAGE, "sh")
    assert service["WorkingDirectory"] in said and str(Path(service["ExecStart"].split()[0]).parents[1]) in said


@pytest.mark.skipif(not EVERYTHING and shutil.which("systemd-analyze") is None, reason="systemd-analyze reads it")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "gate.service"
    unit.write_text(block(PAGE, "ini").replace("/opt/gate/bin/gate", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "gate.service" not in done.stderr, done.stderr


# ---- the proxy -------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A gate, and the address of an nginx before it, as the page has it but for TLS."""
    program = shutil.which("nginx", path=PATHS)
    if program is None:
        missing("nginx stands before it")
    assert program is not None
    folder = tmp_path_factory.mktemp("behind")
    with Served(folder, on_defaults=True) as served:
        port = free_port()
        config = re.sub(r" *ssl_.*\n", "", block(PAGE, "nginx"))
        changed = {
            "listen 443 ssl": f"listen 127.0.0.1:{port}",
            "127.0.0.1:8000": served.url.removeprefix("http://"),
            "/var/log/nginx": str(folder),
        }
        for as_it_stands, here in changed.items():
            assert as_it_stands in config
            config = config.replace(as_it_stands, here)
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = folder / "nginx.conf"
        whose = "user root;" if os.geteuid() == 0 else ""
        file.write_text(
            f"{whose} pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; events {{}}\nhttp {{ {temporary}\n{config} }}\n"
        )
        command = [program, "-e", f"{folder}/early.log", "-p", str(folder), "-c", str(file)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30, check=False)
        assert checked.returncode == 0, checked.stderr
        proxy = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx2.Client(transport=httpx2.HTTPTransport(retries=8)) as client:
                assert client.get(f"{url}/readyz").status_code == 200
            yield served, url
        finally:
            proxy.terminate()
            proxy.wait(20)


def test_while_no_key_exists_a_wrong_key_opens_nothing(behind: tuple[Served, str]) -> None:
    served, url = behind
    assert served.http.get("/v1/pools").status_code == 200
    assert httpx2.get(f"{url}/v1/pools").status_code == 401


def test_events_come_through_it_one_by_one(behind: tuple[Served, str]) -> None:
    served, url = behind
    job = served.acquire(job_id="behind-1").json()
    made = run_gate("keys", "create", "behind", "--role", "tool", cwd=served.folder)
    key = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with httpx2.Client(base_url=url, headers=key, timeout=20, transport=httpx2.HTTPTransport(retries=2)) as client:
        asyncio.run(until(lambda: client.get("/v1/pools").status_code == 200, "the key counts"))
        with client.stream("GET", "/v1/pools/default/jobs/behind-1/events") as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("data: "))
            assert '"running"' in next(lines)  # and only now what comes next is made
            path = "/v1/pools/default/jobs/behind-1/release"
            client.post(path, json={"lease_id": job["lease"]["lease_id"], "outcome": "completed"}).raise_for_status()
            assert '"completed"' in next(lines)
        answer = client.post("/v1/pools/default/acquire", json={"session": "x" * BODY_MAX_BYTES})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_no_query_is_in_its_log(behind: tuple[Served, str]) -> None:
    served, url = behind
    assert httpx2.post(f"{url}/v1/webhooks/runninghub/default?token=hidden-one", json={}).status_code == 401
    log = served.folder / "gate.log"
    # nginx writes its line when it has answered already.
    asyncio.run(until(lambda: "/v1/webhooks/runninghub/default" in log.read_text(), "its line is there"))
    assert "hidden-one" not in log.read_text()


# ---- what it says ----------------------------------------------------------------------------------------------


def test_every_finding_of_the_doctor_is_in_the_table() -> None:
    said = {re.sub(r"\W", "", name) for name, *_ in rows(PAGE, "finding")}
    assert doctor.__doc__ is not None
    assert said == set(re.findall(r"^(\w+)  +\w", doctor.__doc__, flags=re.MULTILINE))
    found = {
        node.args[0].value
        for module in (doctor, provider_findings, replication_findings, server_findings)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == doctor.Diagnosis.__name__
        and isinstance(node.args[0], ast.Constant)
    }
    found |= set(re.findall(r"`(\w+)`", (outages.Outage.__doc__ or "").partition("what:")[2].splitlines()[0]))
    assert said == found


def test_every_kind_of_drift_is_in_the_table() -> None:
    assert {says for says, _ in rows(PAGE, "message", "cause")} == set(doctor.DRIFT.values())


def test_its_numbers_are_those_of_the_code() -> None:
    text = prose(PAGE)
    (reads_for,) = re.findall(r"proxy_read_timeout (\d+)s;", block(PAGE, "nginx"))
    assert int(reads_for) > WAIT_MAX_S == 60
    assert f"above {BODY_MAX_BYTES // 1024} KiB" in text and f"({QUEUE_MAX:,} at most)" in text
    assert STALE_S == 5 * 60 and "more than 5 minutes away" in text
    assert doctor.SKEW_MS == 1000 and "more than a second apart" in text
