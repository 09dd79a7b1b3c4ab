"""The guards: each line that closes a race is taken out, in a copy of the tree, and its test has to go red.

A green test proves nothing before it has been seen red. One row a guard: the file, the guarding text, what stands there
instead, and the test that must notice.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, gate_environment

RACES = "tests/races/test_races.py::"
LUA = "tests/lua/"
LIVES = "tests/races/test_redis_lives.py::"
LEDGER = "tests/ledger/test_ledger.py::"
HTTP = "tests/http/test_v1.py::"
SWEEP = "tests/keeper/test_sweep.py::"
GUARDS = [
    # ---- Lua
    ("lua/release.lua", "held(job, ARGV[5])", "read(job)",
     LUA + "test_release.py::test_a_stale_release_does_not_free_the_next_holder"),
    ("lua/_prelude.lua", "entry.lease_id == lease_id and redis.call('ZSCORE', SLOTS, job)", "entry.lease_id == lease_id",
     LUA + "test_renew.py::test_a_member_taken_out_by_hand_is_not_put_back"),
    ("lua/_prelude.lua", "mind_absence() reap() promote()", "mind_absence() promote()", RACES + "test_release_after_expiry_does_not_free_the_next_holder"),
    ("lua/_prelude.lua", "local function finish(word, reply)\n  promote()", "local function finish(word, reply)",
     LUA + "test_release.py::test_the_next_waiter_has_the_slot_before_it_returns"),
    ("lua/acquire.lua", "redis.call('LLEN', QUEUE) == 0 and may_grant()", "may_grant()",
     LUA + "test_acquire.py::test_a_newcomer_does_not_overtake_those_whom_the_bound_left_waiting"),
    ("lua/acquire.lua", "if note then return", "if false then return",
     LUA + "test_acquire.py::test_an_end_in_the_outbox_is_not_admitted_anew"),
    ("lua/renew.lua", "math.max(entry.due, due)", "due", LUA + "test_renew.py::test_a_renewal_never_shortens"),
    ("lua/requeue.lua", "entry.fence ~= ARGV[5]", "false",
     LUA + "test_requeue.py::test_a_requeue_of_an_old_fence_does_not_move_the_newer_grant"),
    ("lua/requeue.lua", "seat(job, tonumber(entry.ticket))", "redis.call('LPUSH', QUEUE, job)",
     LUA + "test_requeue.py::test_its_place_is_found_in_a_long_queue"),
    ("lua/rebuild.lua", "if there >= epoch then", "if false then", LUA + "test_rebuild.py::test_it_refuses_unless_its_epoch_is_above"),
    ("lua/rebuild.lua", "if entry.due <= now then entry.due = now + settings.claim_ms end", "",
     LUA + "test_rebuild.py::test_deadlines_that_passed_meanwhile_have_the_claim_time_of_grace"),
    # ---- SQL
    ("gate/ledger/ledger.py", "            if job.ended:\n                if job.status == outcome", "            if False:\n                if job.status == outcome",
     LEDGER + "test_an_outcome_never_changes_again"),
    ("gate/ledger/ledger.py", "lease_id is not None and job.lease_id != lease_id:\n                return Ended", "False:\n                return Ended",
     LEDGER + "test_only_the_lease_it_has_ends_a_job"),
    ("gate/ledger/ledger.py", "or not _newer(pool, note.fence, job.fence)", "or note.fence < job.fence",
     RACES + "test_a_grant_given_back_is_not_recorded_again"),
    ("gate/ledger/ledger.py", "job.status in HOLDING and job.fence == note.fence", "job.status in HOLDING",
     RACES + "test_an_expiry_of_an_old_fence_does_not_end_the_newer_lease"),
    ("gate/ledger/ledger.py", "held(connection, pool.name) < pool.settings.limit", "True",
     RACES + "test_a_grant_beyond_the_limit_of_sql_goes_back_to_its_place"),
    ("gate/ledger/ledger.py", 'if row.epoch != epoch or _over(good_until):\n                return Admitted("stale")', "if False:\n                pass",
     RACES + "test_an_answer_of_an_earlier_epoch_is_not_recorded"),
    ("gate/ledger/ledger.py", "if row.redis == identity and (refused_epoch is None or row.epoch > refused_epoch):", "if False:", LEDGER + "test_one_rebuild_a_loss"),
    ("gate/ledger/database.py", "        except BaseException:\n            self._replay(tasks)", "        except BaseException as error:\n            for task in tasks:\n                task.error = error", LEDGER + "test_a_bad_request_fails_alone_in_its_batch"),
    ("gate/ledger/ledger.py", "if row.epoch != epoch or _over(good_until):\n                return Admitted", "if row.epoch != epoch:\n                return Admitted",
     RACES + "test_a_grant_that_is_over_when_sql_hears_of_it_is_not_told"),
    ("gate/ledger/ledger.py", "if row.epoch != epoch or _over(good_until):\n                return Extended", "if row.epoch != epoch:\n                return Extended",
     RACES + "test_a_renewal_that_is_over_when_sql_hears_of_it_is_not_told"),
    ("gate/ledger/database.py", "        async with asyncio.timeout(ANSWER_S):", "        if True:", LEDGER + "test_a_caller_is_let_go_when_sql_hangs"),
    ("lua/rebuild.lua", "if ledger and ledger ~= ARGV[6] and now - seen < ALIVE_MS then", "if false then",
     LUA + "test_rebuild.py::test_a_living_gate_with_another_ledger_keeps_its_pool"),
    # ---- another Redis
    ("gate/slots/connection.py", "if found != only:", "if False:", LIVES + "test_a_replica_that_lagged_is_loaded_anew_when_it_is_promoted"),
    ("gate/slots/connection.py", 'if facts.get("role") != "master":', "if False:", LIVES + "test_a_replica_is_not_written_to_and_not_taken_for_another_life"),
    ("gate/keeper/pools.py", "elif loop.time() < known.taken_at + LOADING_S:", "elif False:", LIVES + "test_two_servers_make_one_rebuild_of_one_loss"),
    ("gate/ledger/ledger.py", "if identity in row.former and not even_a_former:", "if False:", LIVES + "test_a_redis_that_others_have_left_is_not_loaded_against_theirs"),
    # ---- where the two meet
    ("gate/gatekeeper.py", "            except StoreDown:\n                await self._undo(pool, request.job_id, decision)\n                raise", "            except StoreDown:\n                raise",
     RACES + "test_a_slot_goes_back_when_sql_cannot_write"),
    ("gate/gatekeeper.py", 'if admitted.word in ("ended", "reused", "live"):', "if False:",
     RACES + "test_a_job_that_ended_is_not_admitted_again_and_its_slot_goes_back"),
    ("gate/gatekeeper.py", "        if ended:\n            return None\n", "",
     RACES + "test_nobody_is_busy_because_of_a_job_that_ended"),
    ("gate/keeper/recorder.py", "self._news.tell(pool, recorded.changed)", "pass",
     RACES + "test_a_waiter_that_parks_while_its_grant_is_written_does_not_sleep_through_it"),
    ("gate/keeper/tick.py", "await self._pools.run(pool, lambda epoch: self._semaphore.tick(pool, epoch))", "pass",
     HTTP + "test_an_expiry_and_a_late_outcome"),
    ("lua/undo.lua", " or entry.again then", " then", RACES + "test_a_refused_twin_does_not_take_the_slot_that_another_was_told"),
    ("lua/undo.lua", "if item[2][4] == job then", "if false then", LUA + "test_undo.py::test_a_waiter_that_was_granted_meanwhile_leaves_no_word_in_the_outbox"),
    ("lua/_prelude.lua", "if now - meta.seen_at > ABSENCE_MS then", "if false then", RACES + "test_who_could_not_renew_while_gate_was_away_has_grace"),
    ("lua/_prelude.lua", "if entry.queued_at + meta.queue_ms > now then return end", "if true then return end", LUA + "test_rebuild.py::test_who_waited_through_the_absence_has_that_grace_and_newcomers_do_not"),
    ("gate/gatekeeper.py", 'job.fence, "refused", entry)', 'job.fence, "refused")', RACES + "test_a_refusal_whose_lease_was_reaped_meanwhile_keeps_its_place"),
    ("gate/ledger/ledger.py", ' and not (note.kind == "granted" and (note.job_id, note.fence) in over)', "", RACES + "test_a_grant_that_is_over_before_sql_heard_of_it_never_was"),
    ("gate/gatekeeper.py", "            if job.ended:\n                raise AlreadyEnded(f\"this job is {job.status} already\", job)\n            return job\n        raise StoreDown", "            return job\n        raise StoreDown", RACES + "test_an_acquire_that_waits_is_not_answered_with_an_ended_job"),
    ("gate/keeper/wake.py", "self._waiters.wake(", "list(", RACES + "test_a_waiter_whose_message_was_lost_is_woken"),
    ("gate/keeper/pools.py", "            await self._ledger.reach()\n", "            pass\n", RACES + "test_while_sql_cannot_be_written_nobody_is_reaped"),
    ("gate/keeper/sweep.py", "twice = found & self._before.get(pool, set())", "twice = found", SWEEP + "test_a_lease_taken_out_by_hand_is_put_back_as_it_was"),
    ("gate/ledger/ledger.py", "            pools.void(connection, row, fence)\n", "", SWEEP + "test_a_stranger_is_void_in_sql_before_its_slot_is_freed"),
    ("gate/ledger/ledger.py", "(job is not None and not (job.status in HOLDING and job.fence != fence))", "False", SWEEP + "test_a_stranger_that_is_recorded_at_last_is_not_voided"),
    ("gate/keeper/sweep.py", "{*seen.slots, *seen.queue} - seen.noted", "{*seen.slots, *seen.queue}", SWEEP + "test_what_the_outbox_speaks_of_is_on_its_way"),
    ("gate/embedded.py", "; kill -9 0", "", "tests/cli/test_serve.py::test_the_embedded_redis_dies_with_its_parent_even_by_kill_9"),
]  # fmt: skip


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy")
    for part in ("gate", "lua", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.mark.parametrize("file, guard, instead, test", GUARDS, ids=[f"{row[0]}-{n}" for n, row in enumerate(GUARDS)])
def test_without_its_guard_the_test_goes_red(tree: Path, file: str, guard: str, instead: str, test: str) -> None:
    whole = (tree / file).read_text()
    assert whole.count(guard) == 1, f"the guard stands {whole.count(guard)} times in {file}"
    try:
        (tree / file).write_text(whole.replace(guard, instead))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", test], cwd=tree, capture_output=True, text=True,
            env=gate_environment(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1"), timeout=120,
        )  # fmt: skip
    finally:
        (tree / file).write_text(whole)
    assert ended.returncode == 1, f"{test} did not notice:\n{ended.stdout[-2000:]}"
    assert " failed" in ended.stdout or " error" in ended.stdout
