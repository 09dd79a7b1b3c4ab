"""Commands about jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from gate.cli.options import LONG, ConfigFlag, DataDirFlag, JobArgument, JsonFlag, PoolFlag, ReasonFlag, settings_of


def acquire(
    pool: PoolFlag = "default",
    job_id: Annotated[str | None, typer.Option(help="Made up when not given.")] = None,
    user: Annotated[str | None, typer.Option(help="For whom.")] = None,
    tool: Annotated[str | None, typer.Option(help="A label, for people.")] = None,
    session: Annotated[str | None, typer.Option(help="A label, to cancel by.")] = None,
    credits: Annotated[int | None, typer.Option(help="Charged already; needs --job-id.")] = None,
    lease_seconds: Annotated[float | None, typer.Option(help="Default: the pool's.")] = None,
    wait_seconds: Annotated[float, typer.Option(min=0, max=60, help="Wait so long for a grant.")] = 0,
    started_by: Annotated[str | None, typer.Option(help="caller (default), or gate: by the start_url of the tool.")] = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Take a slot, or join the queue."""
    from gate.cli import context, render
    from gate.coordination.services import Services
    from gate.http.jobs import request_of
    from gate.http.schemas import AcquireBody
    from gate.model.errors import AlreadyEnded
    from gate.model.job import Job

    given = {"job_id": job_id, "user": user, "tool": tool, "session": session, "credits": credits}
    body = AcquireBody.model_validate(given | {"lease_seconds": lease_seconds, "started_by": started_by})
    request, by_gate = request_of(body), body.started_by == "gate"
    settings = settings_of(data_dir, config)
    outside = context.outside_of(settings) if by_gate else None

    async def call(gate: Services) -> Job:
        job = await gate.admission.acquire(pool, request, wait_seconds, by_gate)
        if job.ended:
            raise AlreadyEnded.of(job)
        return job

    render.job(context.visit(settings, call, outside), json)


def release(
    job_id: JobArgument,
    outcome: Annotated[str, typer.Option(help="completed, failed, cancelled or refused.")] = "completed",
    error: Annotated[str | None, typer.Option(help="Why it failed.")] = None,
    lease_id: Annotated[str | None, typer.Option(help="Default: the lease it holds now.")] = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Give a job's slot back and say how it ended."""
    from gate.cli import context, render
    from gate.coordination.services import Services
    from gate.http.schemas import ReleaseBody
    from gate.model.errors import AlreadyEnded, Conflict
    from gate.model.job import Job

    async def call(gate: Services) -> Job:
        job = await gate.queries.wait(pool, job_id, None, 0)
        if lease_id is None and job.status == "queued":
            raise Conflict("it waits and holds no slot: `gate cancel` ends it", job)
        if (
            lease_id is None and job.status == "expired"
        ):  # only its holder may report an outcome too late, and an operator is not its holder
            raise AlreadyEnded("this job is expired already", job)
        given = {"lease_id": lease_id or job.lease_id or "none", "outcome": outcome, "error": error}
        body = ReleaseBody.model_validate(given)
        return await gate.jobs.release(pool, job_id, body.lease_id, body.outcome, body.error, by="operator")

    render.job(context.visit(settings_of(data_dir, config), call), json)


SHOWN = 50
"""Cancelled jobs that are shown to people. `--json` has all."""


def cancel(
    job_id: Annotated[str | None, typer.Argument(help="The job_id.", metavar="JOB")] = None,
    user: Annotated[str | None, typer.Option(help="Instead of a job: all that waits for this user.")] = None,
    session: Annotated[str | None, typer.Option(help="Instead of a job: all that waits for this session.")] = None,
    reason: ReasonFlag = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """End a job that has not ended, or all that wait for a user or a session. Credits go back."""
    from gate.cli import context, render
    from gate.http.schemas import CancelBody, ReasonBody

    given = [value for value in (job_id, user, session) if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("name one: a job, --user or --session", param_hint="JOB")
    settings, why = settings_of(data_dir, config), ReasonBody.model_validate({"reason": reason}).reason
    if job_id is not None:
        render.job(context.visit(settings, lambda gate: gate.jobs.cancel(pool, job_id, why)), json)
        return
    selection = CancelBody.model_validate({"user": user, "session": session}).model_dump()
    ended = context.visit(settings, lambda gate: gate.pools.cancel_waiting(pool, **selection, reason=why))
    says = f"{len(ended)} that waited {'is' if len(ended) == 1 else 'are'} cancelled"
    render.jobs(
        ended if json else ended[:SHOWN], json, says if len(ended) <= SHOWN else f"{says}; the last {SHOWN} of the queue"
    )


def jobs(
    pool: PoolFlag = "default",
    status: Annotated[str | None, typer.Option(help="Only those.")] = None,
    user: Annotated[str | None, typer.Option(help="Only theirs.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=LONG)] = 50,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """List the newest jobs of a pool. Works with the server stopped."""
    from gate.cli import context, render
    from gate.model.job import STATUSES

    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"one of {', '.join(sorted(STATUSES))}", param_hint="--status")
    found = context.look(settings_of(data_dir, config), lambda reading: context.recent(reading, pool, status, user, limit))
    render.jobs(found, json, f"pool {pool}: the newest jobs")


def explain(job_id: JobArgument, data_dir: DataDirFlag = None, config: ConfigFlag = None, json: JsonFlag = False) -> None:
    """Explain a job in sentences: its place, why it waits, the jobs ahead, its history, its money, its callbacks."""
    from gate.cli.explain import run

    run(settings_of(data_dir, config), job_id, json)
