"""Environments of their own for what does not live beside gate: peers with other versions of the same libraries, and the plots.

Each is made on first use from its lock, under .bench/; another lock is another environment.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.progress import say

FOLDER = Path(__file__).parent
KEPT = FOLDER.parent.parent / ".bench"


class NotMade(Exception):
    """It could not be installed; whatever needs it is left out."""


def where(name: str) -> Path:
    """The folder of the environment, made or not."""
    digest = hashlib.sha256((FOLDER / f"{name}.lock").read_bytes()).hexdigest()[:8]
    return KEPT / f"{name}-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"


def is_made(name: str) -> bool:
    return (where(name) / "made").exists()


def python(name: str) -> str:
    """Its interpreter. Raises NotMade."""
    folder = where(name)
    program = folder / "bin" / "python"
    if not is_made(name):
        say(f"making the environment of {name} …")
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(program), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(FOLDER / f"{name}.lock"))
        (folder / "made").touch()
    return str(program)


def version(name: str, package: str) -> str:
    """Of what its lock pins."""
    for line in (FOLDER / f"{name}.lock").read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.split()[0].partition("==")[2]
    raise KeyError(package)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise NotMade((done.stderr.strip().splitlines() or ["no reason given"])[-1])
