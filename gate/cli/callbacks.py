"""Commands about callbacks that could not be read: list them, apply one to a job, dismiss one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import ConfigFlag, DataDirFlag, JsonFlag, settings_of

if TYPE_CHECKING:
    from gate.ledger import Unread

app = typer.Typer(
    help="Callbacks that could not be read, oldest first; `apply` ends a job by one, `dismiss` settles one without a job. The list works with the server stopped.",
    invoke_without_command=True,
)


@app.callback()
def unread(
    command: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 100,
    after: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The next page: the id that the page before named.")] = 0,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """List callbacks that could not be read, oldest first."""
    from gate.cli import context

    if command.invoked_subcommand is None:
        _show(*context.look(settings_of(data_dir, config), lambda reading: reading.unread.page(after, limit)), json)


@app.command()
def apply(
    callback_id: Annotated[
        int, typer.Argument(min=1, max=2**63 - 1, help="Its id, as `gate callbacks` shows it.", metavar="ID")
    ],
    job_id: Annotated[str, typer.Argument(help="The job_id.", metavar="JOB")],
    outcome: Annotated[str, typer.Option(help="How the task ended, as you read it: completed, failed or cancelled.")],
    reason: Annotated[str, typer.Option(help="How you know; it is kept.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """End a job as its provider would have ended it, with its refund. Each callback is applied once."""
    from gate.cli import context, render
    from gate.http.schemas import ApplyBody

    body = ApplyBody.model_validate({"job_id": job_id, "outcome": outcome, "reason": reason})
    settings = settings_of(data_dir, config)
    render.job(
        context.visit(settings, lambda gate: gate.unread.apply(callback_id, body.job_id, body.outcome, body.reason)), json
    )


@app.command()
def dismiss(
    callback_id: Annotated[
        int, typer.Argument(min=1, max=2**63 - 1, help="Its id, as `gate callbacks` shows it.", metavar="ID")
    ],
    reason: Annotated[str, typer.Option(help="Why it is about no job; it is kept.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Settle a callback that is about no job. It is kept, and no longer reported."""
    from gate.cli import context, render
    from gate.http.answers import unread_body
    from gate.http.schemas import DismissBody

    body = DismissBody.model_validate({"reason": reason})
    one = context.visit(settings_of(data_dir, config), lambda gate: gate.unread.dismiss(callback_id, body.reason))
    render.fact(unread_body(one), f"callback {one.id} is dismissed: {one.reason}", json)


def _show(rows: Sequence[Unread], following: int | None, json_wanted: bool) -> None:
    from gate.cli.render import as_json, line, table
    from gate.explain.formatting import short, when

    if json_wanted:
        from gate.http.answers import unread_body

        as_json({"rows": [unread_body(row) for row in rows], "next": following})
        return
    columns = ("id", "last", "times", "provider", "pool", "task", "why", "applied", "body")
    shown = (
        (one.id, when(one.last_at), one.times, one.provider, one.pool, one.task_id, one.why, _applied(one), short(one.body))
        for one in rows
    )
    table("callbacks that could not be read", columns, shown)
    if following is not None:
        line(f"more: --after {following}")


def _applied(one: Unread) -> str | None:
    if one.job_id is None and one.applied_at is not None:
        return f"{one.outcome}, by {one.applied_by}: {one.reason}"
    return f"{one.job_id} {one.outcome}, by {one.applied_by}: {one.reason}" if one.applied_at is not None else None
