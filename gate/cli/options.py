"""Options and arguments that several commands share, with one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gate.runtime.settings import Settings

DataDirFlag = Annotated[Path | None, typer.Option(help="Where the server keeps its files (default ./.gate).")]
ConfigFlag = Annotated[Path | None, typer.Option(help="A gate.toml elsewhere than here.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="For programs: one document on stdout.")]
PoolFlag = Annotated[str, typer.Option(help="The pool.")]
JobArgument = Annotated[str, typer.Argument(help="The job_id.", metavar="JOB")]
ReasonFlag = Annotated[str | None, typer.Option(help="Why; it is kept.")]
LONG = 10_000
"""Most jobs in one answer, so that the output of a large pool stays bounded."""


def settings_of(data_dir: Path | None, config: Path | None) -> Settings:
    """Load the settings of a command.

    Args:
        data_dir: Folder of the server's files; None for the configured one.
        config: Path of gate.toml; None for the one in the current folder, if any.

    Raises:
        CannotStart: A setting is not valid, or gate.toml is missing or cannot be read.
    """
    from gate.runtime.settings import load

    return load(config, data_dir=data_dir)
