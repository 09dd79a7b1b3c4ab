"""The stores as something that breaks: real servers in folders of their own, killed, stopped, emptied, put back."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from gate.runtime.embedded_redis import binary

READY_S = 20.0


def free_port() -> int:
    """Below the ports that outgoing connections get: a caller of a dead server there must not end up calling itself,
    and the port must still be free when the server comes back.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def lacking(redis: str, sql: str) -> list[str]:
    """Programs that these stores need and that are not here."""
    wanted = ["redis-cli"] + ["redis-server"] * (redis == "redis")
    return [name for name in wanted if not shutil.which(name)] + ["postgres"] * (sql == "postgres" and not _postgres_bins())


def _postgres_bins() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))


def wait_for(answers: Any, what: str) -> None:
    give_up = time.monotonic() + READY_S
    while not answers():
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {READY_S} s in vain until {what}")
        time.sleep(0.01)


class RedisServer:
    """`kind` is valkey (out of the wheel) or redis (the machine's own). It saves only when asked to."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.port = kind, folder, free_port()
        folder.mkdir()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: Mapping[str, str] | None = None

    def start(self, *options: str) -> None:
        program = str(binary()) if self.kind == "valkey" else shutil.which("redis-server") or "redis-server"
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder),
                   "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", *options]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=self.environment)
        wait_for(lambda: self.cli("ping", check=False) == "PONG", "Redis answers")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def snapshot(self) -> Path:
        return self.folder / "dump.rdb"

    def cli(self, *words: str, check: bool = True) -> str:
        """redis-cli, as an operator has it."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=10).stdout.strip()


class Postgres:
    """A cluster of its own. It runs as the user postgres when root is not allowed to run it."""

    def __init__(self, folder: Path, of: Postgres | None = None, port: int | None = None) -> None:
        """`of`: a standby of that one, whose name is that of the folder."""
        self.folder, self.port = folder, port or free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._bin = _postgres_bins()[-1]
        self._user = "postgres" if os.getuid() == 0 else None
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = ["-D", str(folder / "data")]
        if of is None:
            self._run("initdb", *data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N")
        else:
            source = f"host=127.0.0.1 port={of.port} user=postgres application_name={folder.name}"
            self._run("pg_basebackup", "-d", source, *data, "-R", "-N", "-X", "stream", "-c", "fast")

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._bin / program), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._as_owner())

    def _as_owner(self) -> dict[str, Any]:
        if not self._user:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}

    def start(self) -> None:
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder),
                   "-c", "listen_addresses=127.0.0.1"]  # fmt: skip
        with (self.folder.parent / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **self._as_owner()
            )
        ready = [str(self._bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        wait_for(lambda: subprocess.run(ready).returncode == 0, "Postgres answers")

    def promote(self) -> None:
        """Make a primary of this standby."""
        self._run("pg_ctl", "promote", "-D", str(self.folder / "data"), "-w", "-s")

    def set(self, **values: str) -> None:
        """Change settings of the server, from now on."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for name, value in values.items():
                connection.execute(f"alter system set {name} = '{value}'")
            connection.execute("select pg_reload_conf()")

    def crash(self) -> None:
        """What `pg_ctl stop -m immediate` does."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(READY_S)
            self.process = None

    def freeze(self) -> None:
        """Its processes stand still, the first before it can make more; its connections stay open."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def takes(self, anything: bool) -> None:
        """Whether writes are allowed, from now on."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute(f"alter system set default_transaction_read_only = {'off' if anything else 'on'}")
            connection.execute("select pg_reload_conf()")
        wait_for(lambda: self._writable() == anything, "every session has heard of it")

    def _writable(self) -> bool:
        with psycopg.connect(self.url) as connection:
            return connection.execute("show transaction_read_only").fetchone() == ("off",)

    def thaw(self) -> None:
        for pid in reversed(list(self._pids())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _pids(self) -> Iterator[int]:
        assert self.process is not None
        yield self.process.pid
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    yield int(stat.parent.name)


_HOLDER = """import sqlite3, sys
file = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
file.execute("begin exclusive")
print("held", flush=True)
sys.stdin.read()
file.execute("rollback")
"""


@contextlib.contextmanager
def locked_file(sql_url: str) -> Iterator[None]:
    """Another process holds the SQLite file with `begin exclusive`."""
    file = sa.make_url(sql_url).database
    command = [sys.executable, "-c", _HOLDER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            yield
        finally:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(READY_S)


class Books:
    """SQL as the judge reads it: over a connection of its own, without code of gate."""

    def __init__(self, sql_url: str) -> None:
        url = sa.make_url(sql_url)
        self.sqlite = url.get_backend_name() == "sqlite"
        self.at = "" if self.sqlite else "gate."
        driver, options = ("sqlite+pysqlite", {"timeout": 20}) if self.sqlite else ("postgresql+psycopg", {})
        self._engine = sa.create_engine(url.set(drivername=driver), connect_args=options, poolclass=sa.NullPool)

    def rows(self, query: str, **values: Any) -> list[Any]:
        """`query` names its tables as `@jobs`."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(query.replace("@", self.at)), values))

    @contextlib.contextmanager
    def refuses(self, what: str, like: str) -> Iterator[None]:
        """A trigger such as an owner may have put there: `what` (`insert` or `update`) of jobs named `like` is an error."""
        begin, end = (
            [
                f"create trigger refuses before {what} on jobs when new.job_id like '{like}'"
                " begin select raise(abort, 'refused by a trigger'); end"
            ],
            ["drop trigger refuses"],
        )
        if not self.sqlite:
            body = "begin raise exception 'refused by a trigger'; end"
            begin = [
                f"create function gate.refuses() returns trigger language plpgsql as $${body}$$",
                f"create trigger refuses before {what} on gate.jobs for each row when (new.job_id like '{like}')"
                " execute function gate.refuses()",
            ]
            end = ["drop function gate.refuses() cascade"]
        self._execute(begin)
        try:
            yield
        finally:
            self._execute(end)

    def _execute(self, statements: list[str]) -> None:
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    @contextlib.contextmanager
    def held(self, pool: str) -> Iterator[None]:
        """Writers of this pool wait."""
        with self._engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("begin immediate")
            else:
                connection.execute(sa.text("select 1 from gate.pools where name = :pool for update"), {"pool": pool})
            yield
            connection.rollback()
