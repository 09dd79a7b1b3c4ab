"""Commands that maintain the stores: list the ledger, verify, diagnose, back up, prune and upgrade."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import ConfigFlag, DataDirFlag, JsonFlag, settings_of

if TYPE_CHECKING:
    from gate.ledger import LedgerQueries
    from gate.ledger.admin.migrate import SchemaState
    from gate.ledger.queries import Balance, Entry

db = typer.Typer(help="The schema of the ledger.", no_args_is_help=True)


def ledger(
    user: Annotated[str | None, typer.Option(help="Only theirs.")] = None,
    job_id: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    kind: Annotated[str | None, typer.Option(help="charge or refund.")] = None,
    after: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The next page: the id that the page before named.")] = 0,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """List charges and refunds, oldest first, and a user's balance. Works with the server stopped."""
    from gate.cli import context, history

    if kind not in (None, "charge", "refund"):
        raise typer.BadParameter("charge or refund", param_hint="--kind")

    async def read(reading: LedgerQueries) -> tuple[list[Entry], int | None, Balance | None]:
        page = await reading.entries(user=user, job_id=job_id, kind=kind, after=after)
        return *page, await reading.balance(user) if user is not None else None

    rows, following, balance = context.look(settings_of(data_dir, config), read)
    history.ledger(rows, following, user, balance, json)


def verify(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """Check the invariants I1-I9 in both stores. May run while gate serves.

    Exits with 1 on a breach, and when a store or a server that died could not be looked at or takes no writes.
    """
    from gate.cli import context, render
    from gate.cli.progress import bar
    from gate.diagnostics.outages import of_sql
    from gate.diagnostics.verify import verify as run

    settings = settings_of(data_dir, config)
    where = context.redis_url(settings)
    outages = context.outages(settings, where)
    if any(one.what == "redis" and one.unseen for one in outages):
        where = None
    away = of_sql(context.sql_url_of(settings)) if where is not None else None
    url = context.sql_url(settings) if away is None else None
    outages += [away] if away is not None else []
    with bar("reading both stores", json) as progress:
        report = run(url, where, progress)
    report.outages = [one.says for one in outages]
    render.report(report, json)
    raise typer.Exit(1 if report.breaches or report.outages else 0)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend.")] = False,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Report what is wrong: drift between the stores, owed refunds, unanswered calls, clocks, versions.

    Exits with 1 if there is a finding that was not mended.
    """
    import asyncio
    import logging

    from gate.cli import context, render
    from gate.cli.progress import bar
    from gate.diagnostics.doctor import look_over
    from gate.diagnostics.outages import READY_S
    from gate.diagnostics.redis_primaries import described
    from gate.telemetry import logging as logs

    settings = settings_of(data_dir, config)
    logs.configure(logging.ERROR)
    where = context.redis_url(settings)
    with bar("looking it over", json):
        outages = context.outages(settings, where)
        context.may_write(settings)
        known = settings.known_tools(), fix, outages, settings.provider_accounts(), settings.database_read_url
        found = asyncio.run(look_over(where, context.sql_url_of(settings), *known))
        kind = described(where, READY_S) if where is not None and not json else None
    if kind is not None:
        render.line(kind)
    render.findings(found, where is not None, json)
    raise typer.Exit(1 if any(not one.mended for one in found) else 0)


def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; never overwrites.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Copy the SQLite ledger as of one moment, whether gate runs or not."""
    from gate.cli import context, render
    from gate.cli.progress import bar
    from gate.ledger.admin.backup import backup as run

    with bar("copying", json) as progress:
        size = run(context.sql_url(settings_of(data_dir, config)), file, progress)
    render.fact({"file": str(file.absolute()), "bytes": size}, f"{file}: {size} bytes", json)


def prune(
    older_than: Annotated[str, typer.Option(help="Ended longer ago than this: 90d, 12h, 30m, 45s.", metavar="AGE")],
    archive: Annotated[
        Path | None, typer.Option(help="First write them there: NDJSON, a file for each month.", metavar="DIR")
    ] = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Delete payloads, outputs and histories of old jobs. Works with the server running or stopped.

    IDs, outcomes and money stay.
    """
    from gate.cli import context, render
    from gate.cli.progress import bar
    from gate.ledger.admin.prune import prune as run

    age_ms = _age_ms(older_than)
    with bar("pruning", json) as progress:
        done = run(context.sql_url(settings_of(data_dir, config)), age_ms, progress, archive)
    words = f"{done.jobs} jobs pruned to their outcome and their money, {done.events} events forgotten"
    facts = {"jobs": done.jobs, "events": done.events}
    if archive is not None:
        words += f"; archived in {archive}, with {done.charged} credits charged and {done.refunded} refunded"
        facts |= {"charged": done.charged, "refunded": done.refunded}
    render.fact(facts, words, json)


def _age_ms(age: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([dhms])", age)
    if found is None:
        raise typer.BadParameter("a number and d, h, m or s, such as 90d", param_hint="--older-than")
    return int(found[1]) * {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}[found[2]]


@db.command()
def upgrade(
    check: Annotated[bool, typer.Option("--check", help="Say what would run, and change nothing.")] = False,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Bring the schema up to date, as `gate serve` does when it starts.

    With --check it exits with 1 if a migration is due, or if this gate cannot serve on a newer schema.
    """
    from gate.cli import render
    from gate.ledger.admin import migrate

    url = settings_of(data_dir, config).sql_url
    if check:
        return _check(migrate.state(url), json)
    upgraded = migrate.make(url)
    at = migrate.revision(url)
    words = f"upgraded to {at}" if upgraded else f"up to date at {at}"
    render.fact({"upgraded": upgraded, "schema": at}, words, json)


def _check(found: SchemaState, json: bool) -> None:
    from gate.cli import render
    from gate.ledger.admin.migrate import HEAD

    fact = {"schema": found.at, "wanted": HEAD, "due": list(found.due), "misfit": found.misfit}
    if found.due:
        words = "\n".join([f"schema {found.at or 'none'}, this gate wants {HEAD}; due:", *(f"  {one}" for one in found.due)])
    elif found.misfit:
        words = f"schema {found.at} is of a newer gate, and this one ({HEAD}) cannot serve on it: {found.misfit}"
    elif found.is_newer:
        words = f"schema {found.at} is of a newer gate; this one ({HEAD}) can serve on it"
    else:
        words = f"up to date at {found.at}"
    render.fact(fact, words, json)
    raise typer.Exit(1 if found.due or found.misfit else 0)
