"""Where gate exits: before and after each thing that it does in Redis, in SQL and at a tool."""

from __future__ import annotations

import random

EXITED = 86
"""The exit code of a gate that reached its point."""
AT, PASS = "GATE_TEST_EXIT_AT", "GATE_TEST_EXIT_PASS"
"""What tells the launcher where to exit, such as `after script:release`, and at which pass of that point."""

DOORS = {
    "script:acquire": 15, "script:claim": 4, "script:renew": 4, "script:hold": 1, "script:release": 6, "script:requeue": 1, "script:cancel": 2,
    "script:tick": 8, "script:status": 8, "script:undo": 1, "script:restore": 1, "script:rebuild": 2, "script:configure": 1,
    "script:shift": 1,
    "outbox:read": 8, "outbox:trim": 6,
    "sql:admit": 12, "sql:claim": 4, "sql:renew": 4, "sql:hold": 1, "sql:end_unadmitted": 1, "sql:release": 6, "sql:cancel": 2, "sql:cancel_waiting": 1, "sql:refuse": 1, "sql:record": 8,
    "sql:started": 2, "sql:fail": 1, "sql:bind": 1, "sql:start_late": 1, "sql:hear": 2, "sql:refund": 1,
    "sql:delivery.free": 1, "sql:delivery.take": 6, "sql:delivery.close": 6, "sql:delivery.put_off": 1,
    "sql:delivery.keep": 1,
    "sql:expire_overdue": 1, "sql:void": 1, "sql:seated": 1, "sql:say_ended": 1, "sql:begin_rebuild": 2, "sql:grace": 1,
    "sql:record_clock": 1,
    "sql:configure": 1, "sql:change_pool": 1, "sql:make_pool": 1, "sql:delete_pool": 1,
    "call:start": 2, "call:event": 6,
    "script:drain": 2, "sql:ask": 1, "sql:question.free": 1, "sql:question.take": 4, "sql:question.record": 4, "call:question": 4,
}  # fmt: skip
"""Each with the latest pass at which it is worth waiting for. Before a commit is within its transaction, with all done; `sql:` and
a script's name is the commit that follows it. `sql:record` is that of the outbox, `sql:fail` a start call that failed for good, `call:question` a question
or a stop, `sql:refund` one by the owner's function, which is in Postgres."""

OF_OWNERS = ("sql:refund", "sql:end_unadmitted")
"""Reached only where the owner's functions live: in Postgres."""

FEW = (
    "after script:acquire", "before sql:admit", "after sql:release", "after sql:record", "after sql:started",
    "after call:start", "before call:event", "after sql:hear", "before script:drain", "after call:question",
)  # fmt: skip
"""What every run of the tests plays."""


def points(times: int, sql: str, dice: random.Random) -> list[tuple[str, int]]:
    """Each `times` times, in an order and each at a pass of the dice's; 0: a few once."""
    doors = [door for door in DOORS if door not in OF_OWNERS or sql == "postgres"]
    names = [f"{side} {door}" for door in doors for side in ("before", "after")] * times or list(FEW)
    dice.shuffle(names)
    return [(name, dice.randint(1, DOORS[name.split()[1]])) for name in names]
