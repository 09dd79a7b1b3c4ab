"""A `gate serve` process with an HTTP client, and `gate WORDS` as at a terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import sqlalchemy as sa

from gate.runtime.data_dir import DataDir
from gate.runtime.embedded_redis import EmbeddedRedis
from tests.support.paths import ROOT
from tests.support.stores import fresh_database, migrated_database, other_redis
from tests.support.warm import warm

NO_DELAY = {"GATE_SHUTDOWN_DELAY_SECONDS": "0"}
"""A test has nothing of the time that a server on shared stores serves on for proxies."""


def gate_environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
    return inherited | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"} | more


def run_gate(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`gate WORDS`, as at a terminal."""
    return warm().run(list(words), cwd, gate_environment(**environment), 60)


def _put_file(file: Path) -> None:
    """Put a SQLite file there that the migrations have made, unless there is one."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(migrated_database(on_defaults=True).removeprefix("sqlite:///"), file)


class Served:
    """A `gate serve` process and an HTTP client for it."""

    def __init__(
        self, folder: Path, *flags: str, config: str = "", on_defaults: bool = False, from_nothing: bool = False,
        **environment: str,
    ) -> None:  # fmt: skip
        """`on_defaults`: embedded Valkey and SQLite, whatever stores the run is on. `from_nothing`: this start makes the tables."""
        self.folder = folder
        self._flags = flags
        self._environment = NO_DELAY | environment
        self._from_nothing = from_nothing
        self._closing = contextlib.ExitStack()
        weakref.finalize(self, self._closing.close)  # the stores outlive a restart
        stores = "" if on_defaults else self._stores_of_the_run()
        elsewhere = "--database-url" in flags or "GATE_DATABASE_URL" in environment or "database_url" in stores + config
        if not (from_nothing or elsewhere):
            _put_file(folder / ".gate" / "gate.db")
        (folder / "gate.toml").write_text(stores + config)
        self.process: Any
        self.said: list[str] = []

    def _stores_of_the_run(self) -> str:
        """The lines of gate.toml that name them, if they are not the defaults."""
        lines = ""
        if (program := other_redis()) is not None:
            redis_server = EmbeddedRedis(self.folder, program)
            redis_server.wait()
            self._closing.callback(redis_server.stop)
            lines += f'redis_url = "{redis_server.url}"\n'
        if "GATE_TEST_POSTGRES_URL" in os.environ:
            like = None if self._from_nothing else migrated_database()
            lines += f'database_url = "{self._closing.enter_context(fresh_database(self.folder, like=like))}"\n'
        return lines

    def start(self) -> None:
        self.errors = (self.folder / "errors.log").open("a")
        self.process = self._launched(["serve", "--port", "0", *self._flags], gate_environment(**self._environment))
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if "ready" not in first:
            raise AssertionError((self.folder / "errors.log").read_text())
        self.said = [first]
        while not (line := self.process.stdout.readline()).startswith("  data"):
            self.said.append(line)
        running = DataDir(self.folder / ".gate").running()
        assert running is not None
        self.url, self.redis_url, self.sql_url = running.http, running.redis_url, running.sql_url
        self.http = httpx2.Client(base_url=self.url, timeout=70)

    def _launched(self, words: list[str], environment: dict[str, str]) -> Any:
        return warm().start(words, self.folder, environment, self.errors)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        self._close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self._close()

    def _close(self) -> None:
        self.http.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()

    def post(self, path: str, body: Any = None) -> httpx2.Response:
        return self.http.post(path, json=body if body is not None else {})

    def sql(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as a database client does. `@` stands before the name of a table of gate."""
        url = sa.make_url(self.sql_url)
        sqlite = url.get_backend_name() == "sqlite"
        engine = sa.create_engine(url.set(drivername="sqlite+pysqlite" if sqlite else "postgresql+psycopg"))
        with engine.begin() as connection:
            found = connection.execute(sa.text(text.replace("@", "" if sqlite else "gate.")), values)
            rows = [tuple(row) for row in found] if found.returns_rows else []
        engine.dispose()
        return rows

    def acquire(self, pool: str = "default", **body: Any) -> httpx2.Response:
        return self.post(f"/v1/pools/{pool}/acquire", body)

    def act(self, job: dict[str, Any], verb: str, **body: Any) -> httpx2.Response:
        """A verb on a job by its own lease."""
        if job["lease"] and verb != "cancel":
            body = {"lease_id": job["lease"]["lease_id"]} | body
        return self.post(f"/v1/pools/{job['pool']}/jobs/{job['job_id']}/{verb}", body)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.stop()
