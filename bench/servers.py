"""What is measured: servers, each a process group of its own, on a port of its own, and what CPU they have used."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from gate.runtime.embedded_redis import EmbeddedRedis

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parent.parent
ENVIRONMENT = {word: value for word, value in os.environ.items() if not word.startswith("GATE_")} | {"PYTHONPATH": str(ROOT)}


class Server:
    """A running program. `port` is where it answers HTTP, 0 that it does not."""

    def __init__(
        self, name: str, port: int, process: subprocess.Popen[str], others: list[int] | None = None, key: str = ""
    ) -> None:
        self.name, self.port, self.process, self.key = name, port, process, key
        self._others = others or []

    def cpu_s(self) -> float:
        """Of it and of all its children, those of Postgres's that serve it too."""
        return sum(_cpu_s(pid) for pid in [*_tree(self.process.pid), *(pid for root in self._others for pid in _tree(root))])

    def store(self, name: str) -> str:
        """Of a gate: the address of its embedded Redis (`redis_url`) or of its ledger (`sql_url`)."""
        return json.loads((self.folder / ".gate" / "server.json").read_text())[name]

    def rss_bytes(self) -> tuple[int, int]:
        """Its own, and that of all its children: of a gate, its Valkey."""
        first, *others = _tree(self.process.pid)
        return _rss_bytes(first), sum(map(_rss_bytes, others))


@contextlib.contextmanager
def python(name: str, module: str) -> Iterator[Server]:
    """A peer that is a module with a port as its argument."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", module, str(port)], env=ENVIRONMENT, text=True)
    with stopped(process):
        wait_for(port, process)
        yield Server(name, port, process)


@contextlib.contextmanager
def library(name: str, module: str, url: str, store_pid: int, program: str = sys.executable) -> Iterator[Server]:
    """A peer without HTTP (`bench.peers.library`); `url` is its store's, whose CPU counts as its own."""
    process = subprocess.Popen([program, "-m", module, url], env=ENVIRONMENT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with stopped(process):
        yield Server(name, 0, process, [store_pid])


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[tuple[str, int]]:
    """As gate embeds it; its address, and the pid of its first process."""
    folder.mkdir(parents=True)
    server = EmbeddedRedis(folder)
    server.wait()
    try:
        yield server.url, server._process.pid
    finally:
        server.stop()


@contextlib.contextmanager
def gate(
    name: str, folder: Path, sql: str | None = None, postgres_pid: int | None = None, pools: str = "",
    module: tuple[str, ...] = ("gate",), **environment: str,
) -> Iterator[Server]:  # fmt: skip
    """`gate serve` as a user has it: with a key, durable SQL, its embedded Valkey. `pools`: lines for gate.toml. `module`: what
    is run in place of `gate`, with its first arguments.
    """
    folder.mkdir(parents=True)
    (folder / "gate.toml").write_text((f'database_url = "{sql}"\n' if sql else "") + pools)
    kept = ENVIRONMENT | environment
    made = subprocess.run([sys.executable, "-m", "gate", "keys", "create", "bench", "--role", "tool", "--json"],
                          cwd=folder, env=kept, text=True, capture_output=True, check=True)  # fmt: skip
    key = json.loads(made.stdout)["key"]
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", *module, "serve", "--port", str(port)], cwd=folder, env=kept,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    with stopped(process):
        while not (folder / ".gate" / "server.json").exists():  # it listens before it is ready
            assert process.poll() is None, "gate did not start"
            time.sleep(0.02)
        server = Server(name, port, process, [postgres_pid] if postgres_pid else [], key)
        server.folder = folder
        yield server


def postgres_programs() -> Path | None:
    """Where the distribution has them; the newest."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, int]]:
    """An own Postgres with the settings that it ships with, and the pid of its first process."""
    programs = postgres_programs()
    assert programs is not None, "Postgres is not installed"
    port, data = free_port(), folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if as_postgres:
        subprocess.run(["chown", "-R", "postgres:", folder], check=True)
    subprocess.run(
        [*as_postgres, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )
    process = subprocess.Popen([*as_postgres, programs / "postgres", "-D", data, "-p", str(port), "-k", folder],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, cwd="/")  # fmt: skip
    with stopped(process, signal.SIGINT):
        wait_for(port, process)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        _accepts(url)
        yield url, process.pid


def database(url: str, name: str) -> str:
    """Another database of the same Postgres; its address."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{url.rpartition('/')[0]}/{name}"


def _accepts(url: str) -> None:
    for _ in range(400):
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
            return
        time.sleep(0.05)
    raise AssertionError(f"Postgres does not answer at {url}")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.025)
    raise AssertionError(f"nothing listens on {port}")


@contextlib.contextmanager
def stopped(process: subprocess.Popen[str], by: int = signal.SIGTERM) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(by)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _tree(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _tree(int(child))
    return found


def _rss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    return 0


def _cpu_s(pid: int) -> float:
    """Its own, in user and in system, and that of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) * TICK_S
