"""Send several statements to Postgres in one round trip.

psycopg's own pipeline does that, but also sends a Flush and hides the first error, which gate cannot accept. This module is
imported only where Postgres is used.

Measured gain (`python -m bench ablation`): +7 % CPU for a pair without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg.abc import PQGen


class _PipelineWithoutFlush(psycopg.Pipeline):
    """A pipeline that sends no Flush after its Sync.

    Postgres takes the Flush for a new query. It then no longer applies idle_in_transaction_session_timeout, so a suspended
    session would keep a pool's row.
    """

    def _exit_gen(self) -> PQGen[None]:
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)


@contextlib.contextmanager
def journey(session: psycopg.Connection) -> Iterator[None]:
    """Send all statements of the block in one round trip. Their cursors have answers when the block ends.

    Args:
        session: The connection. It is closed when the server has ended it meanwhile.

    Raises:
        psycopg.Error: The error of the first statement that Postgres refused.
    """
    session._pipeline = _PipelineWithoutFlush(session)  # `pipeline()` below reuses a pipeline that is set
    try:
        with session.pipeline():
            yield
    except BaseException as error:
        if not session.closed and session.pgconn.pipeline_status:
            # The server ended the session during a read. The pipeline can neither continue nor exit.
            # The first error tells the cause.
            session.close()
            if isinstance(error, psycopg.Error) and isinstance(error.__context__, psycopg.Error):
                raise error.__context__ from None
        raise
