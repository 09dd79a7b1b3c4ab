"""Prefect 3's own server, whose global concurrency limits have leases: `increment-with-lease`, then `decrement-with-lease`.

As its pages say for production, and where they leave a choice the faster one: the API alone (`--no-services`), no UI, warnings only,
httptools and uvloop installed. It keeps how many slots are taken in SQL, with its own sync settings (on SQLite `synchronous = normal`,
which gate does not allow itself), and the leases in the memory of its process, as is its default. Nothing of it leaves the machine.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bench import environments, servers
from bench.load import Shape

PATH = "/api/v2/concurrency_limits/"
READY_S = 120
NAME, SLOTS, LEASE_S = "bench", 200, 600


class PrefectShape(Shape):
    """A pair as Prefect's own client writes it."""

    def acquire(self, job_id: str | None = None, credits: int | None = None) -> bytes:
        return self._post(f"{PATH}increment-with-lease",
                          {"names": [NAME], "slots": 1, "mode": "concurrency", "lease_duration": LEASE_S})  # fmt: skip

    def release(self, job_id: str, lease_id: str, outcome: str = "completed") -> bytes:
        return self._post(f"{PATH}decrement-with-lease", {"lease_id": lease_id})


def _environment(folder: Path, sql: str) -> dict[str, str]:
    inherited = {word: value for word, value in servers.ENVIRONMENT.items() if not word.startswith("PREFECT_")}
    return inherited | {
        "PREFECT_HOME": str(folder), "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": sql, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "WARNING", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }  # fmt: skip


@contextlib.contextmanager
def started(
    name: str, folder: Path, postgres: str | None = None, postgres_pid: int | None = None
) -> Iterator[servers.Server]:
    """On a SQLite file in the folder, or on that database of a Postgres."""
    folder.mkdir(parents=True)
    sql = (
        postgres.replace("postgresql:", "postgresql+asyncpg:") if postgres else f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    )
    port = servers.free_port()
    process = subprocess.Popen(
        [environments.python("prefect"), "-m", "prefect", "server", "start", "--no-services", "--port", str(port)],
        env=_environment(folder, sql), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with servers.stopped(process):
        _make_limit(port, process)
        yield servers.Server(name, port, process, [postgres_pid] if postgres_pid else [])


def _make_limit(port: int, process: subprocess.Popen[str]) -> None:
    """As soon as it answers; it makes its tables first."""
    made = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", json.dumps({"name": NAME, "limit": SLOTS}).encode(),
                                  {"content-type": "application/json"})  # fmt: skip
    ends = time.monotonic() + READY_S
    while time.monotonic() < ends:
        assert process.poll() is None, f"Prefect ended with {process.returncode}"
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(made, timeout=10) as answer:
            assert answer.status == 201, answer.status
            return
        time.sleep(0.1)
    raise AssertionError(f"Prefect did not answer within {READY_S} s")
