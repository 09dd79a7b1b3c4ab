"""What Postgres does with a commit before it answers: its own disk, and its standbys. For operators."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from gate.ledger.sql.engines import first_line, replica
from gate.model.errors import CannotStart

SYNCHRONOUS = ("sync", "quorum")
"""States of a standby for which commits wait."""
_SETTINGS = "select current_setting('synchronous_standby_names'), current_setting('synchronous_commit'), pg_is_in_recovery()"
_STANDBYS = (
    "select coalesce(nullif(application_name, ''), host(client_addr), pid::text), coalesce(sync_state, ''),"
    " pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint, extract(epoch from replay_lag)::float8"
    " from pg_stat_replication order by 1"
)
_BEHIND = (
    "select case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() and exists (select from pg_stat_wal_receiver) then 0"
    " else coalesce(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 0) end::float8"
)


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby that is connected.

    Attributes:
        name: Its application_name.
        state: `sync`, `quorum`, `potential` or `async`; empty when this user may not see it.
        lacks_bytes: What it has not on its disk yet of the log (bytes); None when this user may not see it.
        lags_s: How long it takes to apply a commit (s); None while it has nothing to apply.
    """

    name: str
    state: str
    lacks_bytes: int | None
    lags_s: float | None

    @property
    def synchronous(self) -> bool:
        """Whether commits wait for it."""
        return self.state in SYNCHRONOUS


@dataclass(frozen=True, slots=True)
class Replication:
    """How safe a commit is when it is answered.

    Attributes:
        names: `synchronous_standby_names`; empty when commits wait for no standby.
        commit: `synchronous_commit` of gate's sessions.
        standbys: The standbys that are connected.
    """

    names: str
    commit: str
    standbys: tuple[Standby, ...]

    @property
    def waits(self) -> bool:
        """Whether a commit waits for a standby."""
        return bool(self.names) and self.commit not in ("off", "local")


def replication(connection: Connection) -> Replication | None:
    """Return what is known of the standbys; None on SQLite, and on a server that is a standby itself."""
    if connection.dialect.name != "postgresql":
        return None
    names, commit, is_standby = connection.exec_driver_sql(_SETTINGS).one()
    if is_standby:
        return None
    rows = connection.exec_driver_sql(_STANDBYS)
    return Replication(names.strip(), commit, tuple(Standby(*row) for row in rows))


def behind_s(url: str) -> float:
    """Ask a replica how old the state is that it shows.

    Args:
        url: Its address.

    Returns:
        The age (s); 0 when it has applied all that its primary sends.

    Raises:
        CannotStart: It does not answer.
    """
    made = replica(url)
    try:
        with made.connect() as connection:
            return float(connection.exec_driver_sql(_BEHIND).scalar_one())
    except SQLAlchemyError as error:
        raise CannotStart(first_line(error)) from error
    finally:
        made.dispose()
