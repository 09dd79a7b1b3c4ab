"""What many idle pools cost: a restart, the commands and pages that look at all of them, and the CPU of a server that does nothing.

python -m bench.many_pools              # 500 pools, a minute
python -m bench.many_pools --pools 50
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import servers

IDLE_S = 20.0
"""Time (s) over which the CPU of an idle server is measured. Two sweeps of the reconciler fall into it."""
COMMANDS = ("status", "pools", "verify", "doctor")
PAGES = {"panel": "/", "GET /v1/pools": "/v1/pools", "/metrics": "/metrics"}


def run(folder: Path, pools: int = 500, idle_s: float = IDLE_S) -> dict[str, float]:
    """Measure a gate on SQLite and its embedded Valkey.

    Args:
        folder: Where the gate lives.
        pools: Number of pools beside `default`.
        idle_s: How long the idle server is watched (s).

    Returns:
        Seconds by what was done, and the CPU of the idle server and of its Valkey (% of a core).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gate.toml").write_text("".join(f"[pools.p{number:04}]\nlimit = 3\n" for number in range(pools)))
    with _serving(folder) as (_, took):
        found = {"first start": took}
    with _serving(folder) as (server, took):
        found["restart"] = took
        time.sleep(min(idle_s, 3))
        before = server.cpu_s()
        time.sleep(idle_s)
        found["idle CPU %"] = (server.cpu_s() - before) / idle_s * 100
        for command in COMMANDS:
            found[command] = _timed(lambda command=command: _gate(folder, command))
        for name, path in PAGES.items():
            found[name] = _timed(lambda path=path: _get(server.port, path))
        found["a second panel"] = _timed(lambda: _get(server.port, "/"))
    return found


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[tuple[servers.Server, float]]:
    port, began = servers.free_port(), time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "gate", "serve", "--port", str(port)], cwd=folder, env=servers.ENVIRONMENT,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    with servers.stopped(process):
        assert process.stdout is not None and "ready" in process.stdout.readline()
        yield servers.Server("gate", port, process), time.monotonic() - began


def _timed(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _gate(folder: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gate", command], cwd=folder, env=servers.ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _get(port: int, path: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"accept": "text/html, */*"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def main() -> None:
    reading = argparse.ArgumentParser(prog="python -m bench.many_pools", description=__doc__)
    reading.add_argument("--pools", type=int, default=500, help="number of pools (%(default)s)")
    reading.add_argument("--idle", type=float, default=IDLE_S, help="time over which idle CPU is measured, s (%(default)s)")
    asked = reading.parse_args()
    with tempfile.TemporaryDirectory(prefix="gate-bench-", ignore_cleanup_errors=True) as folder:
        for name, value in run(Path(folder), asked.pools, asked.idle).items():
            print(f"{name:16} {value:8.2f}{'' if name.endswith('%') else ' s'}")


if __name__ == "__main__":
    main()
