"""The terminal: the list of the commands of `gate COMMAND`, and the exit codes of their errors.

A command that works on the stores finds those of a running server through the data dir. A command imports what it needs when
it runs, so that `gate --help` starts quickly.
"""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from typing import Annotated, NoReturn

import typer

from gate.cli import callbacks, jobs, keys, maintenance, pools
from gate.cli.options import ConfigFlag, DataDirFlag, JsonFlag, settings_of
from gate.model.errors import CannotStart, GateError

EXIT_CODES = (
    "Exit codes: 0 done · 1 refused, failed, or something is wrong · 2 no such command, flag or value"
    " · 3 acquire: the job waits, do not start it · run: the exit code of its command, see gate run --help"
    " · 130 stopped by Ctrl-C (0 for serve and status --watch: that is how they end)."
)

app = typer.Typer(
    name="gate", help="Three run, the fourth waits.", no_args_is_help=True, add_completion=False, epilog=EXIT_CODES,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True,
)  # fmt: skip


def serve(
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1; another than loopback wants a key first.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000; 0 takes a free one.")] = None,
    data_dir: DataDirFlag = None,
    redis_url: Annotated[str | None, typer.Option(help="Default: an embedded Valkey.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Default: SQLite in the data dir.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on the port, default 1; more need Postgres and a Redis of your own.")
    ] = None,
    config: ConfigFlag = None,
) -> None:
    """Serve HTTP until stopped."""
    from gate.runtime.serve import serve as run
    from gate.runtime.settings import load

    flags = {"host": host, "port": port, "redis_url": redis_url, "database_url": database_url, "workers": workers}
    run(load(config, data_dir=data_dir, **flags))


def demo(
    url: Annotated[
        str | None,
        typer.Option(help="A running gate; default: the one in the data dir, or one of its own."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="GATE_KEY", help="Where the gate wants one: of a tool or an admin.")
    ] = None,
    provider: Annotated[
        bool, typer.Option("--provider", help="With RunningHub simulated: callbacks, lost ones, and questions.")
    ] = False,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Play four jobs at once on a live service: three run, one waits, one is lost.

    Exits with 1 if a step differs from what is expected.
    """
    from gate.cli import render

    settings = settings_of(data_dir, config)
    if provider:
        from gate.demo.with_provider import demo as with_provider
        from gate.demo.with_questions import demo as with_questions

        parts = [with_provider(url, settings, key)]
        if not json:
            render.steps(*parts[0], json)
        parts.append(with_questions(None if json else partial(print, flush=True)))
    else:
        from gate.demo.acceptance import demo as alone

        parts = [alone(url, settings.data_dir, key)]
    seen = [step for steps, _ in parts for step in steps]
    render.steps(seen if json else parts[-1][0], parts[-1][1], json)
    raise typer.Exit(0 if all(step.ok for step in seen) else 1)


for command in (
    serve, pools.status, pools.accounts, pools.servers, jobs.acquire, jobs.claim, jobs.renew, jobs.release, jobs.cancel, jobs.ask, jobs.jobs, jobs.explain, pools.trends, maintenance.ledger,
    pools.pause, pools.resume, maintenance.verify, maintenance.doctor, pools.rebuild, maintenance.backup, maintenance.prune, demo,
):  # fmt: skip
    app.command()(command)
app.command(context_settings={"allow_interspersed_args": False})(jobs.run)  # its options end where the command begins
app.add_typer(pools.app, name="pools")
app.add_typer(callbacks.app, name="callbacks")
app.add_typer(keys.app, name="keys")
app.add_typer(maintenance.db, name="db")


@app.callback()
def gate(
    version: Annotated[bool, typer.Option("--version", help="Say which gate this is.", is_eager=True)] = False,
) -> None:
    """Run a command, or print the version."""
    if version:
        from gate import __version__

        print(f"gate {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command of the arguments. An error of gate or of the input becomes one line on stderr and exit code 1."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app()
        sys.stdout.flush()
    except CannotStart as error:
        _stop(error.detail)
    except GateError as error:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
        _stop(f"{name}: {error.detail}")
    except UnicodeError:
        _stop("the words given are not text in UTF-8")
    except BrokenPipeError:  # `gate jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _stop(f"{error.strerror or error}")
    except ValueError as error:
        _stop(_validation_text(error))


def _validation_text(error: ValueError) -> str:
    """Name the first invalid field of a request body. Any other ValueError is a fault of gate and is raised again."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        raise error
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].removeprefix('Value error, ')}"


def _stop(line: str) -> NoReturn:
    print(f"gate: {line}", file=sys.stderr)
    sys.exit(1)
