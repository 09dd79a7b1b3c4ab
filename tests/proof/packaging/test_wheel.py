"""The wheel, away from the checkout: it holds all that gate needs beside its dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gate import __version__
from tests.support.gate_process import gate_environment
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of a copy of the tree: a build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("gate", "lua"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=copy)
    (made,) = (copy / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only folder that has gate; its dependencies are where they are for these tests too."""
    folder = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def _pip(*words: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _gate(installed: Path, folder: Path, *words: str) -> str:
    done = subprocess.run(
        _command(installed, *words), cwd=folder, env=_environment(installed), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _command(installed: Path, *words: str) -> list[str]:
    return [sys.executable, str(installed / "bin" / "gate"), *words]


def _environment(installed: Path) -> dict[str, str]:
    return gate_environment(PYTHONPATH=str(installed))


@pytest.fixture
def served(installed: Path, tmp_path: Path) -> Iterator[str]:
    """The address of `gate serve`, started where nothing of the checkout is."""
    with subprocess.Popen(
        _command(installed, "serve", "--port", "0"), cwd=tmp_path, env=_environment(installed), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        assert "ready" in said, said + process.stderr.read()
        yield process.stdout.readline().split()[1]
        process.terminate()
        assert process.wait(20) == 0


def test_it_is_that_gate_and_no_other(installed: Path, tmp_path: Path) -> None:
    script = "import gate, gate.slots.scripts as s; print(gate.__file__, s.FOLDER)"
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=_environment(installed), capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [str(installed / "gate" / "__init__.py"), str(installed / "gate" / "lua")]
    assert _gate(installed, tmp_path, "--version").strip().endswith(__version__)


def test_it_serves(installed: Path, served: str, tmp_path: Path) -> None:
    with httpx2.Client(base_url=served) as client:
        job = client.post("/v1/pools/default/acquire", json={"job_id": "a", "user": "ana"}).json()
        assert job["status"] == "running"
        assert client.get("/openapi.json").json()["info"]["version"] == __version__
        assert client.get("/docs").status_code == 200
    assert '"a"' in _gate(installed, tmp_path, "jobs", "--json")
    assert "clean" in _gate(installed, tmp_path, "verify")


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    """What is no code is forgotten first: scripts, migrations, pages."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {f"gate/{path.relative_to(ROOT)}" for path in (ROOT / "lua").iterdir()}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "gate").rglob("*") if path.is_file()}
    of_the_client = {name for name in wanted if name.startswith("gate/client/")}
    assert inside == {name for name in wanted - of_the_client if "__pycache__" not in name}
