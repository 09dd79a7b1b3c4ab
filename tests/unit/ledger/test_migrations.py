"""The migrations and the tables that the code speaks of are the same."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from gate.ledger.admin import migrate as schema
from gate.ledger.sql import engines
from gate.ledger.sql.tables import metadata
from tests.support.stores import fresh_database


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
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parents[1] / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_migrating_twice_does_nothing(sql_url: str) -> None:
    assert schema.migrate(sql_url) is False


def test_pools_and_jobs_of_an_older_ledger_have_the_default_of_each_new_column(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    with fresh_database(tmp_path / "older") as older:
        engine = engines.engine(older, writes=True)
        at = "" if engine.dialect.name == "sqlite" else "gate."
        with engine.begin() as connection:
            if at:
                connection.exec_driver_sql("create schema gate")
            config = Config()
            config.set_main_option("script_location", str(Path(schema.__file__).parents[1] / "migrations"))
            config.attributes["connection"] = connection
            command.upgrade(config, "0007")
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
