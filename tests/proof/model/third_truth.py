"""The safeguards of the third truth: what the provider knows of its tasks."""

from __future__ import annotations

from tests.proof.model.provider_world import REFUSED_START
from tests.proof.model.provider_worlds import (
    ABSENT,
    ANSWERED,
    AWAY_FOR_LONG,
    CLEARED,
    CROWDED,
    HURRIED,
    KEYS,
    QUEUED,
    REPEATED,
    RETURNED,
    SILENT,
    STRANGER,
    STUCK_COUNTER,
    TASK,
    TWO_KEYS,
    UNCOUNTED,
)
from tests.proof.model.search import STUCK
from tests.proof.model.worlds import Safeguard

THIRD_TRUTH = [
    # ---- asking
    Safeguard("ask", "a lease with a task is asked about before its deadline", TASK, "ask-before-the-deadline"),
    Safeguard("settle", "an answer that the task has ended ends the job, as its callback does", TASK, "answer-ends-the-job"),
    Safeguard("extend", "an answer that the task runs extends the lease", TASK, "answer-extends-the-lease"),
    Safeguard("extend_script", "... by the renew script first, then in SQL", TASK, "answer-renews-in-redis"),
    Safeguard("hard", "... and never beyond the hard limit", TASK, "answer-keeps-the-hard-limit"),
    Safeguard("answer_lease", "an answer ends only the lease that its task was started for", ANSWERED, "answer-ends-only-its-lease"),
    Safeguard("hold", "silence holds a lease", SILENT, "silence-holds"),
    Safeguard("hold_bound", "... for a bounded time", SILENT, "silence-holds-for-a-time"),
    Safeguard("verdict", "... and ends nothing", SILENT, "silence-is-no-verdict"),
    Safeguard("unknown", "a task that the provider does not know ends nothing", SILENT, "unknown-is-no-verdict"),
    Safeguard("unknown_twice", "... and is asked about again before its lease is let go", SILENT, "unknown-is-asked-again"),
    # ---- stopping
    Safeguard("stop_same", "an end without the provider's word owes its task a stop, in the same transaction", HURRIED,
        "stop-owed-with-the-end"),
    Safeguard("stop_expired", "... so does an expiry", TASK, "stop-owed-with-an-expiry"),
    Safeguard("stop_refused", "... so does a refusal of a lease that has a task", RETURNED, "stop-owed-with-a-refusal"),
    Safeguard("late_start", "... so does a start that is answered too late", HURRIED, "stop-a-late-start"),
    # ---- draining
    Safeguard("slot_waits", "the slot of a task that is to be stopped drains", QUEUED, "drain-until-confirmed",
        behind=("account_room",), harm=REFUSED_START),
    Safeguard("drain_bound", "... for a bounded time, also when no gate runs", AWAY_FOR_LONG, "drain-for-a-time",
        behind=("sweep_ended",), harm=STUCK),
    Safeguard("drain_lease", "a draining slot has a lease id of its own, so that nothing extends it", REPEATED, "draining-slot-has-its-own-lease"),
    Safeguard("sweep_leaves", "the sweep leaves a slot that drains", QUEUED, "sweep-leaves-a-draining-slot",
        behind=("account_room",), harm=REFUSED_START),
    Safeguard("repeat_drain", "... so does a repeated acquire of its job", REPEATED, "acquire-leaves-a-draining-slot",
        behind=("account_room",), harm=REFUSED_START),
    Safeguard("repeat_cancel", "... and a repeated end", REPEATED, "end-again-leaves-a-draining-slot",
        behind=("account_room",), harm=REFUSED_START),
    Safeguard("sweep_drain", "sweep: a stop is owed, and the slot does not drain yet", ABSENT, "sweep-starts-a-drain"),
    Safeguard("load_drains", "a load brings back the slots that drain", CLEARED, "load-draining-slots"),
    # ---- accounts
    Safeguard("account", "the transaction of a grant picks the emptiest account", KEYS, "account-with-the-grant"),
    Safeguard("account_drain", "... where what drains counts", KEYS, "account-counts-drains"),
    Safeguard("account_room", "a grant without an account that has room goes back", CROWDED, "grant-needs-an-account"),
    # ---- capacity
    Safeguard("account_strangers", "... and strangers fill an account too", TWO_KEYS, "account-counts-strangers"),
    Safeguard("held_drains", "a task whose slot drains is no stranger", STRANGER, "drains-are-no-strangers"),
    Safeguard("room_floor", "a count alone leaves each account a room of one", STUCK_COUNTER, "count-leaves-one"),
    Safeguard("forget_room", "a count that is not repeated for long is forgotten", UNCOUNTED, "old-counts-are-forgotten"),
]  # fmt: skip

BUILT = frozenset(
    {
        "stop-owed-with-the-end", "stop-owed-with-a-refusal", "stop-a-late-start", "silence-holds-for-a-time", "drain-until-confirmed",
        "drain-for-a-time", "draining-slot-has-its-own-lease", "sweep-leaves-a-draining-slot", "acquire-leaves-a-draining-slot",
        "end-again-leaves-a-draining-slot", "sweep-starts-a-drain", "load-draining-slots", "account-with-the-grant", "account-counts-drains",
        "account-counts-strangers", "grant-needs-an-account", "count-leaves-one", "old-counts-are-forgotten",
    }
)  # fmt: skip
"""Marks that gate/ or lua/ has by now, each with its row in tests/proof/guards/guards.py."""
AWAITED = {row.mark for row in THIRD_TRUTH} - BUILT
