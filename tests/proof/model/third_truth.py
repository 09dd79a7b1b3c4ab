"""The safeguards of the third truth: what the provider knows of its tasks."""

from __future__ import annotations

from tests.proof.model.provider_world import REFUSED_START
from tests.proof.model.provider_worlds import (
    ABSENT,
    ANSWERED,
    AWAY_FOR_LONG,
    CLEARED,
    CROWDED,
    HINTED,
    HINTED_MEANWHILE,
    HURRIED,
    KEYS,
    OVERTAKEN,
    QUEUED,
    RELEASED,
    REPEATED,
    RETRIED,
    RETRIED_TWICE,
    RETRIED_WHOLE,
    RETURNED,
    SILENT,
    STRANGER,
    STUCK_COUNTER,
    TASK,
    TWO_KEYS,
    UNCOUNTED,
)
from tests.proof.model.search import DISAGREE, STUCK
from tests.proof.model.worlds import Safeguard

THIRD_TRUTH = [
    # ---- asking
    Safeguard("ask", "a lease with a task is asked about before its deadline", TASK, "ask-before-the-deadline"),
    Safeguard("settle", "an answer that the task has ended ends the job, as its callback does", TASK, "answer-ends-the-job"),
    Safeguard("extend", "an answer that the task runs extends the lease", TASK, "answer-extends-the-lease"),
    Safeguard("extend_script", "... by the renew script first, then in SQL", TASK, "answer-renews-in-redis"),
    Safeguard("hard", "... and never beyond the hard limit", TASK, "renewal-keeps-the-hard-limit"),
    Safeguard("answer_lease", "an answer ends only the lease that its task was started for", ANSWERED, "callback-of-the-current-task"),
    Safeguard("hold", "silence holds a lease", SILENT, "hold-before-the-question"),
    Safeguard("hold_bound", "... for a bounded time", SILENT, "silence-holds-for-a-time"),
    Safeguard("verdict", "... and ends nothing", SILENT,
        unmarked="only an end has a report, held by test_no_reply_raises"),
    Safeguard("unknown", "a task that the provider does not know ends nothing", SILENT,
        unmarked="only an end has a report, held by test_no_reply_raises"),
    Safeguard("unknown_twice", "... and is asked about again before its lease is let go", SILENT, "hold-before-the-question"),
    # ---- stopping
    Safeguard("stop_same", "an end without the provider's word owes its task a stop, in the same transaction", HURRIED,
        "stop-owed-with-the-end"),
    Safeguard("stop_expired", "... so does an expiry", TASK, "stop-owed-with-the-end"),
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
    # ---- failures that are tried again
    Safeguard("retry", "a failure that its tool has tried again puts the job back to its place", RETRIED, "failure-that-is-tried-again"),
    Safeguard("retry_bound", "... as often as the tool says", RETRIED, "retries-are-counted"),
    Safeguard("retry_lease", "... by a report about its current task", OVERTAKEN, "callback-of-the-current-task"),
    Safeguard("retry_books", "... and books no refund between two tries", RETRIED,
        unmarked="the transaction calls no booking, held by test_a_job_is_started_again_and_its_user_sees_one_completed_job"),
    Safeguard("retry_seat", "... in Redis too", RETRIED_WHOLE, "retry-leaves-its-slot", behind=("sweep_give_back",), harm=DISAGREE),
    Safeguard("end_waiter", "the lease of the failed try ends nothing while its job waits", RELEASED, "lease-of-a-waiter-ends-nothing"),
    Safeguard("charge_once", "a job that SQL has is not charged again", RETRIED_TWICE,
        unmarked="UNIQUE(job_id, kind) of the table, held by test_the_schema_itself_refuses"),
    # ---- hints
    Safeguard("hint_verdict", "a hint ends nothing", HINTED, "hint-is-not-believed"),
    Safeguard("hint_id", "... and the answer is no repeat of it", HINTED,
        unmarked="the id is made apart, held by test_a_true_hint_ends_the_job_long_before_the_next_question"),
    Safeguard("nudge", "... but makes gate ask", HINTED, "hint-makes-gate-ask", harm=DISAGREE),
    Safeguard("nudge_stays", "... also when it comes during a question", HINTED_MEANWHILE, "hint-outlasts-a-question", harm=DISAGREE),
]  # fmt: skip
