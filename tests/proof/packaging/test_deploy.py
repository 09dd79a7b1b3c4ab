"""deploy/: the unit is read by systemd, nginx reads its file, and Compose names only what exists."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gate.runtime.graceful_stop import STOP_S
from gate.runtime.settings import SHUTDOWN_DELAY_S, Settings
from tests.support.needs import missing
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "gate.service"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GATES = ["gate-1", "gate-2", "gate-3"]
SETTINGS = {f"GATE_{name.upper()}" for name in Settings.model_fields}
PATHS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
EXPOSED_MAX = 25
"""Highest exposure of the unit, ten times what `systemd-analyze security` says. Without its limits it is 92."""


def program(name: str) -> str:
    found = shutil.which(name, path=PATHS)
    if found is None:
        missing(f"{name} reads the file")
    assert found is not None
    return found


# ---- systemd ---------------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    analyze, unit = program("systemd-analyze"), tmp_path / "gate.service"
    unit.write_text(UNIT.read_text().replace("/opt/gate/bin/gate", sys.executable))
    read = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False)
    assert "gate.service" not in read.stderr, read.stderr
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSED_MAX}", "--no-pager", unit]
    rated = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert rated.returncode == 0, rated.stdout[-2000:] + rated.stderr


def test_the_unit_gives_a_stop_its_time() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > SHUTDOWN_DELAY_S + STOP_S
    assert service["KillMode"] == "mixed" and service["ExecStart"].endswith("/gate serve")
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"


# ---- Compose ---------------------------------------------------------------------------------------------------


def test_three_gates_share_their_stores_and_wait_for_them() -> None:
    for name in GATES:
        gate = SERVICES[name]
        assert gate == SERVICES["gate-1"] and gate["environment"].keys() <= SETTINGS
        assert int(gate["stop_grace_period"].removesuffix("s")) > SHUTDOWN_DELAY_S + STOP_S
        named = re.split(r"[@/,:]", gate["environment"]["GATE_REDIS_URL"])
        sentinels = {one for one in SERVICES if one.startswith("sentinel-")}
        assert sentinels <= set(named) and sentinels | {"postgres"} == gate["depends_on"].keys()
        assert all(depends == {"condition": "service_healthy"} for depends in gate["depends_on"].values())
    assert set(GATES) == SERVICES["nginx"]["depends_on"].keys()
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["nginx"]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_closed_and_names_no_secret(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "build" in service or int(service["user"].split(":")[0]) > 0
    for variable, value in service.get("environment", {}).items():
        if "PASSWORD" in variable or "KEY" in variable or "AUTH" in variable:
            assert value.startswith("${") and ":?" in value


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    text = (DEPLOY / "compose" / "nginx.conf").read_text()
    assert re.findall(r"server (\S+):8000;", text) == GATES
    file = tmp_path / "nginx.conf"
    file.write_text(re.sub(r"gate-\d:8000", "127.0.0.1:8000", text).replace("/tmp/", f"{tmp_path}/"))
    command = [program("nginx"), "-t", "-e", f"{tmp_path}/early.log", "-p", str(tmp_path), "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr
