"""The mutants that no test can notice, or none should have to: for each the reason.

A row has the name of the mark in the script (`-- mutant: NAME`, at the end of the line or alone on the line above), the change on
that line as mutants.py names it, and the reason. A row that fits no mutant fails tests/proof/mutation/lua/test_mutants.py.
"""

from __future__ import annotations

SHORT_CUT = "a short cut: "
LONGER = "it is looked for at another place first: that only takes longer, and tests/integration/coordination/test_costs.py counts it"
BY_TICKET = "a short cut: without it the same place is found by looking through the queue"
ONE_TICKET = "no two waiters have one ticket: it is counted up for each"
ENDS_SOONER = "at one exact millisecond the look at waiters with grace ends one waiter sooner, and a tick follows"
CLOCK = "an absence is measured by the clock of Redis, which no test sets: at one exact millisecond either is right"

EXPLAINED: list[tuple[str, str, str]] = [
    ("never-cooled", "> to >=", "a pool that never cooled down has the same zeros written once more"),
    ("one-look-sooner", "> to >=", ENDS_SOONER),
    ("absence-to-the-millisecond", "> to >=", CLOCK),
    ("gap-to-the-millisecond", "<= to <", CLOCK),
    ("step-to-the-millisecond", "<= to <", CLOCK),
    ("reset-to-the-millisecond", "<= to <", CLOCK),
    ("reset-to-the-millisecond", ">= to >", CLOCK),
    ("reset-by-the-same-step", "<= to <", CLOCK),
    ("scan-from-the-start", "drop assignment", "behind the last waiter no one is found, and the next tick begins at the first"),
    ("never-slewed-from-zero", "> to >=", "a clock that is not ahead is not slewed"),
    ("cooled-down-to-the-millisecond", "<= to <", "at one exact millisecond of the clock of Redis the reset comes with the next tick"),
    ("newcomer-without-a-gap", "> to >=", "a clock without a gap goes on, so it is not asked"),
    ("none-left", "> to >=", "less nothing, the place of the scan is the one it has"),
    (
        "one-admission-a-call", "drop assignment",
        "a call admits one job and does not read this afterwards: the next call reads it from meta",
    ),
    ("still-for-no-time", "> to >=", "an interval that ends where it begins adds nothing"),
    ("end-of-the-last-tool", "> to >=", "no tool cools down beyond it, so the tool's own time says the same"),
    ("end-of-the-last-job", "> to >=", "no job cools down alone beyond it, so the job's own time says the same"),
    ("nothing-is-not-true", "drop return", "its callers ask only whether it is true, and nil is not"),
    ("none-waits", "> to >=", SHORT_CUT + "among no waiters no first one is found"),
    ("none-is-passed", "> to >=", SHORT_CUT + "at 0 no waiter is passed, so none is found"),
    (
        "read-after-the-cool-down", "drop assignment",
        "a refusal cools the pool down for half a second at least: this call grants nothing, and the next reads it from meta",
    ),
    ("no-tool-cooled", "> to >=", SHORT_CUT + "of a tool that never cooled down there is no field to remove"),
    ("ahead-by-nothing", "> to >=", "of a clock that is not ahead nothing is said"),
    ("presence-to-the-millisecond", "> to >=", "how often the presence is written, at one exact millisecond of the clock of Redis"),
    ("equal-tickets", "> to >=", ONE_TICKET),
    ("same-mark", "> to >=", "the same number is written once more"),
    *(
        (mark, change, SHORT_CUT + why)
        for mark, why in (
            ("no-entry", "what is not there is not JSON either, and no entry"),
            ("empty-queue", "from an empty queue nothing is removed, and nothing is counted"),
            ("empty-outbox", "an empty outbox speaks of no job"),
            ("no-lease", "where no slot is held no deadline is over"),
        )
        for change in ("drop if", "drop return")
    ),
    ("nearer-end", "> to <=", LONGER),
    ("nearer-end", "> to >=", LONGER),
    ("nearer-end-of-two", "< to >=", LONGER),
    ("nearer-end-of-two", "< to <=", LONGER),
    ("short-queue", "<= to <", LONGER),
    ("short-queue", "> to >=", LONGER),
    ("grace-is-over", "drop assignment", "by then no deadline lies before it any more: reap finds the same"),
    ("no-deadline", "> to >=", SHORT_CUT + "where no slot is held there is no soonest deadline"),
    ("nothing-emitted", "> to >=", SHORT_CUT + "a call that emitted nothing carries an outbox only when it is empty"),
    ("tail-of-the-queue", "drop local", BY_TICKET),
    ("place-at-the-tail", "drop if", BY_TICKET),
    ("place-at-the-tail", "or to and", BY_TICKET),
    ("place-at-the-tail", "drop return", BY_TICKET),
    ("place-at-the-tail", "< to <=", ONE_TICKET),
    (
        "cooled-to-the-millisecond", "> to >=",
        "what is read here goes by the clock of Redis, which no test sets: at one exact millisecond it says 0 s or nothing",
    ),
    ("overdue-to-the-millisecond", "> to >=", "the same: 0 s left, or overdue by 0 s"),
]  # fmt: skip

REASONS = {row[:2]: row[2] for row in EXPLAINED}
