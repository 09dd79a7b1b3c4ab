"""Terminal output of the past: ledger entries, changes of a pool, and its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from gate.cli.render import as_json, line, table
from gate.explain.formatting import span, when
from gate.model.job_json import moment

if TYPE_CHECKING:
    from gate.ledger.queries import Balance, Entry
    from gate.ledger.reports.statistics import Bucket
    from gate.ledger.reports.timeline import Event

OUTCOMES = ("completed", "failed", "cancelled", "expired")


def ledger(
    rows: Sequence[Entry], following: int | None, user: str | None, balance: Balance | None, json_wanted: bool
) -> None:
    """Print a page of the ledger.

    Args:
        rows: The entries of the page.
        following: Value of `--after` for the next page; None on the last page.
        user: The user whose entries these are; None for the entries of all users.
        balance: Balance of that user; None without a user.
        json_wanted: Print one JSON document instead of a table.
    """
    if json_wanted:
        from gate.http.answers import balance_body, entry_body

        body = {"rows": [entry_body(row) for row in rows], "next": following}
        as_json(body | ({"balance": balance_body(user, balance)} if user is not None and balance is not None else {}))
        return
    columns = ("id", "at", "job", "user", "pool", "kind", "amount")
    table(
        "ledger",
        columns,
        ((r.id, when(r.at), r.job_id, r.user, r.pool, r.kind, r.amount) for r in rows),
    )
    if following is not None:
        line(f"more: --after {following}")
    if balance is not None:
        net = balance.charged - balance.refunded
        line(f"{user}: {balance.charged} charged, {balance.refunded} refunded, {net} net")


def changes(found: Sequence[Event], pool: str, json_wanted: bool) -> None:
    """Print the changes of a pool, in the order of `found`."""
    if json_wanted:
        as_json([{"at": moment(one.at), "kind": one.kind, "by": one.by, "why": one.why} for one in found])
        return
    from gate.ledger.reports.timeline import as_changes

    rows = []
    for one in as_changes(found):
        what = {"limit": f"limit {one.what}", "setting": one.what}.get(one.kind, one.kind)
        rows.append((when(one.at), what, one.by, one.reason))
    table(f"pool {pool}: what was changed", ("at", "what", "by", "why"), rows)


def trends(buckets: Sequence[Bucket], pool: str, over: str, json_wanted: bool) -> None:
    """Print the statistics of a pool, one row for each bucket in which something happened.

    Args:
        buckets: The buckets, oldest first.
        pool: Name of the pool.
        over: The span that the buckets cover: `hour`, `day` or `week`.
        json_wanted: Print one JSON document with every bucket instead of a table.
    """
    if json_wanted:
        quantiles = {"wait_ms", "hold_ms"}
        as_json([
            {name: moment(value) if name == "at" else dict(zip(("median", "p95"), value, strict=True)) if value and name in quantiles else value
             for name, value in asdict(bucket).items()}
            for bucket in buckets
        ])  # fmt: skip
        return
    counts = {status: sum(one.outcomes.get(status, 0) for one in buckets) for status in OUTCOMES}
    words = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing ended"
    words += f"; {sum(one.refunded for one in buckets)} credits refunded"
    columns = ("from", *OUTCOMES, "wait: median", "95 %", "hold: median", "95 %", "refunded")
    rows = (
        (when(one.at), *(one.outcomes.get(status) for status in OUTCOMES), *_quantiles(one.wait_ms), *_quantiles(one.hold_ms), one.refunded or None)
        for one in buckets if one.outcomes or one.refunds
    )  # fmt: skip
    table(f"pool {pool}, the last {over}: {words}", columns, rows)


def _quantiles(ms: tuple[int, ...] | None) -> Sequence[str | None]:
    return [span(one) for one in ms] if ms else (None, None)
