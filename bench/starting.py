"""How soon `gate serve` is ready, with a data dir that it knows."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.servers import ENVIRONMENT


def run(folder: Path, rounds: int = 9) -> dict[str, list[float]]:
    """Seconds to the line that says so, and how long Python alone takes to say a line, by round. The first start is not counted."""
    folder.mkdir(parents=True, exist_ok=True)
    gate, python = [], []
    for number in range(rounds + 1):
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "gate", "serve", "--port", "0"], cwd=folder, env=ENVIRONMENT,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        assert process.stdout is not None and "ready" in process.stdout.readline()
        took = time.perf_counter() - began
        process.terminate()
        process.wait(20)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "print()"], env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
        if number:
            gate.append(took)
            python.append(time.perf_counter() - began)
    return {"ready_s": gate, "python_s": python}
