"""The terminal: `gate COMMAND`. What works on the stores finds a running server's through the data dir."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from gate.errors import CannotStart, Conflict, GateError
from gate.settings import Settings, load

app = typer.Typer(
    name="gate", help="Three run, the fourth waits.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True,
)  # fmt: skip

keys = typer.Typer(help="Who may come in. While no key exists, only this machine may.", no_args_is_help=True)
app.add_typer(keys, name="keys")
db = typer.Typer(help="The schema of the ledger.", no_args_is_help=True)
app.add_typer(db, name="db")

DataDirFlag = Annotated[Path | None, typer.Option(help="Where the server keeps its files (default ./.gate).")]
ConfigFlag = Annotated[Path | None, typer.Option(help="A gate.toml elsewhere than here.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="For programs.")]
PoolFlag = Annotated[str, typer.Option(help="The pool.")]
JobArgument = Annotated[str, typer.Argument(help="The job_id.", metavar="JOB")]
LONG = 10_000


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1; another than loopback wants a key first.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000; 0 takes a free one.")] = None,
    data_dir: DataDirFlag = None,
    redis_url: Annotated[str | None, typer.Option(help="Default: an embedded Valkey.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Default: SQLite in the data dir.")] = None,
    config: ConfigFlag = None,
) -> None:
    """Serve HTTP until stopped."""
    from gate.cli.serve import serve as run

    run(load(config, host=host, port=port, data_dir=data_dir, redis_url=redis_url, database_url=database_url))


@app.command()
def status(
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Who holds a slot, who waits, and why."""
    from gate.cli import show, stores

    async def look(gate):  # type: ignore[no-untyped-def]
        reading = gate.view.reading
        view = await gate.view.pool(pool, LONG if json else 100)
        return view, await reading.owing.refunds(pool), await reading.owing.calls(pool)

    show.status(*stores.visit(_settings(data_dir, config), look), json)


@app.command()
def acquire(
    pool: PoolFlag = "default",
    job_id: Annotated[str | None, typer.Option(help="Made up when not given.")] = None,
    user: Annotated[str | None, typer.Option(help="For whom.")] = None,
    tool: Annotated[str | None, typer.Option(help="A label, for people.")] = None,
    session: Annotated[str | None, typer.Option(help="A label, to cancel by.")] = None,
    credits: Annotated[int | None, typer.Option(help="Charged already; needs --job-id.")] = None,
    lease_seconds: Annotated[float | None, typer.Option(help="Default: the pool's.")] = None,
    wait_seconds: Annotated[float, typer.Option(min=0, max=60, help="Wait so long for a grant.")] = 0,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Take a slot, or join the queue."""
    from gate.cli import show, stores
    from gate.http.jobs import request_of
    from gate.http.wire import AcquireBody

    given = {"job_id": job_id, "user": user, "tool": tool, "session": session, "credits": credits}
    request = request_of(AcquireBody.model_validate(given | {"lease_seconds": lease_seconds}))
    job = stores.visit(_settings(data_dir, config), lambda gate: gate.acquire(pool, request, wait_seconds))
    show.job(job, json)


@app.command()
def release(
    job_id: JobArgument,
    outcome: Annotated[str, typer.Option(help="completed, failed, cancelled or refused.")] = "completed",
    error: Annotated[str | None, typer.Option(help="Why it failed.")] = None,
    lease_id: Annotated[str | None, typer.Option(help="Default: the lease it holds now.")] = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Give a job's slot back and say how it ended."""
    from gate.cli import show, stores
    from gate.gatekeeper import Gatekeeper
    from gate.http.wire import ReleaseBody
    from gate.jobs import Job

    async def call(gate: Gatekeeper) -> Job:
        job = await gate.view.wait(pool, job_id, "", 0)
        if lease_id is None and job.status == "queued":
            raise Conflict("it waits and holds no slot: `gate cancel` ends it", job)
        given = {"lease_id": lease_id or job.lease_id or "none", "outcome": outcome, "error": error}
        body = ReleaseBody.model_validate(given)
        return await gate.release(pool, job_id, body.lease_id, body.outcome, body.error, by="operator")

    show.job(stores.visit(_settings(data_dir, config), call), json)


@app.command()
def cancel(
    job_id: JobArgument,
    reason: Annotated[str | None, typer.Option(help="Kept with the job.")] = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """End a job that has not ended; its credits go back."""
    from gate.cli import show, stores
    from gate.http.wire import ReasonBody

    given = ReasonBody.model_validate({"reason": reason})
    show.job(stores.visit(_settings(data_dir, config), lambda gate: gate.cancel(pool, job_id, given.reason)), json)


@app.command()
def jobs(
    pool: PoolFlag = "default",
    status: Annotated[str | None, typer.Option(help="Only those.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=LONG)] = 50,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """The newest jobs of a pool; works with the server stopped."""
    from gate.cli import show, stores
    from gate.jobs import STATUSES

    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"one of {', '.join(sorted(STATUSES))}", param_hint="--status")
    found = stores.look(_settings(data_dir, config), lambda reading: stores.recent(reading, pool, status, limit))
    show.jobs(found, json, f"pool {pool}: the newest jobs")


@app.command()
def ledger(
    user: Annotated[str | None, typer.Option(help="Only theirs.")] = None,
    job_id: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    kind: Annotated[str | None, typer.Option(help="charge or refund.")] = None,
    after: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The next page: the id that the page before named.")] = 0,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Charges and refunds, oldest first; works with the server stopped."""
    from gate.cli import show, stores

    if kind not in (None, "charge", "refund"):
        raise typer.BadParameter("charge or refund", param_hint="--kind")
    rows, following = stores.look(
        _settings(data_dir, config),
        lambda reading: reading.entries(user=user, job_id=job_id, kind=kind, after=after),
    )
    show.ledger(rows, following, json)


@app.command()
def verify(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """Check the invariants I1-I9 in both stores; exit 1 on a breach. May run live."""
    from gate.cli import show, stores
    from gate.verify import verify as run

    settings = _settings(data_dir, config)
    report = run(stores.sql_url(settings), stores.redis_url(settings))
    show.report(report, json)
    raise typer.Exit(1 if report.breaches else 0)


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend.")] = False,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Name what is wrong: drift between the stores, owed refunds, calls not answered, clocks, versions; exit 1 if anything is."""
    import asyncio
    import logging

    from gate import logs
    from gate.cli import show, stores
    from gate.doctor import look_over

    settings = _settings(data_dir, config)
    logs.configure(logging.ERROR)
    where = stores.redis_url(settings)
    found = asyncio.run(look_over(where, stores.sql_url(settings), settings.known_tools(), fix))
    show.findings(found, where is not None, json)
    raise typer.Exit(1 if any(not one.mended for one in found) else 0)


@app.command()
def demo(
    url: Annotated[
        str | None,
        typer.Option(help="A running gate; default: the one in the data dir, or one of its own."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="GATE_KEY", help="Where the gate wants one: of a tool or an admin.")
    ] = None,
    provider: Annotated[
        bool, typer.Option("--provider", help="With RunningHub simulated: callbacks, and lost ones.")
    ] = False,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Four at once: three run, one waits, one is lost. On a live service; exit 1 if anything differs."""
    from gate.cli import show

    settings = _settings(data_dir, config)
    if provider:
        from gate.demo_provider import demo as with_provider

        steps, where = with_provider(url, settings, key)
    else:
        from gate.demo import demo as alone

        steps, where = alone(url, settings.data_dir, key)
    show.steps(steps, where, json)
    raise typer.Exit(0 if all(step.ok for step in steps) else 1)


@app.command()
def rebuild(
    pool: PoolFlag = "default", data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False
) -> None:
    """Load a pool into Redis anew from SQL; leases, deadlines and order stay."""
    from gate.cli import show, stores

    show.pool(stores.visit(_settings(data_dir, config), lambda gate: gate.poolkeeper.rebuild(pool)), json)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; never overwrites.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Copy the SQLite ledger as of one moment, while gate runs or not."""
    from gate.cli import show, stores
    from gate.ledger.backup import backup as run

    size = run(stores.sql_url(_settings(data_dir, config)), file)
    show.fact({"file": str(file.absolute()), "bytes": size}, f"{file}: {size} bytes", json)


@app.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Ended longer ago than this: 90d, 12h, 30m, 45s.", metavar="AGE")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Forget payloads, outputs and histories of old jobs; ids, outcomes and money stay. Runs beside a server or without."""
    from gate.cli import show, stores
    from gate.ledger.prune import prune as run

    done = run(stores.sql_url(_settings(data_dir, config)), _age_ms(older_than))
    words = f"{done.jobs} jobs pruned to their outcome and their money, {done.events} events forgotten"
    show.fact({"jobs": done.jobs, "events": done.events}, words, json)


def _age_ms(age: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([dhms])", age)
    if found is None:
        raise typer.BadParameter("a number and d, h, m or s, such as 90d", param_hint="--older-than")
    return int(found[1]) * {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}[found[2]]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is, for people.")],
    role: Annotated[
        str, typer.Option(help="tool (jobs), admin (everything) or read (looking, without payloads and leases).")
    ],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Make a key; it is shown this once, and counts within seconds."""
    from gate.cli import show, stores
    from gate.ledger import keyfile
    from gate.ledger.keys import ROLES

    if role not in ROLES:
        raise typer.BadParameter(f"one of {', '.join(ROLES)}", param_hint="--role")
    if not name.isprintable() or not 0 < len(name) <= 64:
        raise typer.BadParameter("1 to 64 printable characters", param_hint="NAME")
    key = keyfile.create(stores.sql_url(_settings(data_dir, config), make=True), name, role)
    show.fact({"key": key, "name": name, "role": role}, key, json)


@keys.command("list")
def list_keys(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """Every key by name, and never the key itself."""
    from gate.cli import show, stores
    from gate.ledger import keyfile

    show.keys(keyfile.every(stores.sql_url(_settings(data_dir, config))), json)


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Its name.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """It is refused within seconds. Nothing opens again by that, not even when it was the last."""
    from gate.cli import show, stores
    from gate.ledger import keyfile

    keyfile.revoke(stores.sql_url(_settings(data_dir, config)), name)
    show.fact({"revoked": name}, f"{name} is revoked", json)


@db.command()
def upgrade(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """Bring the schema up to date (`gate serve` does it too)."""
    from gate.cli import show
    from gate.ledger import schema

    upgraded = schema.make(_settings(data_dir, config).sql_url)
    words = f"upgraded to {schema.HEAD}" if upgraded else f"up to date at {schema.HEAD}"
    show.fact({"upgraded": upgraded, "schema": schema.HEAD}, words, json)


@app.callback()
def gate(
    version: Annotated[bool, typer.Option("--version", help="Say which gate this is.", is_eager=True)] = False,
) -> None:
    if version:
        from gate import __version__

        print(f"gate {__version__}")
        raise typer.Exit


def _settings(data_dir: Path | None, config: Path | None) -> Settings:
    return load(config, data_dir=data_dir)


def main() -> None:
    from pydantic import ValidationError

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app()
        sys.stdout.flush()
    except ValidationError as error:
        first = error.errors()[0]
        _stop(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].removeprefix('Value error, ')}")
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


def _stop(line: str) -> None:
    print(f"gate: {line}", file=sys.stderr)
    sys.exit(1)
