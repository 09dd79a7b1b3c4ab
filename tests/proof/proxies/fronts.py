"""nginx and HAProxy in front of two gates, with the defaults of their Debian packages but for the ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.needs import missing
from tests.support.servers import free_port, wait_for

PATHS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NGINX = """
{user}
pid {folder}/nginx.pid; error_log {folder}/nginx.log; daemon off; worker_processes 2;
events {{ worker_connections 768; }}
http {{
    {temporary}
    access_log off;
    upstream gates {{ {servers} }}
    upstream kept {{ {servers} keepalive 32; }}
    server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://gates; }} }}
    server {{
        listen 127.0.0.1:{kept};
        location / {{ proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""
HAPROXY = """
global
    log stdout format raw local0
    stats socket {folder}/haproxy.sock
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend front
    bind 127.0.0.1:{port}
    default_backend gates
backend gates
    option httpchk GET /readyz
{patience}
{servers}
"""


def programs() -> None:
    """Skip the test where a proxy is missing."""
    for name in ("nginx", "haproxy"):
        if shutil.which(name, path=PATHS) is None:
            missing(f"{name} stands before the gates")


@contextlib.contextmanager
def fronts(folder: Path, gates: Sequence[int], fail_s: int | None, check_ms: int | None) -> Iterator[dict[str, str]]:
    """The address of each proxy, by name.

    `fail_s`: nginx passes a server for so long that has refused a connection, `check_ms`: HAProxy checks so often. None: their defaults.
    """
    plain, kept, port = free_port(), free_port(), free_port()
    _write_nginx(folder, gates, fail_s, plain, kept)
    every = "" if check_ms is None else f" inter {check_ms}ms"
    servers = "\n".join(f"    server gate{number} 127.0.0.1:{gate} check{every}" for number, gate in enumerate(gates))
    patience = "" if check_ms is None else "    timeout check 10s"  # a busy machine may not answer within a short interval
    (folder / "haproxy.cfg").write_text(HAPROXY.format(folder=folder, port=port, servers=servers, patience=patience))
    commands = {
        "nginx": ["-e", f"{folder}/early.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"],
        "haproxy": ["-db", "-f", f"{folder}/haproxy.cfg"],
    }
    with contextlib.ExitStack() as closing, (folder / "haproxy.log").open("w") as log:
        for name, words in commands.items():
            program = shutil.which(name, path=PATHS)
            assert program is not None
            process = closing.enter_context(subprocess.Popen([program, *words], stdout=log, stderr=log))
            closing.callback(process.terminate)
        urls = {"nginx": plain, "nginx with keepalive": kept, "haproxy": port}
        for name, number in urls.items():
            wait_for(lambda number=number: _answers(number), f"{name} answers")
        yield {name: f"http://127.0.0.1:{number}" for name, number in urls.items()}


def taken_in(folder: Path) -> bool:
    """Say whether HAProxy sends calls to each gate: it does so after two checks."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "haproxy.sock"))
        client.sendall(b"show stat\n")
        said = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    rows = [line.split(",") for line in said.splitlines() if line.startswith("gates,gate")]
    return bool(rows) and all(row[17] == "UP" for row in rows)


def _write_nginx(folder: Path, gates: Sequence[int], fail_s: int | None, plain: int, kept: int) -> None:
    after = "" if fail_s is None else f" fail_timeout={fail_s}s"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = NGINX.format(
        folder=folder,
        user="user root;" if os.geteuid() == 0 else "",
        temporary=" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
        servers=" ".join(f"server 127.0.0.1:{gate}{after};" for gate in gates),
        plain=plain,
        kept=kept,
    )
    (folder / "nginx.conf").write_text(text)


def _answers(port: int) -> bool:
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/readyz"],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    return done.stdout == "200"
