"""The guards: each closes a race, and each has a test that has to fail without it.

A row has the name of the mark in the source (`# guard: NAME`), the way to remove the guard, and the name of the test. Neither names
a file, so that code and tests can move. Where a model shows what goes wrong, the row of the model has the same name
(tests/proof/model/safeguards.py).
"""

from __future__ import annotations

from typing import NamedTuple

from tests.proof.guards.marks import ALWAYS, BEFORE, DROP, NEVER, ON_THE_LOOP, UNASKED, Removal, replaced_by


class Guard(NamedTuple):
    """`test` is the name of the function, which no other test has."""

    name: str
    removal: Removal
    test: str


GUARDS = [
    # ---- the protocol, in Redis (see tests/proof/model/in_redis.py)
    Guard("reap-before-anything", DROP, "test_release_after_expiry_does_not_free_the_next_holder"),
    Guard("acquire-finds-a-held-slot", NEVER, "test_asked_again_it_answers_the_same_and_takes_nothing"),
    Guard("acquire-finds-an-unrecorded-end", NEVER, "test_an_end_in_the_outbox_is_not_admitted_anew"),
    Guard("only-the-lease-named", DROP, "test_a_stale_release_does_not_free_the_next_holder"),
    Guard("extend-only-a-held-slot", DROP, "test_a_member_taken_out_by_hand_is_not_put_back"),
    Guard("requeue-only-its-fence", NEVER, "test_a_requeue_of_an_old_fence_does_not_move_the_newer_grant"),
    Guard("place-by-ticket", NEVER, "test_its_place_is_found_in_a_long_queue"),
    Guard("restore-within-the-limit", NEVER, "test_it_makes_no_fourth"),
    Guard("undo-only-its-ticket", DROP, "test_a_later_admission_of_the_same_job_is_kept"),
    Guard("undo-nothing-asked-again", DROP, "test_a_refused_twin_does_not_take_the_slot_that_another_was_told"),
    Guard("load-only-a-newer-epoch", NEVER, "test_it_refuses_unless_its_epoch_is_above"),
    Guard("fences-above-earlier-epochs", replaced_by("'0'"), "test_fences_and_tickets_start_above_those_of_every_earlier_life"),
    Guard("only-the-known-redis", NEVER, "test_a_replica_that_lagged_is_loaded_anew_when_it_is_promoted"),
    Guard("stranger-leaves-by-ticket", NEVER, "test_the_place_of_a_stranger_is_freed_and_not_the_slot_it_has_since"),
    # ---- the client
    Guard("answer-of-another-job", NEVER, "test_answer_about_another_job_is_refused"),
    Guard("slot-of-the-parent", NEVER, "test_child_that_leaves_the_body_of_its_parent_does_not_release_the_slot"),
    Guard("outcome-is-sent-once", NEVER, "test_stream_is_over_for_a_client_that_has_the_outcome"),
    # ---- the protocol, in SQL (see tests/proof/model/in_sql.py)
    Guard("outcome-is-final", NEVER, "test_an_outcome_never_changes_again"),
    Guard("end-only-its-lease", NEVER, "test_only_the_lease_it_has_ends_a_job"),
    Guard("refuse-only-its-lease", NEVER, "test_a_stale_refusal_does_not_take_the_newer_lease"),
    Guard("extend-only-its-lease", DROP, "test_a_stale_renewal_is_not_recorded_for_the_newer_lease"),
    Guard("sql-counts-the-slots", DROP, "test_a_grant_beyond_the_limit_of_sql_goes_back_to_its_place"),
    Guard("grant-has-a-newer-fence", DROP, "test_a_grant_given_back_is_not_recorded_again"),
    Guard("returned-grant-is-written-down", DROP, "test_a_returned_grant_is_not_taken_from_a_holder_told_of_it_since"),
    Guard("expiry-only-of-its-fence", DROP, "test_an_expiry_of_an_old_fence_does_not_end_the_newer_lease"),
    Guard("queue-timeout-only-of-a-waiter", ALWAYS, "test_the_end_of_a_wait_does_not_end_a_running_job"),
    Guard("extension-in-time", DROP, "test_a_renewal_that_is_over_when_sql_hears_of_it_is_not_told"),
    Guard("admission-in-its-epoch", DROP, "test_an_answer_of_an_earlier_epoch_is_not_recorded"),
    Guard("extension-in-its-epoch", DROP, "test_a_renewal_of_an_earlier_epoch_is_not_told"),
    Guard("outbox-page-in-its-epoch", NEVER, "test_an_expiry_of_an_earlier_epoch_is_not_recorded"),
    Guard("stranger-is-void-in-sql", DROP, "test_a_stranger_is_void_in_sql_before_its_slot_is_freed"),
    Guard("void-only-without-a-row", DROP, "test_a_stranger_that_is_recorded_at_last_is_not_voided"),
    Guard("replaced-redis-is-not-loaded", NEVER, "test_a_redis_that_others_have_left_is_not_loaded_against_theirs"),
    # ---- the protocol, on the way (see tests/proof/model/on_the_way.py)
    Guard("end-in-sql-before-redis", BEFORE, "test_a_release_that_sql_cannot_write_frees_nothing"),
    Guard("extension-in-sql-before-the-answer", UNASKED, "test_a_claim_is_told_only_after_sql_has_it"),
    Guard("undo-what-sql-refused", DROP, "test_a_slot_goes_back_when_sql_cannot_write"),
    Guard("record-before-delete", BEFORE, "test_an_entry_that_sql_cannot_take_stays_in_the_outbox"),
    Guard("tick-an-idle-pool", DROP, "test_an_expiry_and_a_late_outcome"),
    Guard("sweep-ended-job", DROP, "test_a_job_that_ended_in_sql_leaves_redis"),
    Guard("sweep-stranger", NEVER, "test_a_stranger_is_void_in_sql_before_its_slot_is_freed"),
    Guard("sweep-lost-grant", DROP, "test_a_lost_grant_is_adopted"),
    Guard("sweep-unfinished-refusal", DROP, "test_a_refusal_that_redis_never_heard_of_is_carried_out"),
    Guard("sweep-lost-place", DROP, "test_a_waiter_taken_out_by_hand_has_its_old_place"),
    Guard("sweep-restored-lease", replaced_by("False"), "test_a_lease_taken_out_by_hand_is_put_back_as_it_was"),
    Guard("sweep-restore-after-the-return", DROP, "test_a_lease_is_put_back_though_a_waiter_has_just_got_its_slot"),
    Guard(
        "sweep-failed-repair-again",
        ALWAYS,
        "test_a_repair_that_failed_is_tried_by_the_next_sweep",
    ),
    Guard("sweep-lost-expiry", ALWAYS, "test_a_lost_expiry_is_found_by_its_deadline_in_sql"),
    Guard("sweep-unknown-outbox-entry", DROP, "test_what_the_outbox_says_of_a_job_that_never_reached_sql_is_forgotten"),
    Guard("sweep-settings", DROP, "test_settings_are_those_of_sql"),
    # ---- Lua
    Guard("promote-before-the-answer", DROP, "test_the_next_waiter_has_the_slot_before_it_returns"),
    Guard("newcomer-behind-waiters", DROP, "test_a_newcomer_does_not_overtake_waiters_left_by_the_bound"),
    Guard("renewal-never-shortens", NEVER, "test_a_renewal_never_shortens"),
    Guard("grace-at-rebuild", NEVER, "test_deadlines_that_passed_meanwhile_have_the_claim_time_of_grace"),
    Guard("grace-only-once", DROP, "test_that_grace_is_given_once_however_often_redis_is_lost"),
    # ---- SQL
    Guard("one-rebuild-a-loss", NEVER, "test_one_rebuild_a_loss"),
    Guard("bad-task-fails-alone", DROP, "test_a_bad_request_fails_alone_in_its_batch"),
    Guard("admission-in-time", DROP, "test_what_was_answered_too_long_ago_is_not_recorded"),
    Guard("caller-leaves-a-hanging-sql", DROP, "test_a_caller_is_let_go_when_sql_hangs"),
    Guard("pool-of-another-ledger-is-kept", NEVER, "test_a_living_gate_with_another_ledger_keeps_its_pool"),
    Guard("admission-above-the-void-ticket", NEVER, "test_a_stranger_is_void_in_sql_before_its_slot_is_freed"),
    # ---- who may call
    Guard("revoked-key-is-refused", DROP, "test_a_key_counts_and_is_revoked_within_five_seconds"),
    Guard("keyless-only-from-this-machine", DROP, "test_while_no_key_exists_this_machine_is_let_in_whatever_it_shows"),
    # ---- another Redis
    Guard("no-replica", NEVER, "test_a_replica_is_not_written_to_and_not_taken_for_another_life"),
    Guard("failed-load-fails-its-waiters", NEVER, "test_failed_pool_load_fails_every_waiting_caller"),
    Guard("one-server-loads", NEVER, "test_two_servers_make_one_rebuild_of_one_loss"),
    # ---- calls to tools, and callbacks
    Guard("delivery-taken-by-one-server", DROP, "test_two_servers_never_call_at_once_for_one_grant"),
    Guard("events-of-a-job-in-order", DROP, "test_events_of_a_job_wait_for_each_other_and_other_jobs_do_not"),
    Guard("start-only-a-live-grant", NEVER, "test_why_a_start_was_not_answered_is_kept_when_its_time_is_over"),
    Guard("free-deliveries-of-a-dead-server", DROP, "test_a_call_under_way_when_gate_is_killed_is_made_again_by_the_same_name"),
    Guard("claim-not-what-gate-starts", NEVER, "test_a_poll_does_not_claim_a_job_that_gate_starts"),
    Guard("renewal-claims-not-what-gate-starts", NEVER, "test_a_poll_does_not_claim_a_job_that_gate_starts"),
    Guard("take-not-what-gate-starts", DROP, "test_a_poll_does_not_claim_a_job_that_gate_starts"),
    Guard("callback-only-once", NEVER, "test_ten_at_once_end_it_once"),
    Guard("callback-of-the-current-task", DROP, "test_a_task_that_was_replaced_has_no_say_any_more"),
    Guard("early-callback-is-applied", DROP, "test_a_callback_before_its_binding_is_applied_by_it"),
    Guard("kept-callback-expires", DROP, "test_a_callback_that_is_kept_is_forgotten_after_a_week"),
    Guard("callback-of-the-bound-provider", DROP, "test_a_provider_ends_only_jobs_bound_to_it_or_to_none"),
    Guard("callback-in-its-pool", ALWAYS, "test_it_ends_only_jobs_of_the_pool_it_names"),
    Guard("unread-callback-applied-once", NEVER, "test_each_is_applied_once_however_many_try"),
    Guard("unread-callback-dismissed-once", replaced_by("True"), "test_a_callback_that_was_applied_is_not_dismissed"),
    Guard("unread-callback-counted-once", NEVER, "test_servers_that_hear_it_at_once_count_together"),
    Guard("unread-callback-of-a-known-pool", DROP, "test_the_same_body_is_one_row_that_counts"),
    Guard("unread-callbacks-are-bounded", NEVER, "test_the_oldest_pending_callbacks_are_dropped"),
    Guard("unread-callback-not-for-a-waiter", NEVER, "test_where_nothing_can_be_added_nothing_is_written"),
    Guard("unread-callback-frees-the-slot", DROP, "test_applied_it_ends_the_job_once_and_its_slot_goes_to_the_next"),
    # ---- where Redis and SQL meet
    Guard("undo-an-unwanted-admission", NEVER, "test_a_job_that_ended_is_not_admitted_again_and_its_slot_goes_back"),
    Guard("undo-a-foreign-job", NEVER, "test_two_acquires_of_a_job_that_sql_refuses_leave_no_ghost"),
    Guard("repeat-records-the-outbox", DROP, "test_a_repeat_after_the_lease_is_over_is_not_told_that_it_runs"),
    Guard("extension-still-in-time", NEVER, "test_a_renewal_that_is_over_when_its_commit_is_there_is_not_told"),
    Guard("sweep-only-its-pool", ALWAYS, "test_what_the_outbox_says_of_a_job_of_another_pool_is_forgotten"),
    Guard("look-again-after-a-conflict", DROP, "test_a_row_that_another_server_writes_meanwhile_is_found_when_it_is_looked_again"),
    Guard("busy-by-live-jobs-only", NEVER, "test_an_ended_job_keeps_no_user_busy"),
    Guard("record-a-grant-after-its-row", DROP, "test_a_grant_that_came_before_its_row_is_recorded_as_soon_as_the_row_is_there"),
    Guard("look-again-for-a-missing-row", DROP, "test_a_grant_whose_row_another_server_may_commit_is_looked_at_again_and_ever_more_seldom"),
    Guard("read-what-others-emitted", DROP, "test_a_told_page_that_came_after_entries_of_another_server_does_not_hide_them"),
    Guard("show-recorded-jobs", DROP, "test_a_waiter_that_parks_while_its_grant_is_written_does_not_sleep_through_it"),
    Guard("undo-its-outbox-entries", NEVER, "test_a_waiter_that_was_granted_meanwhile_leaves_no_word_in_the_outbox"),
    Guard("grace-after-an-absence", NEVER, "test_a_holder_that_could_not_renew_while_gate_was_away_has_grace"),
    Guard("queue-grace-after-an-absence", ALWAYS, "test_waiters_of_before_the_absence_have_grace_and_newcomers_do_not"),
    Guard("requeue-restores-a-reaped-job", DROP, "test_a_refusal_whose_lease_was_reaped_meanwhile_keeps_its_place"),
    Guard("dead-grant-is-not-recorded", DROP, "test_a_grant_that_is_over_before_sql_heard_of_it_never_was"),
    Guard("waiting-acquire-sees-the-end", NEVER, "test_an_acquire_that_waits_is_not_answered_with_an_ended_job"),
    Guard("grant-still-in-time", DROP, "test_a_grant_that_is_over_when_its_commit_is_heard_of_is_not_told"),
    Guard("park-before-the-admission", replaced_by("'another'"), "test_a_grant_that_is_told_before_its_admission_is_heard_of_is_not_slept_through"),
    Guard("forget-news-before-the-read", DROP, "test_what_was_shown_before_a_job_was_read_is_not_taken_for_news"),
    Guard("wake-after-a-lost-message", DROP, "test_a_waiter_whose_message_was_lost_is_woken"),
    Guard("reach-sql-before-a-reap", DROP, "test_while_sql_cannot_be_written_no_lease_is_reaped"),
    Guard("sweep-what-two-looks-saw", DROP, "test_a_lease_taken_out_by_hand_is_put_back_as_it_was"),
    Guard("sweep-nothing-in-the-outbox", DROP, "test_what_the_outbox_speaks_of_is_on_its_way"),
    Guard("embedded-redis-dies-with-gate", DROP, "test_the_embedded_redis_dies_with_its_parent_even_by_kill_9"),
    # ---- the owner's money
    Guard("no-admission-for-an-unknown-table", NEVER, "test_an_admission_is_refused_where_no_configuration_names_the_table"),
    Guard("price-only-known-tables", DROP, "test_a_table_that_no_configuration_names_is_not_asked"),
    Guard("repeat-keeps-its-price", NEVER, "test_a_repeat_is_answered_as_the_first_whatever_the_owner_says_by_now"),
    Guard("repeat-ignores-the-price", replaced_by("self"), "test_two_calls_at_once_between_which_the_price_changed_are_one_job"),
    Guard("refund-only-a-trusted-charge", DROP, "test_without_a_key_only_priced_jobs_are_paid_by_the_owner"),
    Guard("refund-off-the-loop", ON_THE_LOOP, "test_while_a_refund_hangs_other_calls_are_served"),
    Guard("price-off-the-loop", ON_THE_LOOP, "test_only_so_many_wait_for_a_price_that_hangs_and_the_rest_goes_on"),
    Guard("price-within-its-limit", replaced_by("time.monotonic() + 15"), "test_only_so_many_wait_for_a_price_that_hangs_and_the_rest_goes_on"),
    Guard("cancel-owner-calls-at-stop", DROP, "test_gate_stops_within_its_grace_while_a_function_hangs"),
    Guard("refund-has-a-timeout", DROP, "test_a_refund_that_hangs_is_cut_after_five_seconds_and_one_that_is_slow_is_not"),
    Guard("put-off-a-lost-refund", DROP, "test_one_that_cannot_be_paid_keeps_no_other_from_it"),
    Guard("refund-backs-off", DROP, "test_a_function_that_raises_is_asked_more_and_more_rarely"),
    Guard("one-server-pays-a-refund", DROP, "test_two_servers_pay_each_refund_once"),
    Guard("pay-and-book-together", replaced_by("it.engine.connect().execution_options(isolation_level='AUTOCOMMIT')"), "test_a_server_that_is_killed_while_it_pays_pays_once"),
    Guard("early-end-after-no-admission", NEVER, "test_an_end_after_the_admission_changes_nothing"),
    Guard("pass-a-waiter-whose-tool-is-down", NEVER, "test_a_waiter_whose_tool_is_down_says_so"),
    Guard("hold-extends-the-grant", DROP, "test_a_start_may_take_longer_than_the_claim_time_and_the_hold_of_its_row"),
    Guard("hold-a-start-that-is-under-way", DROP, "test_a_start_that_is_under_way_is_asked_again_and_keeps_its_grant"),
    Guard("ask-an-unwell-tool-again", ALWAYS, "test_a_start_whose_answer_is_lost_is_started_once"),
    Guard("nameless-check-promises-no-slot", ALWAYS, "test_a_check_that_names_no_job_promises_no_slot"),
    Guard("price-of-the-row-or-the-body", ALWAYS, "test_the_price_is_the_rows_then_the_bodys"),
    Guard("late-success-is-kept", DROP, "test_a_success_after_an_end_that_was_not_the_providers_is_kept_and_told"),
    Guard("refund-is-owed", DROP, "test_the_outcome_decides_what_is_paid_and_once"),
    Guard("owner-functions-need-postgres", DROP, "test_on_sqlite_gate_says_in_one_line_that_the_owners_functions_cannot_be_there"),
    # ---- a store that says no
    Guard("write-without-room", DROP, "test_a_redis_without_room_takes_no_new_work_and_ends_the_old"),
    Guard("refused-row-apart", ALWAYS, "test_one_row_that_sql_refuses_keeps_no_other_from_being_recorded"),
    Guard("failed-commit-shows-sql-down", DROP, "test_a_holder_that_could_not_renew_because_of_sql_has_grace"),
    Guard("probe-sql-by-a-write", replaced_by("lambda _: None"), "test_a_holder_that_could_not_renew_because_of_sql_has_grace"),
    Guard("write-into-the-same-file", DROP, "test_nothing_is_told_that_went_into_a_file_that_is_gone"),
    Guard("undo-after-any-error", DROP, "test_a_place_whose_commit_sql_refuses_is_given_back"),
    # ---- commits on the event loop
    Guard("loop-waits-for-the-thread", DROP, "test_no_caller_overtakes_those_waiting_for_the_thread"),
    Guard("long-task-in-the-thread", DROP, "test_what_takes_long_by_itself_is_the_threads"),
    Guard("loop-rests-after-a-slow-disk", DROP, "test_one_standstill_of_the_disk_is_not_followed_by_another"),
    Guard("disk-time-without-cpu-time", DROP, "test_what_the_loop_itself_has_computed_is_no_slow_disk"),
    Guard("loop-waits-for-no-lock", DROP, "test_while_another_process_locks_the_file_the_loop_goes_on"),
    Guard("loop-counts-for-checkpoints", DROP, "test_what_was_written_ahead_goes_into_the_file_without_a_commit_that_waits_for_it"),
    Guard("loop-leaves-a-slow-disk", NEVER, "test_the_loop_does_not_go_back_to_a_disk_that_the_thread_finds_slow"),
    Guard("closed-loop-writes-nothing", DROP, "test_nothing_is_written_by_a_gate_that_has_stopped"),
    Guard("closed-loop-leaves-no-file", DROP, "test_nothing_stays_beside_the_file_of_a_gate_that_has_stopped"),
    Guard("large-batch-in-the-thread", DROP, "test_very_many_at_once_are_the_threads"),
    Guard("open-the-same-file", DROP, "test_the_thread_that_comes_late_takes_no_other_file_for_the_ledger"),
    # ---- second nets: others repair what they catch, only later
    Guard("restore-nothing-ended", DROP, "test_what_the_outbox_is_about_to_end_stays_ended"),
    Guard("overdue-by-the-renewed-deadline", DROP, "test_a_lease_renewed_since_the_sweep_looked_is_not_overdue"),
    Guard("overdue-in-its-epoch", ALWAYS, "test_a_sweep_of_an_earlier_epoch_ends_no_job"),
    Guard("unknown-job-stays-in-the-outbox", DROP, "test_a_crash_before_a_grant_was_told_is_recorded_by_the_repeat"),
    Guard("record-the-expiry-before-a-full-pool", DROP, "test_an_acquire_for_which_sql_has_no_room_records_the_outbox_and_looks_again"),
]  # fmt: skip
