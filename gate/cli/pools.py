"""Commands about pools: who holds a slot and who waits, and what an operator changes live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gate.cli.flags import LONG, ConfigFlag, DataDirFlag, JsonFlag, PoolFlag, ReasonFlag, settings_of

if TYPE_CHECKING:
    from gate.gatekeeper import Gatekeeper
    from gate.ledger.owing import Pending
    from gate.view import PoolView

app = typer.Typer(
    help="Every pool as it is now; `settings` shows what is set of one, `set` changes it live, or makes it.",
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
    """Who holds a slot, who waits, and why."""
    from gate.cli import show, stores

    settings = settings_of(data_dir, config)
    if watch:
        from gate.cli.watch import watch as stay

        stay(settings, pool, json)
        return

    async def look(gate: Gatekeeper) -> tuple[PoolView, Pending, Pending]:
        owing = gate.view.reading.owing
        return await gate.view.pool(pool, LONG if json else 100), await owing.refunds(pool), await owing.calls(pool)

    show.status(*stores.visit(settings, look), json)


@app.callback()
def every(context: typer.Context, data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    from gate.cli import show, stores

    if context.invoked_subcommand is None:
        show.pools(stores.visit(settings_of(data_dir, config), lambda gate: gate.view.pools(LONG if json else 0)), json)


@app.command("set")
def change(
    pool: Annotated[str, typer.Argument(help="Its name; one that is not there is made.")],
    limit: Annotated[int | None, typer.Option(help="Jobs at a time. Below what runs it drains: nobody is killed.")] = None,
    lease_seconds: Seconds = None,
    max_hold_seconds: Seconds = None,
    claim_seconds: Seconds = None,
    queue_seconds: Seconds = None,
    queue_max: Annotated[int | None, typer.Option(help="Waiters.")] = None,
    cooldown_seconds: Seconds = None,
    max_active_per_user: Annotated[int | None, typer.Option(help="0 = no cap.")] = None,
    reason: ReasonFlag = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Change a pool live, kept through restart and rebuild; or make one, with the defaults for what is not named."""
    from gate.cli import show, stores
    from gate.errors import PoolUnknown
    from gate.http.wire import PoolBody, ReasonBody
    from gate.jobs import POOL_NAME

    given = {
        "limit": limit, "lease_seconds": lease_seconds, "max_hold_seconds": max_hold_seconds, "claim_seconds": claim_seconds,
        "queue_seconds": queue_seconds, "queue_max": queue_max, "cooldown_seconds": cooldown_seconds,
        "max_active_per_user": max_active_per_user,
    }  # fmt: skip
    values, why = PoolBody.model_validate(given).in_ms(), ReasonBody.model_validate({"reason": reason}).reason
    if not POOL_NAME.fullmatch(pool):
        raise typer.BadParameter(f"must match {POOL_NAME.pattern}", param_hint="POOL")
    if not values:
        raise typer.BadParameter("name at least one setting, such as --limit 5")

    async def call(gate: Gatekeeper) -> PoolView:
        try:
            return await gate.poolkeeper.change(pool, values, why)
        except PoolUnknown:
            return await gate.poolkeeper.make(pool, values, why) or await gate.poolkeeper.change(pool, values, why)

    show.pool(stores.visit(settings_of(data_dir, config), call), json)


@app.command("settings")
def its_settings(
    named: PoolArgument = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """What is set of a pool now, live changes included; works with the server stopped."""
    from gate.cli import show, stores

    name = named or pool
    show.settings(stores.look(settings_of(data_dir, config), lambda reading: stores.row_of(reading, name)), json)


@app.command()
def changes(
    named: PoolArgument = None,
    pool: PoolFlag = "default",
    limit: Annotated[int, typer.Option(min=1, max=LONG)] = 20,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """What was changed, when, by whom, and why, the newest first; works with the server stopped."""
    from gate.cli import past, stores

    name = named or pool
    found = stores.look(settings_of(data_dir, config), lambda reading: stores.changes(reading, name, limit))
    past.changes(found, name, json)


def trends(
    span: Annotated[str, typer.Option(help="hour, day or week.")] = "hour",
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Outcomes, waits, holds and refunds over the last hour, day or week; works with the server stopped."""
    from gate.cli import past, stores
    from gate.ledger.trends import SPANS

    if span not in SPANS:
        raise typer.BadParameter(f"one of {', '.join(SPANS)}", param_hint="--span")
    found = stores.look(settings_of(data_dir, config), lambda reading: stores.lately(reading, pool, span))
    past.trends(found, pool, span, json)


def pause(
    named: PoolArgument = None,
    reason: ReasonFlag = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Grant nobody a slot until it is resumed; who runs goes on."""
    _set_paused(named or pool, True, reason, data_dir, config, json)


def resume(
    named: PoolArgument = None,
    reason: ReasonFlag = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Grant slots again, beginning with who waits first."""
    _set_paused(named or pool, False, reason, data_dir, config, json)


def _set_paused(pool: str, paused: bool, reason: str | None, data_dir: Any, config: Any, json: bool) -> None:
    from gate.cli import show, stores
    from gate.http.wire import ReasonBody

    why = ReasonBody.model_validate({"reason": reason}).reason
    settings = settings_of(data_dir, config)
    show.pool(stores.visit(settings, lambda gate: gate.poolkeeper.change(pool, {"paused": paused}, why)), json)


def rebuild(
    pool: PoolFlag = "default", data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False
) -> None:
    """Load a pool into Redis anew from SQL; leases, deadlines and order stay."""
    from gate.cli import show, stores
    from gate.cli.progress import bar

    with bar(f"loading {show.plain(pool)}", json):
        view = stores.visit(settings_of(data_dir, config), lambda gate: gate.poolkeeper.rebuild(pool))
    show.pool(view, json)
