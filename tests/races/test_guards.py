"""The guards: each line that closes a race is taken out, in a copy of the tree, and its test has to go red.

A green test proves nothing before it has been seen red. One row a guard: the file, the guarding text, what stands there
instead, and the test that must notice. The safeguards of the protocol come from tests/model/safeguards.py, where a model shows
what goes wrong without each; the others stand here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.safeguards import IN_CODE
from tests.owner_money.shop import need_postgres
from tests.support import ROOT, gate_environment

RACES = "tests/races/test_races.py::"
TOLD = "tests/races/test_told.py::"
WAITING = "tests/races/test_waiting.py::"
BORDERS = "tests/races/test_borders.py::"
LUA = "tests/lua/"
LIVES = "tests/races/test_redis_lives.py::"
REFUSING = "tests/races/test_refusing_stores.py::"
ONCE = "tests/ledger/test_at_once.py::"
LEDGER = "tests/ledger/test_ledger.py::"
HTTP = "tests/http/test_v1.py::"
DOORS = "tests/http/test_doors.py::"
SWEEP = "tests/keeper/test_sweep.py::"
DELIVER = "tests/keeper/test_deliver.py::"
WEBHOOKS = "tests/http/test_webhooks.py::"
UNREAD = "tests/ledger/test_unread.py::"
UNREAD_HTTP = "tests/http/test_unread.py::"
MONEY = "tests/owner_money/"
OTHERS = [
    # ---- Lua
    ("lua/_prelude.lua", "local function finish(word, reply)\n  promote()", "local function finish(word, reply)",
     LUA + "test_release.py::test_the_next_waiter_has_the_slot_before_it_returns"),
    ("lua/acquire.lua", "waiting == 0 and may_grant()", "may_grant()",
     LUA + "test_acquire.py::test_a_newcomer_does_not_overtake_those_whom_the_bound_left_waiting"),
    ("lua/renew.lua", "math.max(entry.due, due)", "due", LUA + "test_renew.py::test_a_renewal_never_shortens"),
    ("lua/rebuild.lua", "if entry.due <= now then", "if false then",
     LUA + "test_rebuild.py::test_deadlines_that_passed_meanwhile_have_the_claim_time_of_grace"),
    ("gate/ledger/ledger.py", "batch.put(now, expires_at=due)", "pass",
     RACES + "test_that_grace_is_given_once_however_often_redis_is_lost"),
    # ---- SQL
    ("gate/ledger/ledger.py", "if row.redis == identity and (refused_epoch is None or row.epoch > refused_epoch):", "if False:", LEDGER + "test_one_rebuild_a_loss"),
    ("gate/ledger/writer.py", "        except BaseException:\n            self._replay(tasks)", "        except BaseException as error:\n            for task in tasks:\n                task.error = error", LEDGER + "test_a_bad_request_fails_alone_in_its_batch"),
    ("gate/ledger/ledger.py", "if row.epoch != epoch or _over(good_until):\n                return Admitted", "if row.epoch != epoch:\n                return Admitted",
     LEDGER + "test_what_was_answered_too_long_ago_is_not_recorded"),
    ("gate/ledger/database.py", "self._patience.watch(task.future)", "pass", LEDGER + "test_a_caller_is_let_go_when_sql_hangs"),
    ("lua/rebuild.lua", "if ledger and ledger ~= ARGV[6] and now - seen < ALIVE_MS then", "if false then",
     LUA + "test_rebuild.py::test_a_living_gate_with_another_ledger_keeps_its_pool"),
    ("gate/ledger/ledger.py", "if ticket <= row.void_ticket:", "if False:", SWEEP + "test_a_stranger_is_void_in_sql_before_its_slot_is_freed"),
    # ---- the door
    ("gate/keeper/keyring.py", " and key.revoked_at is None:", ":", DOORS + "test_a_key_counts_and_is_revoked_within_five_seconds"),
    ("gate/http/doors.py", "if not ring.closed and from_here(scope, headers):", "if not ring.closed:", DOORS + "test_while_no_key_exists_this_machine_is_let_in_whatever_it_shows"),
    # ---- another Redis
    ("gate/slots/connection.py", 'if facts.get("role") != "master":', "if False:", LIVES + "test_a_replica_is_not_written_to_and_not_taken_for_another_life"),
    ("gate/keeper/turn.py", "if (failed := self._failed) is not None and failed is not before:", "if False:", LIVES + "test_who_waits_for_a_load_that_fails_has_failed_with_it"),
    ("gate/keeper/pools.py", "elif time.monotonic() < known.taken_at + LOADING_S:", "elif False:", LIVES + "test_two_servers_make_one_rebuild_of_one_loss"),
    # ---- what gate calls, and what it is called back with
    ("gate/ledger/deliveries.py", '        sa.or_(deliveries.c.taken_until.is_(None), deliveries.c.taken_until <= sa.bindparam("now")),\n', "",
     DELIVER + "test_two_servers_never_call_at_once_for_one_grant"),
    ("gate/ledger/deliveries.py", "            _earlier.c.done_at.is_(None),\n", "            sa.false(),\n",
     DELIVER + "test_events_of_a_job_wait_for_each_other_and_other_jobs_do_not"),
    ("gate/ledger/deliveries.py", 'if kind == "start" and (row.status != "granted" or row.job_fence != row.fence):', "if False:",
     DELIVER + "test_a_start_without_an_answer_is_made_again_by_the_same_name_until_the_claim_time_is_over"),
    ("gate/keeper/deliver.py", "                    await self._deliveries.free()\n", "",
     DELIVER + "test_a_call_under_way_when_gate_is_killed_is_made_again_by_the_same_name"),
    ("lua/claim.lua", "if entry.by_gate and not entry.claimed and ARGV[6] ~= '1' then return finish('by_gate', {}) end\n", "",
     DELIVER + "test_who_polls_does_not_claim_what_gate_starts"),
    ("lua/renew.lua", "if entry.by_gate and not entry.claimed then return finish('by_gate', {}) end\n", "",
     DELIVER + "test_who_polls_does_not_claim_what_gate_starts"),
    ("gate/gatekeeper.py", " and not job.starts else None", " else None", DELIVER + "test_who_polls_does_not_claim_what_gate_starts"),
    ("gate/ledger/inbox.py", "if batch.connection.execute(once).first() is not None:", "if False:", WEBHOOKS + "test_ten_at_once_end_it_once"),
    ("gate/ledger/inbox.py", "(job.provider, job.task_id, job.lease_id) == (provider, said.task_id, known.lease_id)", "True",
     WEBHOOKS + "test_a_task_that_was_replaced_has_no_say_any_more"),
    ("gate/ledger/inbox.py", "        verdict, after = _apply(batch, after,", "        verdict, after = 'history', after or (",
     WEBHOOKS + "test_a_callback_before_its_binding_is_applied_by_it"),
    ("gate/ledger/inbox.py", "        webhooks.c.at > now_ms() - KEPT_MS,\n", "", WEBHOOKS + "test_a_callback_that_is_kept_is_forgotten_after_a_week"),
    ("gate/ledger/inbox.py", "job.provider in (None, provider)", "True", WEBHOOKS + "test_a_provider_ends_only_jobs_bound_to_it_or_to_none"),
    ("gate/ledger/inbox.py", "return job if job is not None and job.pool == pool else None", "return job",
     WEBHOOKS + "test_it_ends_only_jobs_of_the_pool_it_names"),
    ("gate/ledger/unread.py", "if row.applied_at is not None:", "if False:", UNREAD + "test_each_is_applied_once_however_many_try"),
    ("gate/ledger/unread.py", "    if connection.execute(again).rowcount:", "    if False:", UNREAD + "test_servers_that_hear_it_at_once_count_together"),
    ("gate/ledger/unread.py", "                batch.pool(pool)\n", "                pass\n", UNREAD + "test_the_same_body_is_one_row_that_counts"),
    ("gate/ledger/unread.py", "connection.execute(sa.select(sa.func.count()).where(*of_both)).scalar_one() > PENDING_MAX", "False",
     UNREAD + "test_the_oldest_that_nobody_applied_are_dropped"),
    ("gate/ledger/inbox.py", '    if before.status == "queued":\n', "    if False:\n", UNREAD + "test_where_nothing_can_be_added_nothing_is_written"),
    ("gate/unread.py", "            await self._free(job)\n", "            pass\n",
     UNREAD_HTTP + "test_applied_it_ends_the_job_once_and_its_slot_goes_to_the_next"),
    # ---- where the two meet
    ("gate/gatekeeper.py", 'if admitted.word in ("ended", "reused", "live"):', "if False:",
     RACES + "test_a_job_that_ended_is_not_admitted_again_and_its_slot_goes_back"),
    ("gate/gatekeeper.py", "            if never_here:", "            if False:", RACES + "test_two_who_ask_at_once_for_a_job_that_sql_will_not_have_here_leave_no_ghost"),
    ("gate/gatekeeper.py", "                await self._recorder.run(pool)  # else SQL says that it runs, by a lease that is over\n", "                pass\n",
     TOLD + "test_a_repeat_after_the_lease_is_over_is_not_told_that_it_runs"),
    ("gate/gatekeeper.py", "                if started is None and _over(reply.good_until):\n                    continue  # as in acquire\n", "",
     TOLD + "test_a_renewal_that_is_over_when_its_commit_is_there_is_not_told"),
    ("gate/keeper/sweep.py", " if job.pool == pool}", "}", SWEEP + "test_what_the_outbox_says_of_a_job_of_another_pool_is_forgotten"),
    ("gate/ledger/writer.py", "        except IntegrityError:  # another server", "        except ZeroDivisionError:  # another server", LEDGER + "test_a_row_that_another_server_writes_meanwhile_is_found_when_it_is_looked_again"),
    ("gate/gatekeeper.py", "        if ended:\n            return None\n", "",
     RACES + "test_nobody_is_busy_because_of_a_job_that_ended"),
    ("gate/gatekeeper.py", "self._recorder.admitted(pool, job.job_id)", "pass",
     "tests/keeper/test_recorder.py::test_a_grant_that_came_before_its_row_is_recorded_as_soon_as_the_row_is_there"),
    ("gate/keeper/recorder.py", "self._pools.due_within(pool, again_s)", "pass",
     "tests/keeper/test_recorder.py::test_a_grant_whose_row_another_server_may_commit_is_looked_at_again_and_ever_more_seldom"),
    ("gate/keeper/recorder.py", "more = page is None or pool in self._unread", "more = page is None",
     "tests/keeper/test_recorder.py::test_a_told_page_that_came_after_entries_of_another_server_does_not_hide_them"),
    ("gate/keeper/recorder.py", "self._news.show(pool, recorded.changed)", "pass",
     WAITING + "test_a_waiter_that_parks_while_its_grant_is_written_does_not_sleep_through_it"),
    ("lua/undo.lua", "if item[2][4] == job then", "if false then", LUA + "test_undo.py::test_a_waiter_that_was_granted_meanwhile_leaves_no_word_in_the_outbox"),
    ("lua/_prelude.lua", "if now - meta.seen_at > ABSENCE_MS then", "if false then", RACES + "test_who_could_not_renew_while_gate_was_away_has_grace"),
    ("lua/_prelude.lua", "if entry.queued_at + meta.queue_ms > now then return end", "if true then return end", LUA + "test_rebuild.py::test_who_waited_through_the_absence_has_that_grace_and_newcomers_do_not"),
    ("gate/gatekeeper.py", 'job.fence, "refused", entry)', 'job.fence, "refused")', TOLD + "test_a_refusal_whose_lease_was_reaped_meanwhile_keeps_its_place"),
    ("gate/ledger/ledger.py", ' and not (note.kind == "granted" and (note.job_id, note.fence) in over)', "", TOLD + "test_a_grant_that_is_over_before_sql_heard_of_it_never_was"),
    ("gate/gatekeeper.py", "            if job.ended:\n                raise AlreadyEnded(f\"this job is {job.status} already\", job)\n            if job.status in HOLDING and (decision.word", "            if job.status in HOLDING and (decision.word", RACES + "test_an_acquire_that_waits_is_not_answered_with_an_ended_job"),
    ("gate/gatekeeper.py", " or _over(decision.good_until)):", "):", TOLD + "test_a_grant_that_is_over_when_its_commit_is_heard_of_is_not_told"),
    ("gate/gatekeeper.py", 'with self.view.parked(request.job_id, "queued") as changed:', 'with self.view.parked("nobody", "queued") as changed:',
     WAITING + "test_a_grant_that_is_told_before_its_admission_is_heard_of_is_not_slept_through"),
    ("gate/view.py", "        changed.job = None  # what was shown before `job` was read may be older than that\n", "", WAITING + "test_what_was_shown_before_a_job_was_read_is_not_taken_for_news"),
    ("gate/keeper/wake.py", "self._waiters.compare(", "list(", WAITING + "test_a_waiter_whose_message_was_lost_is_woken"),
    ("gate/keeper/pools.py", "            await self._ledger.reach(pool)\n", "            pass\n", RACES + "test_while_sql_cannot_be_written_nobody_is_reaped"),
    ("gate/keeper/sweep.py", "twice = found & self._before.get(pool, set())", "twice = found", SWEEP + "test_a_lease_taken_out_by_hand_is_put_back_as_it_was"),
    ("gate/keeper/sweep.py", "{*seen.slots, *seen.queue} - seen.noted", "{*seen.slots, *seen.queue}", SWEEP + "test_what_the_outbox_speaks_of_is_on_its_way"),
    ("gate/embedded.py", "; kill -9 0", "", "tests/cli/test_serve.py::test_the_embedded_redis_dies_with_its_parent_even_by_kill_9"),
    # ---- the owner's money
    ("gate/admission.py", " or request.tool not in self._tools:", ":", MONEY + "test_price.py::test_a_table_that_no_configuration_names_is_not_asked"),
    ("gate/admission.py", "        if known is not None:", "        if False:", MONEY + "test_price.py::test_a_repeat_is_answered_as_the_first_whatever_the_owner_says_by_now"),
    ("gate/admission.py", "Request.same_content(self._replace(user=None, credits=None), job)", "Request.same_content(self, job)",
     MONEY + "test_price.py::test_two_calls_at_once_between_which_the_price_changed_are_one_job"),
    ("gate/admission.py", "settles = request.trusted and self._owner", "settles = self._owner", MONEY + "test_refund.py::test_without_a_key_only_what_the_owner_has_priced_is_paid_by_him"),
    ("gate/ledger/owner.py", "await asyncio.get_running_loop().run_in_executor(self._paying, self._settle_next)", "self._settle_next()",
     MONEY + "test_hanging.py::test_while_a_refund_hangs_everybody_comes_and_goes"),
    ("gate/ledger/owner.py", "asyncio.get_running_loop().run_in_executor(self._asking, self._price, table, job_id, by)", "asyncio.sleep(0, self._price(table, job_id, by))",
     MONEY + "test_price.py::test_only_so_many_wait_for_a_price_that_hangs_and_the_rest_goes_on"),
    ("gate/ledger/owner.py", "by = time.monotonic() + LIMIT_MS / 1000", "by = time.monotonic() + 3 * LIMIT_MS / 1000", MONEY + "test_price.py::test_only_so_many_wait_for_a_price_that_hangs_and_the_rest_goes_on"),
    ("gate/ledger/owner.py", "connection.cancel_safe(timeout=CANCEL_S)", "pass", MONEY + "test_hanging.py::test_gate_stops_within_its_grace_while_a_function_hangs"),
    ("gate/ledger/owner.py", "set local statement_timeout = {LIMIT_MS};", "", MONEY + "test_hanging.py::test_a_refund_that_hangs_is_cut_after_five_seconds_and_one_that_is_slow_is_not"),
    ("gate/ledger/owner.py", "            return self._lost(row, error)", "            raise StoreDown('sql', 'lost') from error", MONEY + "test_failing.py::test_one_that_cannot_be_paid_keeps_no_other_from_it"),
    ("gate/ledger/owner.py", "WAIT_MS * 2 ** min(row.attempts, 20)", "WAIT_MS", MONEY + "test_failing.py::test_a_function_that_raises_is_asked_more_and_more_rarely"),
    ("gate/ledger/owner.py", "\n    .with_for_update(skip_locked=True)", "", MONEY + "test_lives.py::test_two_servers_pay_each_refund_once"),
    ("gate/ledger/owner.py", "            with connection.begin_nested():\n                self._refund_sql", "            with self._engine.begin() as another:\n                self._refund_sql.run(another, user=row.user, amount=row.amount, description=why, job_id=row.job_id)\n            with connection.begin_nested():\n                sa.text",
     MONEY + "test_lives.py::test_a_server_that_is_killed_while_it_pays_pays_once"),
    ("gate/ledger/changes.py", "        owe(batch, job, at)\n", "        pass\n", MONEY + "test_refund.py::test_the_outcome_decides_what_is_paid_and_once"),
    ("gate/opening.py", "        refuse_sqlite(sql_url)\n", "", MONEY + "test_start.py::test_on_sqlite_gate_says_in_one_line_that_the_owners_functions_cannot_be_there"),
    # ---- a store that says no
    ("lua/_prelude.lua", "  if not for_new_work then redis.call('HDEL', META, '') end\n", "", REFUSING + "test_a_redis_without_room_takes_no_new_work_and_ends_the_old"),
    ("gate/ledger/ledger.py", 'if isinstance(error, StoreDown) and error.held != "job":', "if True:",
     REFUSING + "test_one_row_that_sql_refuses_keeps_no_other_from_being_recorded"),
    ("gate/ledger/writer.py", "        except StoreDown:\n            self.writable = False\n            raise\n", "",
     REFUSING + "test_who_could_not_renew_because_sql_took_nothing_has_grace"),
    ("gate/ledger/ledger.py", "lambda batch: pools.probe(batch.connection, pool), True)", "lambda batch: None, True)", REFUSING + "test_who_could_not_renew_because_sql_took_nothing_has_grace"),
    ("gate/ledger/engines.py", '    _same(connection.engine, connection.info["file"])\n', "", REFUSING + "test_nothing_is_told_that_went_into_a_file_that_is_gone"),
    ("gate/gatekeeper.py", "            except Exception:  # whatever", "            except StoreDown:  # whatever", REFUSING + "test_a_place_whose_commit_sql_refuses_is_given_back"),
    # ---- what the loop commits by itself
    ("gate/ledger/atonce.py", "self._writer.busy or ", "", ONCE + "test_nobody_overtakes_who_waits_for_the_thread"),
    ("gate/ledger/atonce.py", " or any(task.takes_long for task in tasks)", "", ONCE + "test_what_takes_long_by_itself_is_the_threads"),
    ("gate/ledger/atonce.py", " or now < self._not_before", "", ONCE + "test_one_standstill_of_the_disk_is_not_followed_by_another"),
    ("gate/ledger/atonce.py", " - (time.thread_time() - worked)", "", ONCE + "test_what_the_loop_itself_has_computed_is_no_slow_disk"),
    ("gate/ledger/database.py", "waits=False, ", "", ONCE + "test_while_somebody_holds_the_file_the_loop_goes_on"),
    ("gate/ledger/atonce.py", "        self._checkpoints.committed(len(tasks))\n", "", ONCE + "test_what_was_written_ahead_goes_into_the_file_without_a_commit_that_waits_for_it"),
    ("gate/ledger/atonce.py", "if self._slow and self._writer.took_s > THREADS_S:", "if False:", ONCE + "test_the_loop_does_not_go_back_to_a_disk_that_the_thread_finds_slow"),
    ("gate/ledger/atonce.py", "self._closed or ", "", ONCE + "test_nothing_is_written_by_a_gate_that_has_stopped"),
    ("gate/ledger/atonce.py", "        self._engine.dispose()\n", "", ONCE + "test_nothing_stays_beside_the_file_of_a_gate_that_has_stopped"),
    ("gate/ledger/atonce.py", "len(tasks) > MANY or ", "", ONCE + "test_very_many_at_once_are_the_threads"),
    ("gate/ledger/engines.py", "            _same(made, lives_in)\n", "            pass\n", ONCE + "test_the_thread_that_comes_late_takes_no_other_file_for_the_ledger"),
    # ---- second nets: what they catch is mended by others too, only later
    ("lua/restore.lua", " or noted(job) then", " then", LUA + "test_restore.py::test_what_the_outbox_is_about_to_end_stays_ended"),
    ("gate/ledger/ledger.py", " or job.lease.due > now_ms:", ":", BORDERS + "test_a_lease_renewed_since_the_sweep_looked_is_not_overdue"),
    ("gate/ledger/ledger.py", "if batch.pool(pool).epoch == epoch else None", "if batch.pool(pool) else None", BORDERS + "test_what_the_sweep_saw_in_an_earlier_epoch_ends_nobody"),
    ("gate/ledger/ledger.py", 'note.kind != "unreadable":\n                    unknown.add(note.job_id)', 'note.kind != "unreadable":\n                    pass', RACES + "test_a_crash_before_a_grant_was_told_is_recorded_by_the_repeat"),
    ("gate/gatekeeper.py", "await self._recorder.run(pool)\n            admitted", "admitted", BORDERS + "test_an_acquire_for_which_sql_has_no_room_records_the_outbox_and_looks_again"),
]  # fmt: skip
GUARDS = [row[1:] for row in IN_CODE] + OTHERS
EVERY = 1 if os.environ.get("GATE_TEST_GUARDS") == "all" else 10
"""Each run of the tests takes one guard in ten out; GATE_TEST_GUARDS=all takes each (five minutes)."""
NAMES = [row[0] for row in IN_CODE] + [f"{row[0]}-{n}" for n, row in enumerate(OTHERS)]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy")
    for part in ("gate", "lua", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def test_each_guard_stands_in_its_file_once() -> None:
    assert [
        name for name, (file, guard, *_) in zip(NAMES, GUARDS, strict=True) if (ROOT / file).read_text().count(guard) != 1
    ] == []


@pytest.mark.parametrize("file, guard, instead, test", GUARDS[::EVERY], ids=NAMES[::EVERY])
def test_without_its_guard_the_test_goes_red(tree: Path, file: str, guard: str, instead: str, test: str) -> None:
    if test.startswith(MONEY):
        need_postgres()
    whole = (tree / file).read_text()
    assert whole.count(guard) == 1, f"the guard stands {whole.count(guard)} times in {file}"
    try:
        (tree / file).write_text(whole.replace(guard, instead))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-p", "anyio", test], cwd=tree, capture_output=True, text=True,
            env=gate_environment(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"), timeout=120,
        )  # fmt: skip
    finally:
        (tree / file).write_text(whole)
    assert ended.returncode == 1, f"{test} did not notice:\n{ended.stdout[-2000:]}"
    assert " failed" in ended.stdout or " error" in ended.stdout
