"""The safeguards that stand in the scripts."""

from __future__ import annotations

from tests.proof.model.worlds import ANY, AWAY, BRIEFLY, CLOCK, REBUILT, REFUSED, REPLACED, STOPS, THREE, TWO, Safeguard

IN_REDIS = [
    Safeguard("reap", "every script begins with the dead: no ghost stays in a slot", BRIEFLY, "reap-before-anything"),
    Safeguard("known", "acquire first looks for the job in slots and queue", ANY, "acquire-finds-a-held-slot"),
    Safeguard("known_outbox", "... and in the outbox: its end may stand there", ANY, "acquire-finds-an-unrecorded-end"),
    Safeguard("release_lease", "a release frees exactly the lease it names", STOPS, "only-the-lease-named"),
    Safeguard("extend_alive", "a renewal extends a lease that is there, it never adds one", ANY, "extend-only-a-held-slot"),
    Safeguard("requeue_fence", "a requeue moves only the grant of the fence it names", REFUSED, "requeue-only-its-fence"),
    Safeguard("seat_by_ticket", "a job that comes back stands at the place of its ticket", THREE, "place-by-ticket"),
    Safeguard("restore_room", "a lease is put back only into a free slot", ANY, "restore-within-the-limit"),
    Safeguard("undo_ticket", "undo takes back only what the call of its ticket took", STOPS, "undo-only-its-ticket"),
    Safeguard("undo_again", "... and nothing that another call asked for since: that call may be answered", STOPS,
        "undo-nothing-asked-again"),
    Safeguard("load_guard", "a load refuses unless its epoch is above the one that is there", REBUILT, "load-only-a-newer-epoch"),
    Safeguard("fence_floor", "a life begins above every fence of those before it", REFUSED, "fences-above-earlier-epochs"),
    Safeguard("identity", "no script runs in another Redis than the one whose epoch is known", REPLACED, "only-the-known-redis"),
    Safeguard("clock", "no verb runs by a clock of Redis that stepped", CLOCK, "no-verb-by-a-stepped-clock"),
    Safeguard("leave_ticket", "a stranger's place is freed by its ticket, from the queue only", TWO, "stranger-leaves-by-ticket"),
    Safeguard("passed", "a waiter that is passed is written down as passed", AWAY, "passing-is-written-down"),
]  # fmt: skip
