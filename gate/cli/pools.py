"""Commands about pools: their slots and queues, and the settings that an operator changes live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gate.cli.options import LONG, ConfigFlag, DataDirFlag, JsonFlag, PoolFlag, ReasonFlag, settings_of

if TYPE_CHECKING:
    from gate.coordination.queries import PoolSnapshot
    from gate.ledger.reports.backlog import Pending
    from gate.ledger.reports.open_tasks import OpenTasks

app = typer.Typer(
    help="Every pool as it is now; `settings` shows what is set of one, `set` changes it live, or makes it, `delete` takes an empty one away.",
    invoke_without_command=True,
)
PoolArgument = Annotated[str | None, typer.Argument(help="The pool; default: that of --pool.", metavar="POOL")]
Seconds = Annotated[float | None, typer.Option(help="0.5 and up.")]


def status(
    pool: PoolFlag = "default",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show each change, until Ctrl-C.")] = False,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Show which jobs hold a slot, which wait, and why."""
    from gate.cli import context, render

    settings = settings_of(data_dir, config)
    if watch:
        from gate.cli.watch import watch as stay

        stay(settings, pool, json)
        return

    from gate.coordination.services import Services

    async def look(gate: Services) -> tuple[PoolSnapshot, Pending, Pending, OpenTasks | None]:
        backlog, view = gate.ledger.backlog, await gate.queries.pool(pool, LONG if json else 100)
        tasks = await gate.ledger.open_tasks(pool) if view.capacity else None
        return view, await backlog.refunds(pool), await backlog.calls(pool), tasks

    render.status(*context.visit(settings, look), json)


def accounts(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """List the accounts at providers: how many tasks each takes and has, and why one is down. Works with the server stopped."""
    from gate.cli import context, render

    render.accounts(context.look(settings_of(data_dir, config), lambda reading: reading.accounts()), json)


def servers(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """List the servers of this gate: version, start, when each was last seen, and its clock. Works with the server stopped."""
    from gate.cli import context, render

    render.servers(context.look(settings_of(data_dir, config), lambda reading: reading.servers()), json)


@app.callback()
def every(command: typer.Context, data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """List every pool."""
    from gate.cli import context, render

    if command.invoked_subcommand is None:
        render.pools(context.visit(settings_of(data_dir, config), lambda gate: gate.queries.pools(LONG if json else 0)), json)


@app.command("set")
def change(
    pool: Annotated[str, typer.Argument(help="Its name.")],
    create: Annotated[bool, typer.Option("--create", help="Make the pool if there is none of this name.")] = False,
    limit: Annotated[int | None, typer.Option(help="Jobs at a time. Below what runs it drains: no job is ended.")] = None,
    lease_seconds: Seconds = None,
    max_hold_seconds: Seconds = None,
    claim_seconds: Seconds = None,
    queue_seconds: Seconds = None,
    queue_max: Annotated[int | None, typer.Option(help="Waiters.")] = None,
    cooldown_seconds: Seconds = None,
    max_active_per_user: Annotated[int | None, typer.Option(help="Live jobs of one user. 0 = no cap.")] = None,
    queue_max_per_user: Annotated[int | None, typer.Option(help="Waiters of one user. 0 = no cap.")] = None,
    refusals_before_passing: Annotated[int | None, typer.Option(help="Of one job in a row; then another is tried.")] = None,
    cancel_refunds: Annotated[
        str | None, typer.Option(help="always, or until_started: none for a job cancelled after its start.")
    ] = None,
    reason: ReasonFlag = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Change a pool live, or make one with --create.

    A change survives restart and rebuild. A new pool has the defaults for settings that are not named.
    """
    values, why = _named(pool, locals())
    from gate.cli import context, render
    from gate.coordination.services import Services
    from gate.model.errors import PoolUnknown

    async def call(gate: Services) -> PoolSnapshot:
        try:
            return await gate.pools.change(pool, values, why)
        except PoolUnknown as error:
            if not create:  # a name that was mistyped must not become a pool
                raise PoolUnknown(f"{error.detail}: --create makes it") from error
            return await gate.pools.make(pool, values, why) or await gate.pools.change(pool, values, why)

    render.pool(context.visit(settings_of(data_dir, config), call), json)


def _named(pool: str, flags: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the settings that the flags of `set` name, and the reason.

    Raises:
        BadParameter: The name of the pool is none, or no setting is named.
        ValidationError: A value is not valid.
    """
    from gate.http.schemas import PoolBody, ReasonBody
    from gate.model.job import POOL_NAME

    values = PoolBody.model_validate({name: flags[name] for name in PoolBody.model_fields}).in_ms()
    why = ReasonBody.model_validate({"reason": flags["reason"]}).reason
    if not POOL_NAME.fullmatch(pool):
        raise typer.BadParameter(f"must match {POOL_NAME.pattern}", param_hint="POOL")
    if not values:
        raise typer.BadParameter("name at least one setting, such as --limit 5")
    return values, why


@app.command()
def delete(
    pool: Annotated[str, typer.Argument(help="Its name.")],
    reason: ReasonFlag = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Delete a pool that has no live job.

    Its jobs, their history and their money stay. It may be made again.
    """
    from gate.cli import context, render
    from gate.http.schemas import ReasonBody

    why = ReasonBody.model_validate({"reason": reason}).reason
    context.visit(settings_of(data_dir, config), lambda gate: gate.pools.delete(pool, why))
    render.fact({"pool": pool, "deleted": True}, f"pool {render.plain(pool)} is deleted", json)


@app.command("settings")
def its_settings(
    named: PoolArgument = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Show the settings of a pool, live changes included. Works with the server stopped."""
    from gate.cli import context, render

    name = named or pool
    render.settings(context.look(settings_of(data_dir, config), lambda reading: context.row_of(reading, name)), json)


@app.command()
def changes(
    named: PoolArgument = None,
    pool: PoolFlag = "default",
    limit: Annotated[int, typer.Option(min=1, max=LONG)] = 20,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """List what was changed in a pool, when, by whom and why, newest first. Works with the server stopped."""
    from gate.cli import context, history

    name = named or pool
    found = context.look(settings_of(data_dir, config), lambda reading: context.changes(reading, name, limit))
    history.changes(found, name, json)


def trends(
    span: Annotated[str, typer.Option(help="hour, day or week.")] = "hour",
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Show outcomes, waits, holds and refunds of the last hour, day or week. Works with the server stopped."""
    from gate.cli import context, history
    from gate.ledger.reports.statistics import SPANS

    if span not in SPANS:
        raise typer.BadParameter(f"one of {', '.join(SPANS)}", param_hint="--span")
    found = context.look(settings_of(data_dir, config), lambda reading: context.lately(reading, pool, span))
    history.trends(found, pool, span, json)


def pause(
    named: PoolArgument = None,
    reason: ReasonFlag = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Stop granting slots until the pool is resumed. Jobs that run go on."""
    _set_paused(named or pool, True, reason, data_dir, config, json)


def resume(
    named: PoolArgument = None,
    reason: ReasonFlag = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Grant slots again, in the order of the queue."""
    _set_paused(named or pool, False, reason, data_dir, config, json)


def _set_paused(pool: str, paused: bool, reason: str | None, data_dir: Any, config: Any, json: bool) -> None:
    from gate.cli import context, render
    from gate.http.schemas import ReasonBody

    why = ReasonBody.model_validate({"reason": reason}).reason
    settings = settings_of(data_dir, config)
    render.pool(context.visit(settings, lambda gate: gate.pools.change(pool, {"paused": paused}, why)), json)


def rebuild(
    pool: PoolFlag = "default", data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False
) -> None:
    """Load a pool into Redis again from SQL. Leases, deadlines and order stay."""
    from gate.cli import context, render
    from gate.cli.progress import bar

    with bar(f"loading {render.plain(pool)}", json):
        view = context.visit(settings_of(data_dir, config), lambda gate: gate.pools.rebuild(pool))
    render.pool(view, json)
