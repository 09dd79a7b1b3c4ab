"""`gate status --watch`: live, through a restart, into a pipe, on a narrow terminal, until Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gate.cli.watch import LISTED, _Lines, picture
from gate.ledger.reports.timeline import Happening
from tests.support.gate_in_process import House
from tests.support.gate_process import Served, gate_environment, run_gate


@contextlib.contextmanager
def watching(folder: Path, *words: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gate", "status", "--watch", *words]
    environment = more.pop("env", gate_environment())
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str], true: Callable[[str], Any]) -> str:
    """The next line for which that is true; a line that never comes ends the test by its process being gone."""
    assert process.stdout is not None
    while text := process.stdout.readline():
        if true(text):
            return text
    raise AssertionError(process.stderr.read() if process.stderr else "it has ended")


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(20)


def test_a_line_a_change_through_a_restart_until_ctrl_c(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served, watching(tmp_path) as process:
        line(process, lambda text: "0 running, 0 granted, 3 free of 3; 0 waiting" in text)
        job = served.acquire(job_id="w1").json()
        line(process, lambda text: "1 running" in text and text.rstrip().endswith("w1 running"))
        served.act(job, "release", outcome="completed")
        line(process, lambda text: "0 running" in text and text.rstrip().endswith("w1 gone"))
        served.stop()
        assert "waiting for it" in line(process, lambda text: "no gate runs in" in text)
        served.start()
        served.acquire(job_id="w2")
        line(process, lambda text: "w2 running" in text)
        assert ended(process) == 0


def test_changes_between_two_looks_are_shown_too(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, config="limit = 1\n") as served, watching(tmp_path) as process:
        line(process, lambda text: "0 running" in text)
        for number in range(20):  # far more than ten looks a second could tell apart
            job = served.acquire(job_id=f"quick-{number}").json()
            served.act(job, "release", outcome="completed" if number % 2 else "failed")
        served.http.put("/v1/pools/default", json={"lease_seconds": 900})
        said = ""
        while "setting lease_seconds 900" not in said:
            said += line(process, bool)
        for number in range(20):
            assert f"quick-{number} running" in said and f"quick-{number} {'completed' if number % 2 else 'failed'}" in said
            assert said.count(f"quick-{number} running") == 1
        assert ended(process) == 0


@pytest.mark.anyio
async def test_a_change_that_the_pool_showed_before_its_event_is_shown_once(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, pool = _Lines(json=False), house.gate.services.queries.pool
    job = await house.acquire("early")
    lines.draw(await pool(house.pool, LISTED), [])  # the event was committed after the events had been read
    await house.release(job, "completed")
    began = [Happening(1, 1, "early", "running", None), Happening(2, 2, "early", "completed", None)]
    lines.draw(await pool(house.pool, LISTED), began)
    await house.acquire("early-2")
    lines.draw(await pool(house.pool, LISTED), [Happening(3, 3, "early-2", "running", None)])
    said = capsys.readouterr().out
    assert said.count("early running") == 1 and said.count("early completed") == 1 and said.count("early-2 running") == 1


def test_for_programs_a_document_a_line(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served, watching(tmp_path, "--json") as process:
        assert json.loads(line(process, bool))["free"] == 3
        served.acquire(job_id="w1")
        line(process, lambda text: [job["job_id"] for job in json.loads(text)["holders"]] == ["w1"])
        assert ended(process) == 0


@pytest.mark.anyio
async def test_a_narrow_terminal_shows_what_fits_and_runs_no_escape_code(house: House) -> None:
    for number in range(12):
        await house.acquire(f"narrow-{number}-{house.pool[-6:]}", user="[bold]ana[/bold]")
    view = await house.gate.services.queries.pool(house.pool, LISTED)
    for width, height in ((40, 12), (100, 12)):
        terminal = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, no_color=True)
        terminal.print(picture(view, terminal))
        text = terminal.file.getvalue()
        assert "narrow-0" in text and "narrow-11" not in text and "slot 1" in text and "more" in text
        assert ("[bold]ana[/bold]" in text) == (width == 100)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
        assert len(lines) < height and all(len(one) <= width for one in lines)


def test_where_no_gate_runs_it_says_so_at_once(tmp_path: Path) -> None:
    done = run_gate("status", "--watch", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "") and "no gate runs in" in done.stderr
