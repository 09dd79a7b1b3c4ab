"""The safeguards that stand in the scripts."""

from __future__ import annotations

from tests.model.worlds import ANY, BRIEFLY, REBUILT, REFUSED, REPLACED, STOPS, THREE, TWO, Guard, Safeguard

LUA = "tests/lua/"
LIVES = "tests/races/test_redis_lives.py::"
RACES = "tests/races/test_races.py::"
TOLD = "tests/races/test_told.py::"
BORDERS = "tests/races/test_borders.py::"

IN_REDIS = [
    Safeguard("reap", "every script begins with the dead: no ghost stays in a slot", BRIEFLY, Guard(
        "lua/_prelude.lua", "mind_absence() reap() promote()", "mind_absence() promote()",
        RACES + "test_release_after_expiry_does_not_free_the_next_holder")),
    Safeguard("known", "acquire first looks for the job in slots and queue", ANY, Guard(
        "lua/acquire.lua", "if redis.call('ZSCORE', SLOTS, job) then", "if false then",
        LUA + "test_acquire.py::test_asked_again_it_answers_the_same_and_takes_nothing")),
    Safeguard("known_outbox", "... and in the outbox: its end may stand there", ANY, Guard(
        "lua/acquire.lua", "if note then return", "if false then return",
        LUA + "test_acquire.py::test_an_end_in_the_outbox_is_not_admitted_anew")),
    Safeguard("release_lease", "a release frees exactly the lease it names", STOPS, Guard(
        "lua/release.lua", "held(job, ARGV[5])", "read(job)",
        LUA + "test_release.py::test_a_stale_release_does_not_free_the_next_holder")),
    Safeguard("extend_alive", "a renewal extends a lease that is there, it never adds one", ANY, Guard(
        "lua/_prelude.lua", "entry.lease_id == lease_id and redis.call('ZSCORE', SLOTS, job)", "entry.lease_id == lease_id",
        LUA + "test_renew.py::test_a_member_taken_out_by_hand_is_not_put_back")),
    Safeguard("requeue_fence", "a requeue moves only the grant of the fence it names", REFUSED, Guard(
        "lua/requeue.lua", "(entry.fence or '0') ~= ARGV[5]", "false",
        LUA + "test_requeue.py::test_a_requeue_of_an_old_fence_does_not_move_the_newer_grant")),
    Safeguard("seat_by_ticket", "whoever comes back stands where his ticket puts him", THREE, Guard(
        "lua/requeue.lua", "seat(job, tonumber(entry.ticket))", "redis.call('LPUSH', QUEUE, job)",
        LUA + "test_requeue.py::test_its_place_is_found_in_a_long_queue")),
    Safeguard("restore_room", "a lease is put back only into a free slot", ANY, Guard(
        "lua/restore.lua", "in_use >= meta.limit", "false",
        LUA + "test_restore.py::test_it_makes_no_fourth")),
    Safeguard("undo_ticket", "undo takes back only what the call of its ticket took", STOPS, Guard(
        "lua/undo.lua", "entry.ticket ~= ARGV[5] or", "false or",
        LUA + "test_undo.py::test_a_later_admission_of_the_same_job_is_kept")),
    Safeguard("undo_again", "... and nothing that somebody else asked for since: he may have been told", STOPS, Guard(
        "lua/undo.lua", " or entry.again then", " then",
        TOLD + "test_a_refused_twin_does_not_take_the_slot_that_another_was_told")),
    Safeguard("load_guard", "a load refuses unless its epoch is above the one that is there", REBUILT, Guard(
        "lua/rebuild.lua", "if there >= epoch then", "if false then",
        LUA + "test_rebuild.py::test_it_refuses_unless_its_epoch_is_above")),
    Safeguard("fence_floor", "a life begins above every fence of those before it", REFUSED, Guard(
        "lua/rebuild.lua", "string.format('%.0f', epoch * 4294967296)", "'0'",
        LUA + "test_rebuild.py::test_fences_and_tickets_start_above_those_of_every_earlier_life")),
    Safeguard("identity", "no script runs in another Redis than the one whose epoch is known", REPLACED, Guard(
        "gate/slots/connection.py", "if found != only:", "if False:",
        LIVES + "test_a_replica_that_lagged_is_loaded_anew_when_it_is_promoted")),
    Safeguard("leave_ticket", "a stranger's place is freed by its ticket, from the queue only", TWO, Guard(
        "lua/cancel.lua", "if ticket ~= '' and (", "if false and (",
        BORDERS + "test_the_place_of_a_stranger_is_freed_and_not_the_slot_it_has_since")),
]  # fmt: skip
