"""`gate explain JOB`: prints the facts of a job, from both stores or from SQL alone, as sentences under headings."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from rich.text import Text

from gate.cli import context
from gate.cli.render import FITS, as_json, console, plain
from gate.explain import facts as explain
from gate.explain import sentences
from gate.explain.facts import Facts, by_both, by_sql_alone
from gate.explain.formatting import clock
from gate.model.errors import CannotStart, JobUnknown, StoreDown
from gate.runtime.settings import Settings
from gate.telemetry import logging as logs


def run(settings: Settings, job_id: str, json: bool) -> None:
    """Print the explanation of a job.

    Args:
        settings: Settings that name the stores.
        job_id: The job, or the provider's task that is bound to it.
        json: Print the facts as one JSON document instead of sentences.

    Raises:
        JobUnknown: No pool has such a job, and no job such a task.
        CannotStart: There is no ledger yet.
    """
    facts = asyncio.run(_facts(settings, job_id))
    if json:
        as_json(explain.body(facts))
    else:
        _show(facts)


async def _facts(settings: Settings, job_id: str) -> Facts:
    """Read both stores if the job is live and Redis answers, else SQL alone. A task's id stands for its job's id."""
    async with context.sql(settings) as reading:
        story = await reading.timelines.of(job_id)
        if story is None and (bound := await reading.timelines.of_task(job_id)) is not None:
            story = await reading.timelines.of(bound)
        unread = await reading.unread.of_task(job_id) if story is None else []
    if story is None:
        detail = f"no pool has, or ever had, a job {job_id!r}, nor a provider's task of that name"
        if unread:
            detail += f"; callback {unread[-1].id}, which could not be read, names that task: gate callbacks"
        raise JobUnknown(detail)
    if story.job.ended:
        return by_sql_alone(story, None)
    where = context.redis_url(settings)
    if where is None:
        return by_sql_alone(story, context.not_running(settings))
    logs.configure(logging.ERROR)
    try:
        async with context.opened(settings, where) as gate:
            return await by_both(gate.services.queries, gate.services.ledger, story.job)
    except (StoreDown, CannotStart) as error:
        return by_sql_alone(story, error.detail)


def _show(facts: Facts) -> None:
    job = facts.job
    labels = [f"{name} {value}" for name in ("tool", "user", "session") if (value := getattr(job, name)) is not None]
    heading = " · ".join([f"job {job.job_id}", f"pool {job.pool}", *labels])
    console.print(Text(plain(heading), style="bold"), soft_wrap=True)
    for title, section in sentences.sections(facts).items():
        console.print(Text(f"\n{title}", style="bold"))
        when = [clock(one.at) if one.at is not None else "" for one in section]
        indent = max(len(time) for time in when) + (4 if any(when) else 2)
        for time, one in zip(when, section, strict=True):
            words = Text(plain(one.words))
            lines = words.wrap(console, max(console.width - indent, 1), overflow="fold") if FITS else [words]
            for number, line in enumerate(lines):
                line.rstrip()
                console.print(Text.assemble(f"  {'' if number else time}".ljust(indent), line), soft_wrap=True)
    console.print(Text(f"\nTimes are {datetime.now().astimezone().tzname()}.", style="dim"))
