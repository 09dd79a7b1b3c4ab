"""The migrations and the tables that the code speaks of are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from gate.ledger.admin import migrate as schema
from gate.ledger.sql import engines
from gate.ledger.sql.tables import metadata
from gate.model.errors import CannotStart
from tests.support.stores import fresh_database

LOOSENED = {("0005", "jobs_late"), ("0006", "unread_callbacks_applied"), ("0009", "jobs_expired")}
"""Constraints that a migration has replaced, each by one that allows all that the one before allowed."""
CONTRACTED: dict[str, str] = {}
"""By migration: the version whose successor no longer reads or writes what it takes away. See docs/how-it-is-built.md."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parents[1] / "migrations"))
    return config


def _upgrade(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _execute(url: str, *statements: str) -> None:
    """`@` stands before the name of a table of gate."""
    engine = engines.engine(url, writes=True)
    with engine.begin() as connection:
        for one in statements:
            connection.exec_driver_sql(one.replace("@", "" if connection.dialect.name == "sqlite" else "gate."))
    engine.dispose()


def test_the_tables_are_what_the_migrations_make(sql_url: str, tmp_path: Path) -> None:
    with fresh_database(tmp_path / "other") as other:
        engine = engines.engine(other, writes=True)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("create schema gate")
            metadata.create_all(connection)
        engine.dispose()
        assert _schema_of(sql_url) == _schema_of(other)


def _schema_of(url: str) -> dict[str, list[str]]:
    """What a database says of its own tables, but for the version table and the defaults that a migration fills rows with."""
    engine = engines.engine(url, writes=False)
    asked = sa.inspect(engine)
    schema = None if engine.dialect.name == "sqlite" else "gate"
    found = {}
    for table in set(asked.get_table_names(schema)) - {"alembic_version"}:
        columns = [f"{c['name']} {c['type']} {'null' if c['nullable'] else ''}" for c in asked.get_columns(table, schema)]
        rules = [
            *asked.get_check_constraints(table, schema),
            *asked.get_unique_constraints(table, schema),
            *asked.get_foreign_keys(table, schema),
            *asked.get_indexes(table, schema),
            asked.get_pk_constraint(table, schema),
        ]
        said = [f"{rule['name']} {rule.get('column_names')} {rule.get('sqltext')}" for rule in rules]
        wheres = [str(option) for rule in rules for option in rule.get("dialect_options", {}).values()]
        found[table] = sorted(columns + said + wheres)
    engine.dispose()
    return found


def test_the_newest_migration_is_the_one_that_serve_looks_for() -> None:
    assert ScriptDirectory.from_config(_config()).get_current_head() == schema.HEAD


def test_migrating_twice_does_nothing(sql_url: str) -> None:
    assert schema.migrate(sql_url) is False


def test_pools_and_jobs_of_an_older_ledger_have_the_default_of_each_new_column(tmp_path: Path) -> None:
    with fresh_database(tmp_path / "older") as older:
        engine = engines.engine(older, writes=True)
        at = "" if engine.dialect.name == "sqlite" else "gate."
        with engine.begin() as connection:
            if at:
                connection.exec_driver_sql("create schema gate")
            _upgrade(connection, "0007")
            connection.exec_driver_sql(
                f'insert into {at}pools (name, epoch, void_fence, void_ticket, "limit", lease_ms, max_hold_ms, claim_ms, queue_ms, queue_max,'
                " cooldown_ms, max_active_per_user, paused, configured, redis_identity, redis_former, ledger_id)"
                " values ('p', 0, 0, 0, 3, 1, 1, 1, 1, 1, 1, 0, false, '{}', '', '', 'x')"
            )
            connection.exec_driver_sql(
                f"insert into {at}jobs (job_id, pool, status, credits, ticket, fence, lease_ms, enqueued_at)"
                " values ('j', 'p', 'queued', 0, 1, 0, 1, 1)"
            )
        assert schema.migrate(older)
        with engine.begin() as connection:
            pool = connection.exec_driver_sql(f"select refusals_before_passing, stood_ms, stood_at from {at}pools").one()
            job = connection.exec_driver_sql(f"select refusals, stood_ms from {at}jobs").one()
        engine.dispose()
        assert (tuple(pool), tuple(job)) == ((3, 0, 0), (0, 0))


def _parts(connection: Connection) -> dict[str, dict[str, Any]]:
    """By table: its columns by name, and its rules (checks, unique, foreign and primary keys, unique indexes) by name."""
    asked, schema_name = sa.inspect(connection), None if connection.dialect.name == "sqlite" else "gate"
    found = {}
    for table in set(asked.get_table_names(schema_name)) - {"alembic_version"}:
        rules = [
            *asked.get_check_constraints(table, schema_name),
            *asked.get_unique_constraints(table, schema_name),
            *asked.get_foreign_keys(table, schema_name),
            *(one for one in asked.get_indexes(table, schema_name) if one["unique"]),
        ]
        found[table] = {
            "columns": {one["name"]: one for one in asked.get_columns(table, schema_name)},
            "rules": {rule["name"]: (rule.get("sqltext"), tuple(rule.get("column_names", ()))) for rule in rules},
        }
    return found


def _breaks(revision: str, before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """What the version before could no longer read or write."""
    wrong = [f"{table} is gone" for table in before.keys() - after.keys()]
    for table in before.keys() & after.keys():
        old, new = before[table]["columns"], after[table]["columns"]
        wrong += [f"{table}.{name} is gone" for name in old.keys() - new.keys()]
        for name, column in new.items():
            if name not in old and not (column["nullable"] or column["default"] is not None):
                wrong.append(f"{table}.{name} has to be filled")
            if name in old and str(old[name]["type"]) != str(column["type"]):
                wrong.append(f"{table}.{name} has another type")
            if name in old and old[name]["nullable"] and not column["nullable"]:
                wrong.append(f"{table}.{name} takes no null any more")
        rules = before[table]["rules"]
        for name, rule in after[table]["rules"].items():
            text, columns = rule
            of_a_new_column = any(name in (text or "") or name in columns for name in new.keys() - old.keys())
            if rule != rules.get(name) and not of_a_new_column and (revision, name) not in LOOSENED:
                wrong.append(f"{table} has the new rule {name}")
    return wrong


def test_a_migration_takes_nothing_away_from_the_version_before_it(tmp_path: Path) -> None:
    with fresh_database(tmp_path / "steps") as url:
        engine = engines.engine(url, writes=True)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("create schema gate")
            before: dict[str, dict[str, Any]] = {}
            for step in reversed(list(ScriptDirectory.from_config(_config()).walk_revisions())):
                _upgrade(connection, step.revision)
                after = _parts(connection)
                if step.revision not in CONTRACTED:
                    assert _breaks(step.revision, before, after) == [], step.path
                before = after
        engine.dispose()


@pytest.mark.parametrize(
    "change, why",
    [
        ("alter table @pools rename column paused to stopped", "the column pools.paused is gone"),
        ("alter table @jobs drop column error_kind", "the column jobs.error_kind is gone"),
        ("drop table @deliveries", "the table deliveries is gone"),
    ],
)
def test_a_newer_schema_is_refused_in_one_line_when_it_lacks_what_this_version_needs(
    sql_url: str, change: str, why: str
) -> None:
    _execute(sql_url, "update @alembic_version set version_num = '9999'", change)
    with pytest.raises(CannotStart) as refused:
        schema.migrate(sql_url)
    assert f"has schema 9999, on which this gate ({schema.HEAD}) cannot serve: {why}" in refused.value.detail
    assert "\n" not in refused.value.detail
    assert schema.state(sql_url).misfit == why


def test_a_newer_schema_that_only_has_more_is_served(sql_url: str) -> None:
    more = "alter table @jobs add column colour text", "alter table @pools add column size bigint not null default 3"
    _execute(sql_url, "update @alembic_version set version_num = '9999'", *more, "create table @paints (name text not null)")
    assert schema.migrate(sql_url) is False
    schema.require(sql_url)
    found = schema.state(sql_url)
    assert (found.is_newer, found.due, found.misfit) == (True, (), None)


def test_an_older_schema_is_refused_by_commands_and_named_with_what_is_due(sql_url: str) -> None:
    _execute(sql_url, "update @alembic_version set version_num = '0013'")
    with pytest.raises(CannotStart, match=r"has schema 0013, and this gate reads .* run `gate db upgrade`"):
        schema.require(sql_url)
    due = schema.state(sql_url).due
    assert due[0].startswith("0014 Add how often a job was started again") and due[-1].startswith(schema.HEAD)


def test_a_schema_that_is_there_needs_no_migration_and_one_that_is_not_needs_all(sql_url: str, tmp_path: Path) -> None:
    assert schema.state(sql_url) == schema.SchemaState(schema.HEAD)
    with fresh_database(tmp_path / "none") as nothing:
        found = schema.state(nothing)
        assert found.at is None and found.due[0].startswith("0001 ")
        with pytest.raises(CannotStart, match="there is no ledger"):
            schema.require(nothing)


def test_an_upgrade_that_fails_names_the_command_for_a_role_that_may(sql_url: str) -> None:
    _execute(sql_url, "update @alembic_version set version_num = '0014'")  # its column is there already
    with pytest.raises(CannotStart, match=r"schema 0014 could not be upgraded .* `gate db upgrade`"):
        schema.migrate(sql_url)
