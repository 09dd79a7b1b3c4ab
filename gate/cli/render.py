"""Terminal output: tables for people, JSON for programs. Names come from users, so they are never read as markup."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gate.explain.formatting import span, when
from gate.model.job import Job, in_seconds, now_ms
from gate.model.job_json import job_body, moment, task_body
from gate.model.label import plain as plain

if TYPE_CHECKING:
    from gate.coordination.queries import PoolSnapshot
    from gate.demo.acceptance import Step
    from gate.diagnostics.doctor import Diagnosis
    from gate.diagnostics.verify import Report
    from gate.ledger import AccountState, Asked, Key, Pool, ServerRow
    from gate.ledger.reports.backlog import Pending
    from gate.ledger.reports.open_tasks import OpenTasks, Stopping
    from gate.slots import QueueState

WIDE = 200
"""Width (columns) of output that goes to no terminal. A pipe has no edge at which lines must break."""
FITS = sys.stdout.isatty() or "COLUMNS" in os.environ
"""Whether lines are broken to fit a width. In a pipe they stay whole, so that a search finds what it looks for."""
console = Console(highlight=False, markup=False, width=None if FITS else WIDE)


def table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table.

    Args:
        heading: The line above it.
        columns: Titles of the columns.
        rows: The cells of each row; None for an empty cell. Without rows, `none` is printed.
    """
    console.print(plain(heading), soft_wrap=True)
    made = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else plain(str(cell))) for cell in row))
    if made.row_count:
        console.print(made)
    else:
        console.print("\n  none\n")


def line(text: str) -> None:
    """Print one line of text, never broken."""
    console.print(plain(text), soft_wrap=True)


def as_json(body: Any) -> None:
    """Print a JSON document on one line. Characters that are not printable are escaped, so that no terminal obeys them."""
    text = json.dumps(body, ensure_ascii=False)
    print(text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text), flush=True)


def job(one: Job, json_wanted: bool, asked: Asked | None = None) -> None:
    """Print a job, a row for each field that has a value.

    Args:
        one: The job.
        json_wanted: Print one JSON document instead of a table.
        asked: What is known of its task; None when that is not wanted, or when gate does not ask about it.
    """
    body = task_body(job_body(one), asked)
    if json_wanted:
        as_json(body)
        return
    shown = {name: value for name, value in body.items() if value not in (None, {}, [])}
    for name, value in (shown.pop("task", None) or {}).items():
        shown["task" if name == "task_id" else f"task {name}"] = value
    if asked is not None:
        from gate.explain.sentences import in_short

        shown["task state"] = in_short(asked, now_ms())
    for part in ("lease", "refund"):
        for name, value in (shown.pop(part, None) or {}).items():
            shown[name if part == "lease" else f"refund {name}"] = value
    table(f"job {one.job_id}: {one.status}", ("what", "is"), shown.items())


def jobs(several: Sequence[Job], json_wanted: bool, heading: str) -> None:
    """Print a list of jobs under a heading."""
    if json_wanted:
        as_json([job_body(one) for one in several])
        return
    columns = ("job", "status", "tool", "user", "credits", "refund", "came", "ended", "why")
    rows = (
        (one.job_id, one.status, one.tool, one.user, one.credits, one.refund.amount if one.refund else None,
         when(one.enqueued_at), when(one.ended_at), one.end_reason or one.error)
        for one in several
    )  # fmt: skip
    table(heading, columns, rows)


def title(view: PoolSnapshot) -> str:
    """Summarise a pool in one line: its slots, its waiters, and why it grants nothing if that is so."""
    now = view.line
    words = f"pool {view.name}: {now.running} running, {now.granted} granted, {now.free} free of {now.limit};"
    if view.capacity and now.limit < view.capacity.limit:
        words = f"{words[:-1]} in force, of a limit of {view.capacity.limit};"
    words += f" {now.queued} waiting" + (f", {now.draining} draining" if now.draining else "")
    if now.paused or (now.queued and now.reason != "pool_full"):
        words += f" ({now.reason})"
    return words


def pool(view: PoolSnapshot, json_wanted: bool, asked: Mapping[str, Asked] | None = None) -> None:
    """Print a pool with its holders and its waiters.

    Args:
        view: The pool.
        json_wanted: Print one JSON document instead of a table.
        asked: What is known of the tasks of its holders, by job_id.
    """
    if json_wanted:
        from gate.http.answers import pool_body

        as_json(pool_body(view))
        return
    if not (view.holders or view.queue):
        line(title(view))
        return
    now = view.line.now_ms
    rows: list[Sequence[object]] = [
        (f"slot {n}", one.job_id, one.status, one.tool, one.user, when(one.granted_at), f"{span(max((one.expires_at or 0) - now, 0))} left", _answer((asked or {}).get(one.job_id)))
        for n, one in enumerate(view.holders, 1)
    ]  # fmt: skip
    rows += [
        (f"queue {one.position}", one.job_id, one.status, one.tool, one.user, when(one.enqueued_at), _turn(one), _why(one))
        for one in view.queue
    ]
    table(title(view), ("place", "job", "status", "tool", "user", "since", "time", "why"), rows)
    if (more := view.line.running + view.line.granted + view.line.queued - len(rows)) > 0:
        line(f"and {more} more")


def _answer(known: Asked | None) -> str | None:
    if known is None:
        return None
    from gate.explain.sentences import in_short

    return in_short(known, now_ms())


def _turn(one: Job) -> str | None:
    if one.eta_seconds is None:
        return None
    return f"turn in ~ {span(round(one.eta_seconds * 1000))}{', likely expires before' if one.likely else ''}"


def _why(one: Job) -> str | None:
    return one.reason.replace("_", " ") if one.reason else None


def pools(several: Sequence[PoolSnapshot], json_wanted: bool) -> None:
    """Print pools, one row each."""
    if json_wanted:
        from gate.http.answers import pool_body

        as_json([pool_body(view) for view in several])
        return
    columns = ("pool", "limit", "running", "granted", "free", "queued", "oldest", "grants")
    table("pools", columns, ((view.name, *_counts(view.line)) for view in several))


def accounts(by_pool: Mapping[str, Sequence[AccountState]], json_wanted: bool) -> None:
    """Print the accounts of the pools, one row each."""
    if json_wanted:
        as_json([{"pool": pool, **one._asdict()} for pool, several in by_pool.items() for one in several])
        return
    columns = ("pool", "provider", "account", "limit", "room", "running", "of others", "state", "why")
    rows = (
        (pool, one.provider, one.name, one.limit, one.room, one.running, one.strangers, one.state, one.why)
        for pool, several in by_pool.items()
        for one in several
    )
    table("accounts", columns, rows)


def servers(several: Sequence[ServerRow], json_wanted: bool) -> None:
    """Print the servers, one row each."""
    if json_wanted:
        from gate.http.answers import server_body

        as_json([server_body(one) for one in several])
        return
    columns = ("server", "version", "started", "seen", "state", "clock")
    rows = (
        (one.id, one.version, when(one.started_at), when(one.seen_at), "lives" if one.lives else "gone", f"{one.skew_ms / 1000:+.1f} s")
        for one in several
    )  # fmt: skip
    table("servers", columns, rows)


def settings(pool: Pool, json_wanted: bool) -> None:
    """Print the settings of a pool, under the names that `gate pools set` and gate.toml use."""
    found = in_seconds(asdict(pool.settings))
    if json_wanted:
        as_json({"pool": pool.name, **found, "paused": pool.paused})
        return
    rows = [(name, value if isinstance(value, str) else f"{value:g}") for name, value in found.items()]
    table(f"pool {pool.name}{', paused' if pool.paused else ''}: what is set", ("setting", "now"), rows)


def _counts(line: QueueState) -> tuple[object, ...]:
    oldest = span(line.now_ms - line.oldest) if line.oldest is not None else None
    grants = "paused" if line.paused else "go on"
    if line.cooling_until and not line.paused:
        grants = f"cool down for {span(line.cooling_until - line.now_ms)}"
    return line.limit, line.running, line.granted, line.free, line.queued, oldest, grants


def status(view: PoolSnapshot, owed: Pending, undelivered: Pending, tasks: OpenTasks | None, json_wanted: bool) -> None:
    """Print a pool, its accounts and the tasks that are being stopped, the refunds that it owes, and its calls to tools without an answer.

    Args:
        view: The pool.
        owed: Refunds that are not paid yet.
        undelivered: Calls to tools that are not answered yet.
        tasks: Its tasks that are not over; None for a pool without accounts.
        json_wanted: Print one JSON document instead of text.
    """
    if json_wanted:
        from gate.http.answers import pool_body

        stopping = [_stopping_body(one) for one in tasks.stopping] if tasks else []
        pending = {"owed": _pending_body(owed), "undelivered": _pending_body(undelivered), "stopping": stopping}
        as_json(pool_body(view) | pending)
        return
    pool(view, False, tasks.asked if tasks else None)
    if view.capacity:
        accounts({view.name: view.capacity.accounts}, False)
    if tasks and tasks.stopping:
        stops(tasks.stopping)
    if owed.count:
        why = owed.error or "about to be paid"
        line(f"{owed.count} refunds owed, {owed.credits} credits, the oldest since {when(owed.since)}: {why}")
    if undelivered.count:
        since = when(undelivered.since)
        line(f"{undelivered.count} calls to tools not answered, the oldest since {since}: {undelivered.error}")


def stops(several: Sequence[Stopping]) -> None:
    """Print the tasks that have to be stopped at their providers."""
    now = now_ms()
    rows = (
        (one.job_id, one.provider, one.account, one.task_id, when(one.since),
         "given away" if one.until is None else f"free in {span(max(one.until - now, 0))} at the latest",
         "being stopped" if one.stop == "owed" else "given up: stop the task at the provider")
        for one in several
    )  # fmt: skip
    columns = ("job", "provider", "account", "task", "since", "slot", "stop")
    table("tasks of ended jobs that have to be stopped", columns, rows)


def _stopping_body(one: Stopping) -> dict[str, Any]:
    return one._asdict() | {"since": moment(one.since), "until": moment(one.until)}


def _pending_body(pending: Pending) -> dict[str, Any]:
    return {"count": pending.count, "credits": pending.credits, "since": moment(pending.since), "error": pending.error}


SQL_ALONE = "SQL alone (no gate runs here, so there is no Redis to look at)"
"""Name of the stores in a report that did not look at Redis."""


def report(found: Report, json_wanted: bool) -> None:
    """Print the report of `gate verify`."""
    if json_wanted:
        as_json(asdict(found))
        return
    alone = "SQL alone" if found.outages else SQL_ALONE
    stores, held = ("both stores", "I1-I9") if found.redis_checked else (alone, "I1-I6 and I8")
    if not found.sql_checked:
        stores, held = "Redis alone", "I7 and the places in I9"
    for outage in found.outages:
        line(outage)
    counts = ", ".join(f"{count} {name}" for name, count in found.checked.items())
    if found.breaches:
        rows = ((breach.invariant, breach.about, breach.finding) for breach in found.breaches)
        table(
            f"{_several(len(found.breaches), 'breach', 'es')} in {stores} ({counts})", ("invariant", "about", "finding"), rows
        )
    elif found.outages:
        line(f"no breach of {held} in {stores} ({counts}), and not everything is well: see above")
    else:
        console.print(f"clean: {held} hold in {stores} ({counts})", soft_wrap=True)


def _several(count: int, what: str, more: str = "s") -> str:
    return f"{count} {what}{'' if count == 1 else more}"


def findings(found: Sequence[Diagnosis], both: bool, json_wanted: bool) -> None:
    """Print the findings of `gate doctor`.

    Args:
        found: The findings.
        both: Whether Redis was looked at too, or SQL alone.
        json_wanted: Print one JSON document instead of a table.
    """
    if json_wanted:
        as_json([asdict(one) for one in found])
        return
    stores = "both stores" if both else SQL_ALONE
    if not found:
        line(f"nothing is wrong in {stores}")
        return
    rows = ((one.what, one.about, one.says, "mended" if one.mended else one.helps) for one in found)
    away = any(one.what in ("server", "sql", "redis") for one in found)
    table(
        _several(len(found), "finding") + ("" if away else f" in {stores}"), ("what", "about", "finding", "what helps"), rows
    )


def steps(seen: Sequence[Step], where: str, json_wanted: bool) -> None:
    """Print the steps of `gate demo`.

    Args:
        seen: The steps.
        where: URL of the gate on which they ran.
        json_wanted: Print one JSON document instead of a table.
    """
    if json_wanted:
        as_json([asdict(step) | {"ok": step.ok} for step in seen])
        return
    table(f"gate demo on {where}", ("what", "expected", "seen", ""),
          ((step.what, step.expected, step.seen, "ok" if step.ok else "DIFFERS") for step in seen))  # fmt: skip


def fact(body: dict[str, Any], words: str, json_wanted: bool) -> None:
    """Print one result: `body` for programs, `words` for people."""
    if json_wanted:
        as_json(body)
    else:
        console.print(plain(words), soft_wrap=True)


def keys(several: Sequence[Key], json_wanted: bool) -> None:
    """Print API keys, without their secrets."""
    rows = [
        {"name": key.name, "role": key.role, "shown": key.shown, "created_at": moment(key.created_at),
         "revoked_at": moment(key.revoked_at)}
        for key in several
    ]  # fmt: skip
    if json_wanted:
        as_json(rows)
    else:
        table("keys", ("name", "role", "begins with", "made", "revoked"), (tuple(row.values()) for row in rows))
