"""The safeguards that stand in the transactions."""

from __future__ import annotations

from tests.proof.model.world import World
from tests.proof.model.worlds import ANY, BRIEF, REBUILT, REFUSED, REPLACED, RESUMED, STOPS, TWICE_REFUSED, Safeguard

IN_SQL = [
    Safeguard("outcome_stays", "an ended job never changes", ANY, "outcome-is-final"),
    Safeguard("refund_once", "one refund a job", World(calls=BRIEF),
        unmarked="UNIQUE(job_id, kind) of the table, held by test_the_schema_itself_refuses",
        behind=("outcome_stays",), harm="refunded twice"),
    Safeguard("end_lease", "SQL compares the lease that a release names", REFUSED, "end-only-its-lease"),
    Safeguard("refuse_lease", "... and the one that a refusal names", TWICE_REFUSED, "refuse-only-its-lease"),
    Safeguard("extend_lease", "... and the one that a claim or a renewal names", REFUSED, "extend-only-its-lease"),
    Safeguard("room", "SQL counts for itself before it records a grant", ANY, "sql-counts-the-slots"),
    Safeguard("newer_fence", "a recorded grant has a NEWER fence than the row", REFUSED, "grant-has-a-newer-fence"),
    Safeguard("given_up", "a returned grant is written down, so that it is never recorded again", RESUMED,
        "returned-grant-is-written-down"),
    Safeguard("expiry_fence", "a recorded expiry ends the lease of exactly its fence", REFUSED, "expiry-only-of-its-fence"),
    Safeguard("queue_timeout", "the end of a wait ends only who still waits", ANY, "queue-timeout-only-of-a-waiter"),
    Safeguard("in_time", "an answer whose lease is over by now is not recorded", ANY, "extension-in-time"),
    Safeguard("epoch_admit", "an admission is recorded only in the epoch of its answer", REBUILT, "admission-in-its-epoch"),
    Safeguard("epoch_extend", "... so is a claim or a renewal", REPLACED, "extension-in-its-epoch"),
    Safeguard("epoch_record", "... so is a page of the outbox", REPLACED, "outbox-page-in-its-epoch"),
    Safeguard("void", "a grant that SQL never saw is void before its slot is freed", ANY, "stranger-is-void-in-sql"),
    Safeguard("void_checked", "... in the transaction that sees no row of it", STOPS, "void-only-without-a-row"),
    Safeguard("replaced_stays", "a Redis that was replaced is not loaded again", REPLACED, "replaced-redis-is-not-loaded"),
]  # fmt: skip
