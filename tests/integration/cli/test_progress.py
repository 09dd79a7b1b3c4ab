"""How far long work is: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.gate_process import gate_environment
from tests.support.paths import ROOT

WORK = """
import itertools
from gate.cli import progress
progress.SHOWN_AFTER_S = 0
with progress.bar("copying [bold]", {json}) as tell:
    for step in itertools.count() if {for_ever} else range(1000):
        tell(step % 100, 100)
"""


def test_a_terminal_is_shown_a_bar() -> None:
    ours, theirs = os.openpty()
    program = WORK.format(json=False, for_ever=True)
    environment = gate_environment(TERM="xterm")
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while not (b"copying [bold]" in shown and b"%" in shown):
        shown += os.read(ours, 65536)
    process.kill()
    assert process.communicate(timeout=20)[0] == b""
    os.close(ours)


def test_a_pipe_and_a_program_are_shown_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(json=False, for_ever=False)], cwd=ROOT, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    ours, theirs = os.openpty()
    done = subprocess.run([sys.executable, "-c", WORK.format(json=True, for_ever=False)], cwd=ROOT, stderr=theirs, timeout=60)
    os.set_blocking(ours, False)
    try:
        shown = os.read(ours, 1000)
    except BlockingIOError:
        shown = b""
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, shown) == (0, b"")
