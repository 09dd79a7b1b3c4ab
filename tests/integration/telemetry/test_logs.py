"""Logs: one line for each event, whatever the names in it, and never a secret."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate_process import Served, gate_environment
from tests.support.names import fresh
from tests.support.paths import ROOT

FORGED = [
    'x\n{"event": "reconciler.repaired", "level": "info"}',
    "x\r\n2026-01-01T00:00:00Z [info     ] all is well",
    "x\x1b[2K\x1b[1Gall is well",
    "x\x85y\u2028z\u2029",
    "x\x00\x07\x9b31m",
    "\u202egnol si siht\u2066",
    'quote " and \\ backslash',
]
SAY = """
import sys, structlog, logging
from gate.telemetry import logging as logs
logs.configure()
log = structlog.get_logger("gate.test")
text = eval(sys.argv[1])
log.warning("said", pool="default", job_id="j-1", why=text, many=[text, {{text: text}}])
logging.getLogger("uvicorn.error").error("from uvicorn %s", text)
try:
    password = "hunter2-in-a-variable"
    raise ValueError(text)
except ValueError:
    log.exception("fell")
"""


def say(text: str, terminal: bool = False) -> list[str]:
    """The lines that a process wrote that had to log `text`."""
    words = [sys.executable, "-c", SAY.replace("{{", "{").replace("}}", "}"), ascii(text)]
    if not terminal:
        done = subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, env=gate_environment(), timeout=60, check=True)
        return done.stderr.decode().removesuffix("\n").split("\n")
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, cwd=ROOT, stderr=theirs, env=gate_environment()) as process:
        os.close(theirs)
        read = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            read += part
    os.close(ours)
    assert process.returncode == 0
    return read.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_elsewhere_each_line_is_one_object_and_says_what_was_said(text: str) -> None:
    lines = say(text)
    assert len(lines) == 3 and all(line.isprintable() for line in lines)
    said, foreign, fell = map(json.loads, lines)
    assert (said["event"], said["level"], said["pool"], said["job_id"]) == ("said", "warning", "default", "j-1")
    assert said["why"] == text and said["many"] == [text, {text: text}], "and nothing of it is lost"
    assert foreign["event"] == f"from uvicorn {text}" and foreign["logger"] == "uvicorn.error"
    assert fell["exception"].startswith("Traceback") and text in fell["exception"]
    assert "hunter2" not in "".join(lines), "nor what a variable held"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", json.loads(line)["timestamp"]) for line in lines)


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_on_a_terminal_nothing_begins_a_line_or_steers_it(text: str) -> None:
    lines = say(text, terminal=True)
    plain = [re.sub(r"\x1b\[\d*(;\d+)*m", "", line) for line in lines]  # its own colours
    assert all(line.isprintable() for line in plain), plain
    begins = [line for line in plain if line and not line.startswith(" ")]
    assert len(begins) == 3 and all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[", line) for line in begins), begins


@pytest.mark.parametrize(
    "secret, shown",
    [
        ("gate_tool_0123456789abcdef", "gate_tool_***"),
        ("whsec_dGhpcyBpcyBhIHNlY3JldA==", "whsec_***"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://me:hunter2@db/gate", "postgresql://me:***@db/gate"),
        ("postgresql://me:hunter2@sesame@db/gate", "postgresql://me:***@db/gate"),
        ("postgresql://me@db/gate?sslpassword=hunter2", "postgresql://me@db/gate?sslpassword=***"),
        ("GET /x?token=hunter2&a=1", "GET /x?token=***&a=1"),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
    ],
)
def test_secrets_are_taken_out(secret: str, shown: str) -> None:
    for line in say(secret):
        assert shown in line and secret not in line


def test_what_a_statement_was_given_is_taken_out() -> None:
    said = json.loads(say("(sqlite3.Error) no\n[SQL: update jobs]\n[parameters: ('a-lease', 'b')]")[2])
    assert "update jobs" in said["exception"] and "a-lease" not in said["exception"]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "errors.log").read_text().split("\n") if line]


def test_what_a_gate_says_names_pool_and_job(tmp_path: Path) -> None:
    """And what others call things never makes a line of it: paths are theirs too."""
    with Served(tmp_path, GATE_ACCESS_LOG="1") as own:
        job = own.acquire(job_id=fresh()).json()
        own.act(job, "release", outcome="failed", error='x\n{"event": "forged"}')
        own.http.get("/v1/pools/default/jobs/%0A%7B%22event%22:%20%22forged%22%7D")
        own.http.get("/v1/pools/default%1B%5B2K%E2%80%AE")
        host, port = own.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as wire:  # and of this only uvicorn knows
            wire.sendall(b"\x16 no HTTP\r\n\r\n")
            wire.recv(1000)
    lines = lines_of(tmp_path)
    (released,) = [line for line in lines if line.get("path", "").endswith("/release")]
    assert (released["pool"], released["job_id"], released["status"]) == ("default", job["job_id"], 200)
    assert [line for line in lines if line.get("logger") == "uvicorn.error"], lines
    assert not [line for line in lines if line["event"] == "forged"] and len(lines) >= 5
    assert "\x1b" not in (tmp_path / "errors.log").read_text() and "\u202e" not in (tmp_path / "errors.log").read_text()
