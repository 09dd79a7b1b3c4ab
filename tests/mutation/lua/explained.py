"""The mutants that no test can notice, or none should have to: for each why.

A row: the file, the function it stands in, the line as it is, the line as the mutant has it, and the reason. A row that names no
mutant fails tests/mutation/lua/test_mutants.py.
"""

from __future__ import annotations

TAIL = "if not last or (tail and tonumber(tail.ticket) < ticket) then return redis.call('RPUSH', QUEUE, job) end"
SOONEST = "local soonest = in_use > 0 and tonumber(redis.call('ZRANGE', SLOTS, 0, 0, 'WITHSCORES')[2]) or nil"
LEAVES = "local left = redis.call('LREM', QUEUE, waiting > BOUND and entry and side(between(entry)) or 1, job)"
NEARER = "local function side(from, to) return waiting - 1 - from < to and -1 or 1 end"
IN_SHORT = "if waiting <= BOUND then return waiting > 0 and redis.call('LPOS', QUEUE, job) or nil end"
COOLING = "if (tonumber(meta[4]) or 0) > now then say('  cooling down for %s: the provider refused', span(meta[4] - now)) end"

EXPLAINED: list[tuple[str, str, str, str, str]] = [
    (
        "_prelude.lua", "warm_up", "if meta.cooling_until > 0 then", "if meta.cooling_until >= 0 then",
        "a pool that never cooled down has the same zeros written once more",
    ),
    (
        "_prelude.lua", "end_waits",
        "if not entry.queue_ms and entry.queued_at + meta.queue_ms > now then return end",
        "if not entry.queue_ms and entry.queued_at + meta.queue_ms >= now then return end",
        "it stands where a waiter with grace is looked at: at one exact millisecond the look ends one waiter sooner, and a tick follows",
    ),
    (
        "_prelude.lua", "mind_absence",
        "if now - meta.seen_at > ABSENCE_MS then", "if now - meta.seen_at >= ABSENCE_MS then",
        "an absence is measured by Redis's own clock, which no test sets: at one exact millisecond either is right",
    ),
    (
        "_prelude.lua", "mind_absence",
        "if now - meta.seen_at > 1000 then redis.call('HSET', META, 'seen_at', digits(now)) end",
        "if now - meta.seen_at >= 1000 then redis.call('HSET', META, 'seen_at', digits(now)) end",
        "how often the presence is written down, at one exact millisecond of Redis's own clock",
    ),
    (
        "_prelude.lua", "seat",
        "if entry and tonumber(entry.ticket) > ticket then", "if entry and tonumber(entry.ticket) >= ticket then",
        "no two waiters have one ticket: it is counted up for each",
    ),
    *(
        ("_prelude.lua", inside, was, becomes, "a short cut: " + why)
        for inside, was, why in (
            ("read", "if not text then return end", "what is not there is not JSON either, and no entry"),
            ("unqueue", "if waiting == 0 then return false end", "from an empty queue nothing is removed, and nothing is counted"),
            ("noted", "if unrecorded + emitted == 0 then return end", "an empty outbox speaks of no job"),
            ("reap", "if in_use == 0 then return end", "where no slot is held no deadline is over"),
        )
        for becomes in ("", was.replace("then return end", "then  end").replace("then return false end", "then  end"))
    ),
    *(
        ("_prelude.lua", inside, was, becomes, "where it is looked for first: that only takes longer, and tests/test_costs.py counts it")
        for inside, was, becomes in (
            ("unqueue", LEAVES, LEAVES.replace("waiting > BOUND", "waiting <= BOUND")),
            ("unqueue", LEAVES, LEAVES.replace("waiting > BOUND", "waiting >= BOUND")),
            ("side", NEARER, NEARER.replace("< to", ">= to")),
            ("side", NEARER, NEARER.replace("< to", "<= to")),
            ("place", IN_SHORT, IN_SHORT.replace("waiting <= BOUND", "waiting < BOUND")),
            ("place", IN_SHORT, IN_SHORT.replace("waiting > 0", "waiting >= 0")),
        )
    ),
    ("_prelude.lua", "mind_absence", "meta.grace_to = nil", "", "by then no deadline lies before it any more: reap finds the same"),
    (
        "_prelude.lua", "answer", SOONEST, SOONEST.replace("in_use > 0", "in_use >= 0"),
        "a short cut: where no slot is held there is no soonest deadline",
    ),
    (
        "_prelude.lua", "answer", "if emitted > 0 then", "if emitted >= 0 then",
        "a short cut: who emitted nothing carries an outbox only when it is empty",
    ),
    *(
        ("_prelude.lua", "seat", was, becomes, "a short cut: without it the same place is found by looking through the queue")
        for was, becomes in (
            ("local tail = last and read(last)", "local tail"),
            (TAIL, ""),
            (TAIL, TAIL.replace("not last or", "not last and")),
            (TAIL, TAIL.replace("return redis.call('RPUSH', QUEUE, job)", "")),
        )
    ),
    ("_prelude.lua", "seat", TAIL, TAIL.replace("< ticket", "<= ticket"), "no two jobs have the same ticket"),
    (
        "inspect.lua", "", COOLING, COOLING.replace("> now", ">= now"),
        "what is read here goes by Redis's own clock, which no test sets: at one exact millisecond it says 0 s or nothing",
    ),
    (
        "inspect.lua", "",
        "age, left > 0 and span(left) .. ' left' or 'OVERDUE by ' .. span(left))",
        "age, left >= 0 and span(left) .. ' left' or 'OVERDUE by ' .. span(left))",
        "the same: 0 s left, or overdue by 0 s",
    ),
]  # fmt: skip

REASONS = {row[:4]: row[4] for row in EXPLAINED}
