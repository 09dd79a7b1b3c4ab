"""`gate explain JOB`: its facts from both stores, or from SQL alone, as sentences under headings."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gate import explain, logs, sentences
from gate.cli import stores
from gate.cli.show import as_json, console, plain
from gate.errors import CannotStart, JobUnknown, StoreDown
from gate.explain import Facts, by_both, by_sql_alone
from gate.settings import Settings
from gate.wording import clock


def run(settings: Settings, job_id: str, json: bool) -> None:
    """Raises JobUnknown; CannotStart when there is no ledger yet."""
    facts = asyncio.run(_facts(settings, job_id))
    if json:
        as_json(explain.body(facts))
    else:
        _show(facts)


async def _facts(settings: Settings, job_id: str) -> Facts:
    """By both stores while the job is live and a Redis answers, or else by SQL alone."""
    async with stores.sql(settings) as reading:
        story = await reading.stories.of(job_id)
    if story is None:
        raise JobUnknown(f"no pool has, or ever had, a job {job_id!r}")
    if story.job.ended:
        return by_sql_alone(story, None)
    where = stores.redis_url(settings)
    if where is None:
        return by_sql_alone(story, stores.not_running(settings))
    logs.configure(logging.ERROR)
    try:
        async with stores.opened(settings, where) as gate:
            return await by_both(gate.gatekeeper.view, story.job)
    except (StoreDown, CannotStart) as error:
        return by_sql_alone(story, error.detail)


def _show(facts: Facts) -> None:
    job = facts.job
    labels = [f"{name} {value}" for name in ("tool", "user", "session") if (value := getattr(job, name)) is not None]
    heading = " · ".join([f"job {job.job_id}", f"pool {job.pool}", *labels])
    console.print(Text(plain(heading), style="bold"))
    for title, said in sentences.sections(facts).items():
        console.print(Text(f"\n{title}", style="bold"))
        grid = Table.grid(padding=(0, 2))
        dated = any(one.at is not None for one in said)
        for column in range(1 + dated):
            grid.add_column(no_wrap=dated and column == 0, overflow="fold")
        for words, at in said:
            when = [Text(clock(at) if at is not None else "")] if dated else []
            grid.add_row(*when, Text(plain(words)))
        console.print(Padding(grid, (0, 0, 0, 2), expand=False))
    console.print(Text(f"\nTimes are {datetime.now().astimezone().tzname()}, by this machine's clock.", style="dim"))
