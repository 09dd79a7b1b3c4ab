"""Commands about jobs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import LONG, ConfigFlag, DataDirFlag, JobArgument, JsonFlag, PoolFlag, ReasonFlag, settings_of
from gate.model.limits import SECONDS_MAX

if TYPE_CHECKING:
    from gate.coordination.services import Services
    from gate.ledger import Asked
    from gate.model.job import Job

WAITS = 3
"""Exit code of a job that was admitted and does not run yet."""


def acquire(
    pool: PoolFlag = "default",
    job_id: Annotated[str | None, typer.Option(help="Made up when not given.")] = None,
    user: Annotated[str | None, typer.Option(help="For whom.")] = None,
    tool: Annotated[str | None, typer.Option(help="A label, for people.")] = None,
    session: Annotated[str | None, typer.Option(help="A label, to cancel by.")] = None,
    credits: Annotated[int | None, typer.Option(help="Charged already; needs --job-id.")] = None,
    lease_seconds: Annotated[float | None, typer.Option(help="Default: the pool's.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the slot, and claim it.")] = False,
    wait_seconds: Annotated[
        float | None, typer.Option(min=0, max=SECONDS_MAX, help="The same, for so long at most. The job keeps its place.")
    ] = None,
    started_by: Annotated[str | None, typer.Option(help="caller (default), or gate: by the start_url of the tool.")] = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Take a slot, or join the queue.

    Exits with 0 only if the job runs now, so that `gate acquire && COMMAND` starts nothing without a slot. Exits with 3 if
    the job waits.
    """
    from gate.cli import context, render
    from gate.cli.waiting import acquired
    from gate.http.jobs import request_of
    from gate.http.schemas import AcquireBody

    given = {"job_id": job_id, "user": user, "tool": tool, "session": session, "credits": credits}
    body = AcquireBody.model_validate(given | {"lease_seconds": lease_seconds, "started_by": started_by})
    request, by_gate = request_of(body), body.started_by == "gate"
    settings = settings_of(data_dir, config)
    outside = context.outside_of(settings) if by_gate else None
    wait_s = math.inf if wait and wait_seconds is None else wait_seconds or 0
    job = context.visit(settings, lambda gate: acquired(gate, pool, request, wait_s, by_gate, job_id is not None), outside)
    render.job(job, json)
    if job.status != "running":
        typer.echo(f"gate: job {job.job_id} {_standing(job)}", err=True)
        raise typer.Exit(1 if job.ended else WAITS)


def _standing(job: Job) -> str:
    """Say in words why a job is not started now."""
    if job.ended:
        return f"is {job.status}{f': {job.end_reason}' if job.end_reason else ''}"
    if job.status == "granted":
        return "has a slot that is not claimed yet" + ("; gate starts it" if job.starts else f": gate claim {job.job_id}")
    place = f" at place {job.position} of {job.queue_length}" if job.position is not None else ""
    return f"waits{place}, and must not be started yet (gate acquire --wait waits for its slot)"


def claim(
    job_id: JobArgument,
    lease_id: Annotated[str | None, typer.Option(help="Default: the lease it holds now.")] = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Say that a granted job has started. It runs, with a full lease from now."""
    from gate.cli import context, render
    from gate.http.schemas import LeaseBody

    async def call(gate: Services) -> Job:
        held = lease_id or await _lease_of(gate, pool, job_id)
        return await gate.jobs.claim(pool, job_id, LeaseBody.model_validate({"lease_id": held}).lease_id)

    render.job(context.visit(settings_of(data_dir, config), call), json)


def renew(
    job_id: JobArgument,
    lease_seconds: Annotated[float | None, typer.Option(help="Length from now. Default: the job's own.")] = None,
    lease_id: Annotated[str | None, typer.Option(help="Default: the lease it holds now.")] = None,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Extend the lease of a job."""
    from gate.cli import context, render
    from gate.http.schemas import RenewBody

    async def call(gate: Services) -> Job:
        held = lease_id or await _lease_of(gate, pool, job_id)
        body = RenewBody.model_validate({"lease_id": held, "lease_seconds": lease_seconds})
        length_ms = None if body.lease_seconds is None else round(body.lease_seconds * 1000)
        return await gate.jobs.renew(pool, job_id, body.lease_id, length_ms)

    render.job(context.visit(settings_of(data_dir, config), call), json)


async def _lease_of(gate: Services, pool: str, job_id: str) -> str:
    """Return the lease that a job holds now, or the one it held last.

    Raises:
        NotRunning: It waits and holds no slot.
        AlreadyEnded: It has ended.
    """
    from gate.model.errors import AlreadyEnded, NotRunning

    job = await gate.queries.wait(pool, job_id, None, 0)
    if job.ended:
        raise AlreadyEnded.of(job)
    if job.lease is None:
        raise NotRunning("it waits and holds no slot yet", job)
    return job.lease.lease_id


def run(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.", metavar="[--] COMMAND...")],
    pool: PoolFlag = "default",
    job_id: Annotated[str | None, typer.Option(help="Made up when not given.")] = None,
    user: Annotated[str | None, typer.Option(help="For whom.")] = None,
    tool: Annotated[str | None, typer.Option(help="A label, for people.")] = None,
    session: Annotated[str | None, typer.Option(help="A label, to cancel by.")] = None,
    credits: Annotated[int | None, typer.Option(help="Charged already; needs --job-id.")] = None,
    lease_seconds: Annotated[float | None, typer.Option(help="Default: the pool's. It is renewed in time.")] = None,
    wait_seconds: Annotated[float | None, typer.Option(min=0, max=SECONDS_MAX, help="Longest wait for the slot.")] = None,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Do not end it when the lease is lost.")] = False,
    url: Annotated[
        str | None, typer.Option(envvar="GATE_URL", help="A gate elsewhere; default: that of the data dir.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="GATE_KEY", help="With --url, where that gate wants one.")] = None,
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Run a command while holding a slot: wait, claim, renew while it runs, and release with its outcome.

    Exit code 0 completes the job, any other fails it, and SIGTERM, SIGINT, SIGHUP or SIGQUIT sent to gate run cancels it.
    Signals go to the command. A lost lease ends it. The command finds GATE_JOB_ID, GATE_LEASE_ID and GATE_FENCE.

    Exits with the code of the command (128 + n for signal n), or with 124 when the wait was too long, 125 when gate refuses,
    does not answer, or the lease is lost, 126 when the command cannot be run, 127 when there is none.
    """
    from gate.cli.run import Order
    from gate.cli.run import run as hold
    from gate.runtime.data_dir import DataDir

    if credits is not None and job_id is None:
        raise typer.BadParameter("needs --job-id", param_hint="--credits")
    request = {
        "job_id": job_id, "user": user, "tool": tool, "session": session, "credits": credits,
        "lease_seconds": lease_seconds, "wait_seconds": wait_seconds,
    }  # fmt: skip
    where = url or DataDir(settings_of(data_dir, config).data_dir)
    raise typer.Exit(hold(where, key, Order(command, pool, request, keep_running)))


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
    from gate.http.schemas import ReleaseBody
    from gate.model.errors import AlreadyEnded, Conflict

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
    """End a job that has not ended, or all that wait for a user or a session. Credits go back, unless cancel_refunds keeps them."""
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


def ask(
    job_id: JobArgument,
    pool: PoolFlag = "default",
    data_dir: DataDirFlag = None,
    config: ConfigFlag = None,
    json: JsonFlag = False,
) -> None:
    """Ask the provider about a job's task now, and show the job after the answer (10 s at most)."""
    from gate.cli import context, render

    async def call(gate: Services) -> tuple[Job, Asked | None]:
        job = await gate.jobs.ask_and_wait(await gate.queries.wait(pool, job_id, None, 0), 10)
        return job, await gate.queries.asked(job)

    job, asked = context.visit(settings_of(data_dir, config), call)
    render.job(job, json, asked)


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
