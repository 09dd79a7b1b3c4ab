"""Entry point of Alembic. gate passes its connection; the `alembic` command creates one from GATE_DATABASE_URL."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy.engine import Connection

from gate.ledger.sql.engines import engine
from gate.ledger.sql.tables import metadata


def run(connection: Connection) -> None:
    """Run the migrations that are due on a connection."""
    sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=None if sqlite else metadata.schema,
        include_schemas=not sqlite,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_in = context.config.attributes.get("connection")
if handed_in is not None:
    run(handed_in)
else:
    with engine(os.environ.get("GATE_DATABASE_URL", "sqlite:///.gate/gate.db"), writes=True).begin() as made:
        run(made)
