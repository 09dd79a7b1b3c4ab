"""Commands about API keys."""

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
    """Make a key. It is shown only once, and is accepted within seconds."""
    from gate.cli import context, render
    from gate.ledger.admin import api_keys
    from gate.ledger.admin.api_keys import ROLES
    from gate.model.label import FIT, is_fit

    if role not in ROLES:
        raise typer.BadParameter(f"one of {', '.join(ROLES)}", param_hint="--role")
    if not is_fit(name) or not 0 < len(name) <= 64:
        raise typer.BadParameter(f"1 to 64 characters; {FIT}", param_hint="NAME")
    key = api_keys.create(context.sql_url(settings_of(data_dir, config), make=True), name, role)
    render.fact({"key": key, "name": name, "role": role}, key, json)


@app.command("list")
def every(data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """List the keys by name. A whole key is never shown again."""
    from gate.cli import context, render
    from gate.ledger.admin import api_keys

    render.keys(api_keys.list_all(context.sql_url(settings_of(data_dir, config))), json)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Its name.")],
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Revoke a key. It is refused within seconds.

    Even after the last key is revoked, gate is not open: it still asks for a key.
    """
    from gate.cli import context, render
    from gate.ledger.admin import api_keys

    api_keys.revoke(context.sql_url(settings_of(data_dir, config)), name)
    render.fact({"revoked": name}, f"{name} is revoked", json)
