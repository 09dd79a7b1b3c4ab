"""All commands, walked: each that prints has --json and prints one document by it; what works without a server, and what says
why not; the exit codes that `gate --help` promises.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gate.cli.main import EXIT_CODES, app
from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.wait import until

SERVED = {
    "status": ("status",),
    "acquire": ("acquire", "--job-id", "s1", "--user", "ana", "--credits", "5"),
    "claim": ("claim", "s1"),
    "renew": ("renew", "s1"),
    "release": ("release", "s1"),
    "cancel": ("cancel", "s2", "--reason", "enough"),
    "pools": ("pools",),
    "pools set": ("pools", "set", "video", "--create", "--limit", "5"),
    "pause": ("pause", "video", "--reason", "the provider is down"),
    "resume": ("resume", "--pool", "video"),
    "pools delete": ("pools", "delete", "video"),
    "rebuild": ("rebuild",),
    "callbacks apply": ("callbacks", "apply", "1", "s3", "--outcome", "failed", "--reason", "I read it"),
    "callbacks dismiss": ("callbacks", "dismiss", "2", "--reason", "a trial of ours"),
}
"""By command: words for it that need a server."""
ALONE = {
    "accounts": ("accounts",),
    "servers": ("servers",),
    "jobs": ("jobs",),
    "explain": ("explain", "s1"),
    "callbacks": ("callbacks",),
    "trends": ("trends", "--span", "day"),
    "pools changes": ("pools", "changes", "default"),
    "pools settings": ("pools", "settings", "default"),
    "ledger": ("ledger",),
    "verify": ("verify",),
    "doctor": ("doctor",),
    "backup": ("backup", "copy.db"),
    "prune": ("prune", "--older-than", "1h"),
    "keys create": ("keys", "create", "ana", "--role", "read"),
    "keys list": ("keys", "list"),
    "keys revoke": ("keys", "revoke", "ana"),
    "db upgrade": ("db", "upgrade"),
    "demo": ("demo",),
}
"""Words that do without: they find the ledger by the settings, and the demo brings a service of its own."""


def leaves(group: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None or command.invoke_without_command:
            yield " ".join((*way, name)), command
        if inner is not None:
            yield from leaves(command, (*way, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_every_command_stands_in_the_tables() -> None:
    assert set(COMMANDS) == {"serve", "run", "ask"} | SERVED.keys() | ALONE.keys()


def test_every_command_that_prints_has_json() -> None:
    without = {
        name
        for name, command in COMMANDS.items()
        if "--json" not in {option for parameter in command.params for option in parameter.opts}
    }
    assert without == {"serve", "run"}, "the output of run is that of its command"


def test_with_a_server_and_without(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        served.acquire(job_id="s2")
        served.acquire(job_id="s3")
        served.sql(
            "insert into @unread_callbacks (id, at, last_at, times, provider, pool, hash, body, why)"
            " values (1, 1, 1, 1, 'runninghub', 'default', 'x', '{', 'body: it is not JSON'),"
            " (2, 1, 1, 1, 'runninghub', 'default', 'y', '[', 'body: it is not JSON')"
        )
        for name, words in [*SERVED.items(), *ALONE.items()]:
            done = run_gate(*words, "--json", cwd=tmp_path)
            assert done.returncode == 0, (name, done.stdout, done.stderr)
            assert json.loads(done.stdout) is not None and done.stdout.count("\n") == 1, name
            if name == "keys revoke":
                break  # the first key closes the door, and the demo comes in by HTTP
    (tmp_path / "copy.db").unlink()
    for name, words in SERVED.items():
        done = run_gate(*words, "--json", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), name
        assert "no gate runs in" in done.stderr, name
    for name, words in ALONE.items():
        done = run_gate(
            *words[:2], *(words[2:] if name != "keys create" else ("bob", "--role", "read")), "--json", cwd=tmp_path
        )
        if name == "keys revoke":
            assert (done.returncode, "no valid key" in done.stderr) == (1, True)
        else:
            assert done.returncode == 0 and json.loads(done.stdout) is not None, (name, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ("pools", "set", "video"),
        ("pools", "set", "no name", "--limit", "1"),
        ("pools", "set", "video", "--limit", "many"),
        ("prune", "--older-than", "soon"),
        ("keys", "create", "ana", "--role", "king"),
        ("explain",),
        ("cancel",),
        ("cancel", "a", "--user", "ana"),
        ("trends", "--span", "year"),
        ("status", "--wtach"),
        ("callbacks", "apply", "1"),
        ("callbacks", "dismiss", "1"),
        ("callbacks", "apply", "one", "a", "--outcome", "failed", "--reason", "x"),
    ],
)
def test_words_that_make_no_command_are_exit_2(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_gate(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_ctrl_c_is_130(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, config="limit = 1\n") as served:
        served.acquire(job_id="first")
        words = [sys.executable, "-m", "gate", "acquire", "--job-id", "second", "--wait-seconds", "60"]
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=gate_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        path = "/v1/pools/default/jobs/second"
        asyncio.run(until(lambda: served.http.get(path).status_code == 200, "it waits", 60))
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, out) == (130, b"") and b"Traceback" not in errors


def test_the_help_says_the_exit_codes(tmp_path: Path) -> None:
    said = " ".join(run_gate("--help", cwd=tmp_path).stdout.split())
    assert " ".join(EXIT_CODES.split()) in said
