"""Statements of the writer that Postgres parses and plans once a session.

The plan is made for any values and kept (`force_generic_plan`). For any values Postgres would read whole tables, so that is switched off. Behind a
transaction pooler nothing is prepared: the next transaction may have another session, which knows neither the statement nor the settings.

Measured gain (`python -m bench ablation`): +9 % CPU for a pair without it.
"""

from __future__ import annotations

from typing import Any

PREPARED_MAX = 256
"""Statements that a session keeps prepared: one for each kind of write, and for each mix of nulls and sizes of its values."""
_SETTINGS = (
    "select case when pg_backend_pid() = %s then set_config('plan_cache_mode', 'force_generic_plan', false)"
    " || set_config('enable_seqscan', 'off', false) end"
)


def prepare_ahead(session: Any, _record: object = None) -> None:
    """Let a new session of the writer prepare each statement at its first use, unless a pooler stands in between.

    A pooler shows in the process id: the session was told another at its start than that of the process which answers.

    Args:
        session: A connection of psycopg.
    """
    own, session.autocommit = session.autocommit, True
    row = session.execute(_SETTINGS, (session.info.backend_pid,)).fetchone()
    session.autocommit = own
    if row != (None,):
        session.prepare_threshold, session.prepared_max = 0, PREPARED_MAX
