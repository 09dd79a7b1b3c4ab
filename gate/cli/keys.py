"""Commands about keys."""

from __future__ import annotations

from typing import Annotated

import typer

from gate.cli.options import ConfigFlag, DataDirFlag, JsonFlag, settings_of

app = typer.Typer(help="Who may come in. While no key exists, only this machine may.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, for people.")],
    role: Annotated[
        str, typer.Option(help="tool (jobs), admin (everything) or read (looking, without payloads and leases).")
    ],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Make a key; it is shown this once, and counts within seconds."""
    from gate.cli import context, render
    from gate.ledger.admin import key_file
    from gate.ledger.admin.api_keys import ROLES

    if role not in ROLES:
        raise typer.BadParameter(f"one of {', '.join(ROLES)}", param_hint="--role")
    if not name.isprintable() or not 0 < len(name) <= 64:
        raise typer.BadParameter("1 to 64 printable characters", param_hint="NAME")
    key = key_file.create(context.sql_url(settings_of(data_dir, config), make=True), name, role)
    render.fact({"key": key, "name": name, "role": role}, key, json)


@app.command("list")
def every(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """Every key by name, and never the key itself."""
    from gate.cli import context, render
    from gate.ledger.admin import key_file

    render.keys(key_file.every(context.sql_url(settings_of(data_dir, config))), json)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Its name.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """It is refused within seconds. Nothing opens again by that, not even when it was the last."""
    from gate.cli import context, render
    from gate.ledger.admin import key_file

    key_file.revoke(context.sql_url(settings_of(data_dir, config)), name)
    render.fact({"revoked": name}, f"{name} is revoked", json)
