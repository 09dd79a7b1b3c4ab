"""What several commands take, in the same words."""

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
"""Jobs at most in one answer."""


def settings_of(data_dir: Path | None, config: Path | None) -> Settings:
    """Raises CannotStart."""
    from gate.runtime.settings import load

    return load(config, data_dir=data_dir)
