"""The client's distribution, alone beside an application whose versions the server does not take, and beside the server's."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gate.client.version import VERSION
from tests.support.gate_process import Served
from tests.support.pages import blocks
from tests.support.paths import ROOT

APPLICATION = ("sqlalchemy==2.0.*", "pydantic==2.11.*")
WORK = """
import sys, gate.client
import pydantic, sqlalchemy
assert sqlalchemy.__version__.startswith("2.0.") and pydantic.VERSION.startswith("2.11.")
with gate.client.Gate(sys.argv[1]) as client, client.slot(job_id="fox", user="eva", credits=3) as lease:
    lease.complete({"url": "fox.png"})
print(lease.job.status, gate.client.__file__)
"""


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=150,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(cwd)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(source: Path, folder: Path) -> Path:
    words = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    run(*words, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT / "clients" / "python", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def application(client_wheel: Path) -> Path:
    """The Python of an environment that has the client and the application's packages, and nothing else."""
    folder = client_wheel.parent
    run(sys.executable, "-m", "venv", "--without-pip", "application", cwd=folder)
    python = folder / "application" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-compile", client_wheel, *APPLICATION, cwd=folder)
    run(*pip, "check", cwd=folder)
    return python


def test_client_alone_takes_a_slot_beside_sqlalchemy_2_0_and_pydantic_2_11(application: Path, tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        status, file = run(application, "-c", WORK, server.url, cwd=tmp_path).split()
    assert status == "completed" and Path(file).is_relative_to(application.parent.parent)


def test_python_examples_of_the_pages_pass_strict_type_checks(application: Path, tmp_path: Path) -> None:
    for page in ("README.md", "docs/tour.md", "clients/python/README.md"):
        (text,) = (text for language, text in blocks(ROOT / page) if language == "python")
        (tmp_path / f"{page.replace('/', '_').removesuffix('.md').lower()}.py").write_text(text)
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    tools = Path(sys.executable).parent
    run(tools / "mypy", "--strict", "--python-executable", application, *files, cwd=tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard", "reportPossiblyUnbound": "error"}')
    run(tools / "pyright", "--pythonpath", application, *files, cwd=tmp_path)


def test_no_file_belongs_to_both_distributions(tmp_path: Path) -> None:
    run(ROOT / ".ci" / "wheels", tmp_path, cwd=tmp_path)
    server_wheel, client_wheel = sorted(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(client_wheel) as client, zipfile.ZipFile(server_wheel) as server:
        assert not set(client.namelist()) & set(server.namelist())
        code = {name for name in client.namelist() if ".dist-info/" not in name}
        (metadata,) = (server.read(name).decode() for name in server.namelist() if name.endswith(".dist-info/METADATA"))
    assert code == {str(path.relative_to(ROOT)) for path in (ROOT / "gate" / "client").iterdir() if path.is_file()}
    assert f"Requires-Dist: slotgate-client=={VERSION}\n" in metadata, "a wheel for an index names no folder of this machine"


def test_server_of_a_checkout_depends_on_the_client_of_the_checkout(tmp_path: Path) -> None:
    with zipfile.ZipFile(built(ROOT, tmp_path)) as server:
        (metadata,) = (server.read(name).decode() for name in server.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"Requires-Dist: slotgate-client @ {(ROOT / 'clients' / 'python').as_uri()}\n" in metadata
