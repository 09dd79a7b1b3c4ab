"""Forms with which an admin cancels and releases jobs, changes pools, and applies unread callbacks.

They make the same calls as the HTTP routes and the command line. Each needs a reason, and the history keeps it with the key's
name. Every route raises StoreDown when a store does not answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from gate.coordination.pools import PoolCoordinator
from gate.coordination.unread_callbacks import UnreadCallbackDesk
from gate.http.auth import session
from gate.http.auth.roles import ADMIN, open_to
from gate.http.auth.session import Looking, Visitor
from gate.http.lookups import SQL_INTEGER_MAX
from gate.http.panel import render, words
from gate.http.panel.forms import fields
from gate.http.panel.job_page import JobId
from gate.http.panel.pool_page import Pool
from gate.http.panel.routing import PanelRoute, by_script, language
from gate.http.services import JobService, LedgerService, PoolService, QueryService, UnreadService
from gate.ledger.queries import Unread
from gate.model.errors import AlreadyEnded, CallbackApplied, CallbackUnknown, JobUnknown, NotRunning, PoolNotEmpty
from gate.model.job import HOLDING, JOB_ID
from gate.model.limits import SLOTS_MAX, TEXT_MAX
from gate.model.messages import OUTCOMES, is_outcome

router = APIRouter(route_class=PanelRoute, include_in_schema=False)
OF_A_JOB, OF_A_POOL = ("cancel", "release"), ("pause", "resume", "limit", "delete")
"""Verbs of the forms about a job, and about a pool."""
REASON_MAX = 500
"""Longest reason (characters). A longer one is cut, because it is one line of the history."""
CallbackId = Annotated[int, Path(ge=1, le=SQL_INTEGER_MAX)]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a form is about.

    Attributes:
        verb: What it does.
        pool: The pool.
        job_id: The job; None for a form about the pool.
        callback: The unread callback; None for a form about none.
        limit: The limit of the pool; None when the form does not show it.
    """

    verb: str
    pool: str
    job_id: str | None = None
    callback: Unread | None = None
    limit: int | None = None


class _Wrong(Exception):
    """The form is shown again with a message.

    Attributes:
        says: Key of the message in the words.
        status: HTTP status.
        values: Values of the message.
    """

    def __init__(self, says: str, status: int = 422, **values: Any) -> None:
        self.says, self.status, self.values = says, status, values


@router.get("/pools/{pool}/jobs/{job_id}/do/{verb}", response_model=None)
@open_to(ADMIN)
async def ask_about_a_job(
    pool: Pool, job_id: JobId, verb: str, request: Request, queries: QueryService, visitor: Looking
) -> Response:
    """Show the form that cancels or releases a job.

    Raises:
        JobUnknown: There is no such job or verb.
        PoolUnknown: There is no such pool.
    """
    if verb not in OF_A_JOB:
        raise JobUnknown("there is no such form")
    await queries.job(pool, job_id)
    return _form(request, visitor, _Subject(verb, pool, job_id))


@router.post("/pools/{pool}/jobs/{job_id}/do/{verb}", response_model=None)
@open_to(ADMIN)
async def act_on_a_job(
    pool: Pool, job_id: JobId, verb: str, request: Request, jobs: JobService, queries: QueryService, visitor: Looking
) -> Response:
    """Cancel or release a job.

    Raises:
        JobUnknown: There is no such job or verb.
        PoolUnknown: There is no such pool.
        ForeignPage: A page of another origin, or of another session, sent the form.
        Invalid: The body is no form.
    """
    if verb not in OF_A_JOB:
        raise JobUnknown("there is no such form")

    async def act(form: dict[str, str], reason: str) -> dict[str, str]:
        outcome = "cancelled" if verb == "cancel" else form.get("outcome", "")
        if not is_outcome(outcome):
            raise _Wrong("outcome_wrong")
        if verb == "release" and (await queries.job(pool, job_id)).status not in HOLDING:
            raise _Wrong("holds_none", 409)
        await jobs.cancel(pool, job_id, reason, outcome)
        return {"job": job_id}

    return await _act(request, visitor, _Subject(verb, pool, job_id), act)


@router.get("/pools/{pool}/callbacks/{callback_id}/do/apply", response_model=None)
@open_to(ADMIN)
async def ask_about_a_callback(
    pool: Pool, callback_id: CallbackId, request: Request, ledger: LedgerService, unread: UnreadService, visitor: Looking
) -> Response:
    """Show the form that applies an unread callback, with the job that is bound to its task.

    Raises:
        CallbackUnknown: The pool has no such unread callback.
    """
    one = await _unread(unread, pool, callback_id)
    bound = await ledger.timelines.of_task(one.task_id) if one.task_id is not None else None
    return _form(request, visitor, _Subject("apply", pool, bound, one))


@router.post("/pools/{pool}/callbacks/{callback_id}/do/apply", response_model=None)
@open_to(ADMIN)
async def apply_a_callback(
    pool: Pool, callback_id: CallbackId, request: Request, unread: UnreadService, visitor: Looking
) -> Response:
    """Apply an unread callback to a job.

    Raises:
        ForeignPage: A page of another origin, or of another session, sent the form.
        CallbackUnknown: The pool has no such unread callback.
        Invalid: The body is no form.
    """
    await _sent(request, visitor)  # Check first: a foreign page must not learn which callbacks exist.
    one = await _unread(unread, pool, callback_id)

    async def act(form: dict[str, str], reason: str) -> dict[str, str]:
        job_id, outcome = form.get("job", "").strip(), form.get("outcome", "")
        if not is_outcome(outcome):
            raise _Wrong("outcome_wrong")
        try:
            if not JOB_ID.fullmatch(job_id):
                raise JobUnknown("that is no job_id")
            await unread.apply(callback_id, job_id, outcome, reason, visitor.name or "operator")
        except JobUnknown as error:
            raise _Wrong("job_wrong", 404) from error
        except NotRunning as error:
            raise _Wrong("holds_none", 409) from error
        except CallbackApplied as error:
            raise _Wrong("callback_applied", 409) from error
        return {"job": job_id}

    return await _act(request, visitor, _Subject("apply", pool, callback=one), act)


async def _unread(unread: UnreadCallbackDesk, pool: str, callback_id: int) -> Unread:
    """Read an unread callback of this pool.

    Raises:
        CallbackUnknown: The pool has no such unread callback.
    """
    one = await unread.callbacks.one(callback_id)
    if one is None or one.pool != pool:
        raise CallbackUnknown(f"there is no unread callback {callback_id} in pool {pool!r}")
    return one


@router.get("/pools/{pool}/do/{verb}", response_model=None)
@open_to(ADMIN)
async def ask_about_a_pool(pool: Pool, verb: str, request: Request, queries: QueryService, visitor: Looking) -> Response:
    """Show the form that pauses, resumes, limits or deletes a pool.

    Raises:
        JobUnknown: There is no such verb.
        PoolUnknown: There is no such pool.
    """
    if verb not in OF_A_POOL:
        raise JobUnknown("there is no such form")
    view = await queries.pool(pool, 0)
    limit = view.capacity.limit if view.capacity else view.line.limit  # Else saving the form would keep what is in force now.
    return _form(request, visitor, _Subject(verb, pool, limit=limit))


@router.post("/pools/{pool}/do/{verb}", response_model=None)
@open_to(ADMIN)
async def act_on_a_pool(pool: Pool, verb: str, request: Request, pools: PoolService, visitor: Looking) -> Response:
    """Pause, resume, limit or delete a pool.

    Raises:
        JobUnknown: There is no such verb.
        PoolUnknown: There is no such pool.
        ForeignPage: A page of another origin, or of another session, sent the form.
        Invalid: The body is no form.
    """
    if verb not in OF_A_POOL:
        raise JobUnknown("there is no such form")

    async def act(form: dict[str, str], reason: str) -> dict[str, str]:
        if verb == "delete":
            await _delete(pools, pool, form, reason)
            return {"pool": pool}
        values = _settings(verb, form)
        await pools.change(pool, values, reason)
        return {"pool": pool, "limit": str(values.get("limit", ""))}

    return await _act(request, visitor, _Subject(verb, pool), act)


async def _delete(pools: PoolCoordinator, pool: str, form: dict[str, str], reason: str) -> None:
    if form.get("confirm", "").strip() != pool:  # guard: deletion-is-confirmed-by-the-name
        raise _Wrong("confirm_wrong")
    try:
        await pools.delete(pool, reason)
    except PoolNotEmpty as error:
        raise _Wrong("pool_not_empty", 409) from error


def _settings(verb: str, form: dict[str, str]) -> dict[str, int | bool]:
    if verb != "limit":
        return {"paused": verb == "pause"}
    limit = form.get("limit", "").strip()
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 5 and int(limit) <= SLOTS_MAX):
        raise _Wrong("limit_wrong")
    return {"limit": int(limit)}


Act = Callable[[dict[str, str], str], Awaitable[dict[str, str]]]
"""Does what a form asks for, with its fields and its reason. It returns the values of the message that confirms it."""


async def _act(request: Request, visitor: Visitor, subject: _Subject, act: Act) -> Response:
    form = await _sent(request, visitor)
    tongue = language(request)
    try:
        done = await act(form, _reason(form, visitor))
    except _Wrong as wrong:
        says = words.of(tongue)[wrong.says]
        return _form(request, visitor, subject, wrong.status, says, form)
    except AlreadyEnded as error:
        t = words.of(tongue)
        status = t[f"status_{error.job.status}"] if error.job is not None else ""
        says = t["already_ended"].format(status=status)
        return _form(request, visitor, subject, 409, says, form)
    message = words.of(tongue)[f"done_{subject.verb}"].format(**done)
    to = "/" if subject.verb == "delete" else None  # the page of the pool is gone
    if not by_script(request):
        path = f"/pools/{subject.pool}" + (f"/jobs/{subject.job_id}" if subject.job_id else "")
        return RedirectResponse(to or path, 303, render.HEADERS)
    return render.answer(render.fragment("_done.html", tongue, said=message, to=to), request, visitor)


async def _sent(request: Request, visitor: Visitor) -> dict[str, str]:
    """Read a form after the check that a page of this session sent it.

    Raises:
        ForeignPage: A page of another origin, or of another session, sent it.
        Invalid: The body is no form.
    """
    session.of_this_page(request)
    form = await fields(request)
    session.checked(visitor, form.get("csrf", ""))
    return form


def _reason(form: dict[str, str], visitor: Visitor) -> str:
    """Read the reason and add the key's name to it. The ledger knows every operator only as `operator`.

    Raises:
        _Wrong: The form has no reason.
    """
    reason = " ".join(form.get("reason", "").replace("\x00", "").split())[:REASON_MAX]
    reason = reason.encode("utf-8", "replace").decode()
    if not reason:
        raise _Wrong("reason_needed")
    return f"{reason} ({visitor.name})"[:TEXT_MAX] if visitor.name else reason


def _form(
    request: Request, visitor: Visitor, subject: _Subject, status: int = 200, wrong: str | None = None,
    form: dict[str, str] | None = None,
) -> Response:  # fmt: skip
    values = {
        "verb": subject.verb, "pool": subject.pool, "job_id": subject.job_id, "wrong": wrong, "outcomes": OUTCOMES,
        "form": form or {}, "limit": (form or {}).get("limit", subject.limit), "csrf": visitor.csrf,
        "scripted": by_script(request), "callback": subject.callback,
    }  # fmt: skip
    if by_script(request):
        return render.answer(render.fragment("_form.html", language(request), **values), request, visitor, status)
    return render.page("form.html", request, visitor, status, live=None, **values)
