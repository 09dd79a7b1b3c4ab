"""A slot a row: what most engineers would write on their Postgres. Who finds a row that nobody holds and nobody is about to take has it.

One statement and one commit take a slot, another of each frees it. It keeps no job, no money, no queue and no deadline.
"""

from __future__ import annotations

import sys
from functools import partial

import psycopg

from bench.peers.library import in_threads, serve

SLOTS = 200
MADE = f"""
create table slots (id int primary key, holder text, taken_at timestamptz) with (fillfactor = 50);
insert into slots select generate_series(1, {SLOTS});
"""
"""Half of a page is left free, so that a changed row stays on it and no index is touched."""

TAKE = """
with free as materialized (select id from slots where holder is null limit 1 for update skip locked)
update slots set holder = %s, taken_at = now() from free where slots.id = free.id returning slots.id
"""
FREE = "update slots set holder = null, taken_at = null where id = %s and holder = %s"


class Client:
    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        self._cursor = self._connection.cursor()

    def take(self, job: str) -> int | None:
        row = self._cursor.execute(TAKE, (job,)).fetchone()
        return row and row[0]

    def free(self, job: str, slot: int) -> None:
        self._cursor.execute(FREE, (slot, job))
        assert self._cursor.rowcount == 1

    def close(self) -> None:
        self._connection.close()


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1], autocommit=True) as making:
        making.execute(MADE)
    serve(partial(in_threads, partial(Client, sys.argv[1])))
