"""A session of Postgres that ends a read whose caller has left. This module is imported only where Postgres is used.

`statement_timeout` of a session would do that too. But behind a transaction pooler another client would have the session next,
with that limit. Set for one read alone, it needs a transaction around the read: two round trips more. This limit costs none.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import _WaitTimeout

T = TypeVar("T")

CANCEL_S = 2.0
"""How long Postgres has (s) to take the request to end a statement. The session is closed afterwards in any case."""
LOOK_S = 0.1
"""Time (s) after which psycopg looks whether it was interrupted, as it does by default."""


class ReadingSession(psycopg.Connection[tuple[Any, ...]]):
    """A session that waits for its answers until a given time.

    Attributes:
        give_up: That time, by `time.monotonic()` (s); infinity for no limit.
    """

    give_up = math.inf

    def wait(self, gen: PQGen[T], interval: float = LOOK_S, timeout: float | None = None) -> T:
        """Wait for Postgres, as psycopg calls it for each statement.

        Raises:
            OperationalError: `give_up` has come. The statement is ended in Postgres, and the session is closed.
        """
        if self.give_up < math.inf:
            timeout = max(self.give_up - time.monotonic(), 0.0)
        try:
            return super().wait(gen, interval, timeout)
        except _WaitTimeout as error:
            with contextlib.suppress(psycopg.Error):  # a Postgres that hangs takes no request
                self.cancel_safe(timeout=CANCEL_S)
            self.close()  # the request may reach Postgres late, and would end the next statement
            raise psycopg.OperationalError("the read took longer than its caller waits") from error
