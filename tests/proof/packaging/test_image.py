"""What goes into the image and stands around it. `.ci/dockerfile` plays the Dockerfile itself."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gate.runtime.settings import Settings
from tests.support.paths import ROOT

CI = ROOT / ".ci"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CLIENT = "slotgate-client"
"""The distribution of the checkout, which no lock names."""
CLIENT_PROJECT = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]
SETTINGS = {f"GATE_{name.upper()}" for name in Settings.model_fields}


def pins(lock: Path) -> dict[str, str]:
    """Name to version; each line has to have a hash."""
    text = lock.read_text().replace("\\\n", "")
    requirements = [line for line in text.splitlines() if line and not line[0].isspace() and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in requirements)
    return {name_of(line): re.split(r"[ ;]", line.split("==")[1])[0] for line in requirements}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")


# ---- the image -------------------------------------------------------------------------------------------------


def test_the_image_has_the_versions_that_the_tests_had() -> None:
    tested = pins(ROOT / "tests" / "requirements.lock")
    shipped = pins(CI / "runtime.lock")
    assert {name: tested.get(name) for name in shipped} == shipped, "make them anew: .ci/lock"
    built_with = pins(CI / "build.lock")
    assert {name: version for name, version in built_with.items() if tested.get(name, version) != version} == {}


@pytest.mark.parametrize(
    "lock, extras", [("requirements", ["test"]), ("all", ["test", "test-all", "checks", "docs"]), ("daily", ["daily"])]
)
def test_each_lock_has_what_its_extras_ask_for_beside_the_versions_that_are_tested(lock: str, extras: list[str]) -> None:
    tested = pins(ROOT / "tests" / "requirements.lock")
    tools = pins(ROOT / "tests" / f"{lock}.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {name_of(one) for extra in extras for one in project["optional-dependencies"][extra]} - {"slotgate"}
    wanted |= {name_of(one) for one in project["dependencies"]} - {CLIENT}
    wanted |= {name_of(one) for one in CLIENT_PROJECT["dependencies"]}
    assert wanted <= tools.keys(), "make them anew: .ci/lock"
    assert {name: version for name, version in tools.items() if tested.get(name, version) != version} == {}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {name_of(one) for one in [*project["project"]["dependencies"], *CLIENT_PROJECT["dependencies"]]} - {CLIENT}
    assert wanted <= pins(CI / "runtime.lock").keys()
    assert {name_of(one) for one in project["build-system"]["requires"]} <= pins(CI / "build.lock").keys()
    assert "pytest" not in pins(CI / "runtime.lock")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    copied = {
        source
        for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in words.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in


def test_it_names_only_settings_that_exist() -> None:
    named = set(re.findall(r"\bGATE_[A-Z_]+", DOCKERFILE))
    assert named and named <= SETTINGS


def test_it_runs_as_an_unprivileged_user() -> None:
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER ([1-9]\d+):([1-9]\d+)$", last, flags=re.MULTILINE), (
        "a number, so that a cluster can see it is not root"
    )
    (command,) = re.findall(r"^CMD (.+)$", last, flags=re.MULTILINE)
    assert json.loads(command) == ["gate", "serve"], "no shell between a stop and gate"


# ---- compose ---------------------------------------------------------------------------------------------------


def test_the_services() -> None:
    assert {name: service["image"] for name, service in SERVICES.items()} == {
        "gate": "gate",
        "valkey": "valkey/valkey:9",
        "postgres": "postgres:17",
    }
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gate"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["gate"]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "build" in service or int(service["user"].split(":")[0]) > 0


def test_gate_is_told_where_its_stores_are_and_waits_for_them() -> None:
    gate = SERVICES["gate"]
    environment = gate["environment"]
    assert environment.keys() <= SETTINGS
    assert environment["GATE_ADMIN_KEY"].startswith("${GATE_ADMIN_KEY:?"), "nothing starts without a key"
    hosts = {
        re.split(r"[:/]", environment[name].split("//")[1].split("@")[-1])[0]
        for name in ("GATE_REDIS_URL", "GATE_DATABASE_URL")
    }
    assert hosts == gate["depends_on"].keys() == {"valkey", "postgres"}
    for name in hosts:
        assert gate["depends_on"][name] == {"condition": "service_healthy"}
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    volumes = [volume.split(":") for name in SERVICES for volume in SERVICES[name].get("volumes", [])]
    assert {name for name, _ in volumes} == COMPOSE["volumes"].keys()
    assert ["data", "/data"] in volumes


def test_valkey_never_evicts_and_keeps_nothing() -> None:
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {"--save": "", "--appendonly": "no", "--maxmemory-policy": "noeviction"}


def test_no_secret_stands_in_it() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "KEY" in name:
                assert value.startswith("${") and ":?" in value
