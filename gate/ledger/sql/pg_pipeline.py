"""One journey to Postgres: what is said within goes out together, and is answered at its end.

The library's pipeline does that, and two things more that gate cannot have. It is imported only where Postgres is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg.abc import PQGen


class _Journey(psycopg.Pipeline):
    """Without the Flush that the library sends behind its Sync: Postgres takes it for a new question, and no longer watches how long
    this session stands still with a pool's row in its hands (idle_in_transaction_session_timeout).
    """

    def _exit_gen(self) -> PQGen[None]:
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)


@contextlib.contextmanager
def journey(session: psycopg.Connection) -> Iterator[None]:
    """Raises what psycopg raises, of the first that was refused. A session that ended meanwhile is closed."""
    session._pipeline = _Journey(session)  # the library goes on with the one that is there
    try:
        with session.pipeline():
            yield
    except BaseException as error:
        if not session.closed and session.pgconn.pipeline_status:
            # It was told goodbye while it read, and can neither go on nor leave: what it was told first is why.
            session.close()
            if isinstance(error, psycopg.Error) and isinstance(error.__context__, psycopg.Error):
                raise error.__context__ from None
        raise
