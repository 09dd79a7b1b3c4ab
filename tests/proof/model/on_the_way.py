"""The safeguards that stand in the paths: the order of calls, and what the sweep mends."""

from __future__ import annotations

from tests.proof.model.search import DISAGREE, STUCK
from tests.proof.model.world import World
from tests.proof.model.worlds import ALONE, ANY, BRIEF, BRIEFLY, CHANGED, REBUILT, Safeguard


def mends(kind: str, demands: str, mark: str) -> Safeguard:
    return Safeguard(f"sweep_{kind}", f"sweep: {demands}", ALONE if kind == "give_back" else BRIEFLY, mark)


ON_THE_WAY = [
    Safeguard("sql_first", "an outcome goes to SQL before Redis frees the slot", ANY, "end-in-sql-before-redis"),
    Safeguard("told_after", "a deadline is told when Redis has it and SQL too", ANY, "extension-in-sql-before-the-answer"),
    Safeguard("undo", "what SQL will not write goes back", World(kinds=frozenset({"down"})), "undo-what-sql-refused",
        behind=("sweep_stranger",), harm=DISAGREE),
    Safeguard("delete_after", "an entry of the outbox is deleted when SQL has it", World(calls=BRIEF), "record-before-delete",
        behind=("sweep_overdue",), harm=STUCK),
    Safeguard("tick", "an idle pool reaps and promotes by itself", BRIEFLY, "tick-an-idle-pool"),
    Safeguard("committed_first", "a rebuild commits its epoch, with the rows it read, before it loads", REBUILT,
        unmarked="the order of two calls, and the second needs what the first answers"),
    mends("ended", "ended in SQL, still in Redis", "sweep-ended-job"),
    mends("stranger", "in Redis, never in SQL", "sweep-stranger"),
    mends("adopt", "queued, and holds a newer grant of which nothing is said", "sweep-lost-grant"),
    mends("give_back", "queued, and still holds what it gave back", "sweep-unfinished-refusal"),
    mends("seat", "queued, and nowhere in Redis", "sweep-lost-place"),
    mends("restore", "live, not overdue, and its lease not in Redis", "sweep-restored-lease"),
    mends("overdue", "live, overdue, and its lease not in Redis", "sweep-lost-expiry"),
    mends("unheard", "in the outbox, never in SQL, and its slot gone", "sweep-unknown-outbox-entry"),
    Safeguard("sweep_settings", "sweep: settings that differ from SQL's", CHANGED, "sweep-settings"),
]  # fmt: skip
