"""Pages read and played by the tests of what they say: their blocks, their prose, and their console commands run against a gate."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gate_process import Served, gate_environment
from tests.support.paths import ROOT

TOOLS = ("curl", "redis-cli")
END = "---- end of a command ----"
needs_tools = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"the page is played with {' and '.join(TOOLS)}"
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Each fenced block: its language and its text."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def block(page: Path, language: str, containing: str = "") -> str:
    """The one block of that language that contains it."""
    (found,) = (text for its, text in blocks(page) if its == language and containing in text)
    return found


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rows(page: Path, *headers: str) -> list[list[str]]:
    """The cells of the table whose first headers are these."""
    begins = re.escape(f"| {' | '.join(headers)} |")
    (table,) = re.findall(rf"^{begins}.*\n\|[-|: ]+\n((?:\|.*\n)+)", page.read_text(), flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in table.splitlines()]


def transcript(page: Path) -> list[tuple[str, str]]:
    """The console blocks: each command with the output that stands below it."""
    steps: list[tuple[str, str]] = []
    for language, text in blocks(page):
        for line in text.splitlines() if language == "console" else ():
            if line.startswith("$ "):
                steps.append((line[2:], ""))
            else:
                command, said = steps[-1]
                steps[-1] = (command, said + line + "\n")
    return steps


def play(page: Path, served: Served, folder: Path) -> None:
    """Its console commands in one shell, in order, on a gate that serves from `folder`; each has to say what the page says."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "gate").write_text(f'#!/bin/sh\nexec {sys.executable} -m gate "$@"\n')
    (programs / "gate").chmod(0o755)
    (folder / "lua").symlink_to(ROOT / "lua")
    here = served.url.removeprefix("http://")
    steps = [
        (command.replace("127.0.0.1:8000", here), said.replace("127.0.0.1:8000", here)) for command, said in transcript(page)
    ]
    script = "\n".join(f"{command}\necho; echo '{END}'" for command, _ in steps)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    played = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=gate_environment(PATH=path), capture_output=True, text=True, timeout=120
    )
    outputs = played.stdout.split(END)
    assert len(outputs) == len(steps) + 1, played.stderr
    for (command, said), output in zip(steps, outputs, strict=False):
        text = _lines(output)
        assert re.fullmatch(pattern(said), text, flags=re.DOTALL), (
            f"$ {command}\n{text}\n-- {page.name} says:\n{said}{played.stderr}"
        )


def run_python(page: Path, served: Served) -> tuple[str, str]:
    """Run the page's one Python block against a gate. Returns what it printed to stdout and to stderr."""
    program = block(page, "python").replace("http://127.0.0.1:8000", served.url)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout, done.stderr


def pattern(said: str) -> str:
    """`…` stands for anything; a line of its own for any lines."""
    return ".*?".join(re.escape(part) for part in _lines(said).split("…"))


def _lines(text: str) -> str:
    """Without the blanks that only make columns."""
    return "\n".join(re.sub(" +", " ", line.strip()) for line in text.strip().splitlines())


def shell_blocks(markdown: str) -> list[str]:
    """The ```shell blocks of a page, in order."""
    return re.findall(r"```shell\n(.*?)```", markdown, flags=re.DOTALL)
