"""Counting rows under a lock: whoever has the lock counts the jobs that run, and adds its own if they are fewer than the limit.

The lock is held until the commit is on the disk, so that admissions follow one another. A job's end needs no lock. A job is kept here,
but no money, no queue and no deadline.
"""

from __future__ import annotations

import secrets
import sys
from functools import partial

import psycopg

from bench.peers.library import in_threads, serve

LIMIT, LOCK = 200, 1
MADE = """
create table jobs (id text primary key, status text not null, started_at timestamptz not null default now(), ended_at timestamptz);
create index running on jobs (status) where status = 'running';
"""
TAKE_LOCK = f"select pg_advisory_xact_lock({LOCK})"
TAKE = f"""
insert into jobs (id, status) select %s, 'running'
where (select count(*) from jobs where status = 'running') < {LIMIT} returning true
"""
END = "update jobs set status = 'completed', ended_at = now() where id = %s and status = 'running'"


class Client:
    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        self._cursor = self._connection.cursor()
        self._name = secrets.token_hex(4)  # a later round says the same words again

    def take(self, job: str) -> bool | None:
        with self._connection.transaction():
            self._cursor.execute(TAKE_LOCK)  # a statement of its own: what is counted is seen once the lock is had
            return self._cursor.execute(TAKE, (f"{self._name}-{job}",)).fetchone()

    def free(self, job: str, slot: bool) -> None:
        self._cursor.execute(END, (f"{self._name}-{job}",))
        assert self._cursor.rowcount == 1

    def close(self) -> None:
        self._connection.close()


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1], autocommit=True) as making:
        making.execute(MADE)
    serve(partial(in_threads, partial(Client, sys.argv[1])))
