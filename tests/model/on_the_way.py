"""The safeguards that stand in the paths: the order of calls, and what the sweep mends."""

from __future__ import annotations

from tests.model.search import DISAGREE, STUCK
from tests.model.world import World
from tests.model.worlds import ALONE, ANY, BRIEF, BRIEFLY, CHANGED, REBUILT, Guard, Safeguard

RACES = "tests/races/test_races.py::"
TOLD = "tests/races/test_told.py::"
BORDERS = "tests/races/test_borders.py::"
SWEEP = "tests/keeper/test_sweep.py::"
KEEPER = "gate/gatekeeper.py"
SWEEPER = "gate/keeper/sweep.py"
RECORDER = "gate/keeper/recorder.py"
EXTEND = "            recorded = await self._ledger.extend("
END = "        ended = await self._ledger.end(pool, job_id, outcome, by=by, lease_id=lease_id, error=error, output=output)\n"
RELEASE = "        await self._pools.run(pool, lambda epoch: self._semaphore.release(pool, epoch, job_id, lease_id))\n"
RECORD = "        recorded = await self._ledger.record(pool, epoch, notes, good_until)\n"
DELETE = "        await self._semaphore.delete_notes(pool, [note.entry_id for note in notes])\n"


def mends(kind: str, demands: str, text: str, instead: str, test: str) -> Safeguard:
    world = ALONE if kind == "give_back" else BRIEFLY
    return Safeguard(f"sweep_{kind}", f"sweep: {demands}", world, Guard(SWEEPER, text, instead, SWEEP + test))


ON_THE_WAY = [
    Safeguard("sql_first", "an outcome goes to SQL before Redis frees the slot", ANY, Guard(
        KEEPER, END, RELEASE + END, BORDERS + "test_a_release_that_sql_cannot_write_frees_nothing")),
    Safeguard("told_after", "a deadline is told when Redis has it and SQL too", ANY, Guard(
        KEEPER, EXTEND, "            return await self._job(pool, job_id)\n" + EXTEND,
        RACES + "test_a_claim_is_told_only_after_sql_has_it")),
    Safeguard("undo", "what SQL will not write goes back", World(kinds=frozenset({"down"})), Guard(
        KEEPER, "                await self._places.undo(pool, request.job_id, decision)\n                raise\n", "                raise\n",
        TOLD + "test_a_slot_goes_back_when_sql_cannot_write"), behind=("sweep_stranger",), harm=DISAGREE),
    Safeguard("delete_after", "an entry of the outbox is deleted when SQL has it", World(calls=BRIEF), Guard(
        RECORDER, RECORD, DELETE + RECORD, BORDERS + "test_an_entry_that_sql_cannot_take_stays_in_the_outbox"),
        behind=("sweep_overdue",), harm=STUCK),
    Safeguard("tick", "an idle pool reaps and promotes by itself", BRIEFLY, Guard(
        "gate/keeper/tick.py", "await self._pools.run(pool, lambda epoch: self._semaphore.tick(pool, epoch))", "pass",
        "tests/http/test_v1.py::test_an_expiry_and_a_late_outcome")),
    Safeguard("committed_first", "a rebuild commits its epoch, with the rows it read, before it loads", REBUILT,
        "the order of two calls, and the second needs what the first answers: gate/keeper/pools.py, rebuild"),
    mends("ended", "ended in SQL, still in Redis", 'yield Finding("ended", job_id)', "pass",
          "test_a_job_that_ended_in_sql_leaves_redis"),
    mends("stranger", "in Redis, never in SQL", 'if seen.now_ms - since > STRANGER_MS:\n                yield Finding("stranger", job_id, fence)', "if False:\n                pass",
          "test_a_stranger_is_void_in_sql_before_its_slot_is_freed"),
    mends("adopt", "queued, and holds a newer grant of which nothing is said", 'if held and entry:\n                yield Finding("adopt" if fence > job.fence else "give_back", job_id, fence)', 'if held and entry and fence <= job.fence:\n                yield Finding("give_back", job_id, fence)',
          "test_a_lost_grant_is_adopted"),
    mends("give_back", "queued, and still holds what it gave back", 'if held and entry:\n                yield Finding("adopt" if fence > job.fence else "give_back", job_id, fence)', 'if held and entry and fence > job.fence:\n                yield Finding("adopt", job_id, fence)',
          "test_a_refusal_that_redis_never_heard_of_is_carried_out"),
    mends("seat", "queued, and nowhere in Redis", 'if job.status in HOLDING else Finding("seat", job_id)', 'if job.status in HOLDING else Finding("none", job_id)',
          "test_a_waiter_taken_out_by_hand_has_its_old_place"),
    mends("restore", "live, not overdue, and its lease not in Redis", 'return reply.word == "restored"', "return False",
          "test_a_lease_taken_out_by_hand_is_put_back_as_it_was"),
    mends("overdue", "live, overdue, and its lease not in Redis", "if not await self._ledger.expire_overdue(pool, epoch, job_id, fence, seen.now_ms):", "if True:",
          "test_a_lost_expiry_is_found_by_its_deadline_in_sql"),
    mends("unheard", "in the outbox, never in SQL, and its slot gone", 'yield Finding("unheard", job_id)', "pass",
          "test_what_the_outbox_says_of_a_job_that_never_reached_sql_is_forgotten"),
    Safeguard("sweep_settings", "sweep: settings that differ from SQL's", CHANGED, Guard(
        SWEEPER, 'found.add(Finding("settings", ""))', "pass", SWEEP + "test_settings_are_those_of_sql")),
]  # fmt: skip
