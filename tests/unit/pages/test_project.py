"""What a project has beside its code: the workflow runs what counts on every Python that gate is for; the pages name what is there."""

from __future__ import annotations

import os
import re
import tomllib

import yaml

import gate
from gate.client.version import VERSION
from tests.support.pages import blocks
from tests.support.paths import ROOT

WORKFLOW = ROOT / ".github/workflows/ci.yml"
CI = ROOT / ".ci/run"


def test_the_workflow_runs_what_counts_where_it_can_run() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert {"push", "pull_request"} == workflow[True].keys()  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(CI, os.X_OK)
    assert "apt-get install" in CI.read_text() and "sudo" not in CI.read_text()
    assert job["container"] == "python:${{ matrix.python }}-bookworm"  # Debian, and root: what .ci/run wants


def test_the_workflow_has_every_python_from_the_oldest_on() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    minors = [int(one.removeprefix("3.")) for one in pythons]
    assert oldest == f">={pythons[0]}" and minors == list(range(minors[0], minors[0] + len(minors)))
    image = re.search(r"^FROM python:(\S+)-slim", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert image is not None and image[1] in pythons


def test_both_distributions_have_the_version_of_the_code() -> None:
    projects = [
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in (".", "clients/python")
    ]
    assert [project["version"] for project in projects] == [gate.__version__, VERSION] == [VERSION, VERSION]


def test_the_licence_of_the_client_is_that_of_the_project() -> None:
    assert (ROOT / "clients" / "python" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_contributing_gives_the_commands_that_count() -> None:
    text = "\n".join(text.strip() for language, text in blocks(ROOT / "CONTRIBUTING.md") if language == "sh")
    counted = "".join(
        (ROOT / name).read_text() for name in (".ci/run", "README.md", "justfile", "docs/how-it-is-built.md")
    ).replace("{{python}}", ".venv/bin/python")
    for command in re.split(r"\n| && ", re.sub(r" +#.*", "", text).strip()):
        assert command in counted, command
