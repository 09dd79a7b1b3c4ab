"""The safeguards that stand in the transactions."""

from __future__ import annotations

from tests.model.world import World
from tests.model.worlds import ANY, BRIEF, REBUILT, REFUSED, REPLACED, RESUMED, STOPS, TWICE_REFUSED, Guard, Safeguard

RACES = "tests/races/test_races.py::"
TOLD = "tests/races/test_told.py::"
LIVES = "tests/races/test_redis_lives.py::"
BORDERS = "tests/races/test_borders.py::"
LEDGER = "tests/ledger/test_ledger.py::"
SWEEP = "tests/keeper/test_sweep.py::"
FILE = "gate/ledger/ledger.py"
RECORDING = "gate/ledger/recording.py"

IN_SQL = [
    Safeguard("outcome_stays", "an ended job never changes", ANY, Guard(
        FILE, "            if job.ended:\n                if job.status == outcome", "            if False:\n                if job.status == outcome",
        LEDGER + "test_an_outcome_never_changes_again")),
    Safeguard("refund_once", "one refund a job", World(calls=BRIEF),
        "UNIQUE(job_id, kind) of the table; tests/ledger/test_ledger.py::test_the_schema_itself_refuses",
        behind=("outcome_stays",), harm="refunded twice"),
    Safeguard("end_lease", "SQL compares the lease that a release names", REFUSED, Guard(
        FILE, "lease_id is not None and job.lease_id != lease_id:\n                return Ended", "False:\n                return Ended",
        LEDGER + "test_only_the_lease_it_has_ends_a_job")),
    Safeguard("refuse_lease", "... and the one that a refusal names", STOPS, TWICE_REFUSED, Guard(
        FILE, 'if job.lease_id != lease_id:\n                return Ended("lost", job)\n            if job.status == "queued"', 'if False:\n                return Ended("lost", job)\n            if job.status == "queued"',
        BORDERS + "test_a_stale_refusal_does_not_take_the_newer_lease")),
    Safeguard("extend_lease", "... and the one that a claim or a renewal names", REFUSED, Guard(
        FILE, "if job.status not in HOLDING or job.lease_id != lease_id:", "if job.status not in HOLDING:",
        BORDERS + "test_a_stale_renewal_is_not_recorded_for_the_newer_lease")),
    Safeguard("room", "SQL counts for itself before it records a grant", ANY, Guard(
        RECORDING, "batch.held(pool.name) < pool.settings.limit", "True",
        RACES + "test_a_grant_beyond_the_limit_of_sql_goes_back_to_its_place")),
    Safeguard("newer_fence", "a recorded grant has a NEWER fence than the row", REFUSED, Guard(
        RECORDING, "or not newer(pool, note.fence, job.fence)", "or note.fence < job.fence",
        RACES + "test_a_grant_given_back_is_not_recorded_again")),
    Safeguard("given_up", "a grant that goes back is written down: nobody records it any more", RESUMED, Guard(
        RECORDING, "    batch.put(job, fence=fence)\n    recorded", "    recorded",
        BORDERS + "test_a_grant_that_goes_back_is_not_taken_from_whoever_was_told_of_it_since")),
    Safeguard("expiry_fence", "a recorded expiry ends the lease of exactly its fence", REFUSED, Guard(
        RECORDING, "job.status in HOLDING and job.fence == note.fence", "job.status in HOLDING",
        RACES + "test_an_expiry_of_an_old_fence_does_not_end_the_newer_lease")),
    Safeguard("queue_timeout", "the end of a wait ends only who still waits", ANY, Guard(
        RECORDING, 'if job.status == "queued":\n            recorded.changed.append(changes.end', "if True:\n            recorded.changed.append(changes.end",
        BORDERS + "test_the_end_of_a_wait_does_not_end_who_runs")),
    Safeguard("in_time", "an answer whose lease is over by now is not recorded", ANY, Guard(
        FILE, "if row.epoch != epoch or _over(good_until):\n                return Extended", "if row.epoch != epoch:\n                return Extended",
        TOLD + "test_a_renewal_that_is_over_when_sql_hears_of_it_is_not_told")),
    Safeguard("epoch_admit", "an admission is recorded only in the epoch of its answer", REBUILT, Guard(
        FILE, 'if row.epoch != epoch or _over(good_until):\n                return Admitted("stale")', "if False:\n                pass",
        TOLD + "test_an_answer_of_an_earlier_epoch_is_not_recorded")),
    Safeguard("epoch_extend", "... so is a claim or a renewal", REPLACED, Guard(
        FILE, "if row.epoch != epoch or _over(good_until):\n                return Extended", "if _over(good_until):\n                return Extended",
        BORDERS + "test_a_renewal_of_an_earlier_epoch_is_not_told")),
    Safeguard("epoch_record", "... so is a page of the outbox", REPLACED, Guard(
        FILE, "if row.epoch != epoch:\n                return Recorded(stale=True)", "if False:\n                pass",
        BORDERS + "test_an_expiry_of_an_earlier_epoch_is_not_recorded")),
    Safeguard("void", "a grant that SQL never saw is void before its slot is freed", ANY, Guard(
        FILE, "            pools.void(batch.connection, row, fence, ticket)\n", "",
        SWEEP + "test_a_stranger_is_void_in_sql_before_its_slot_is_freed")),
    Safeguard("void_checked", "... in the transaction that sees no row of it", STOPS, Guard(
        FILE, "(job is not None and not (job.status in HOLDING and job.fence != fence))", "False",
        SWEEP + "test_a_stranger_that_is_recorded_at_last_is_not_voided")),
    Safeguard("replaced_stays", "a Redis that was replaced is not loaded again", REPLACED, Guard(
        FILE, "if identity in row.former and not even_a_former:", "if False:",
        LIVES + "test_a_redis_that_others_have_left_is_not_loaded_against_theirs")),
]  # fmt: skip
