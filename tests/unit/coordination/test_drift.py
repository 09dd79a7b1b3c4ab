"""What counts as drift between what Redis holds and what SQL says, to the millisecond and to the fence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gate.coordination.drift import STRANGER_MS, Drift, DriftKind, examine
from gate.model.job import Job
from gate.slots import RedisSnapshot

NOW = 1_000_000
OLD = NOW - STRANGER_MS
WAITS = Job("a", "p", "queued", None, None, None, 0, None, 1, 4, "l", 600_000, 1)
HOLDS = WAITS._replace(status="running", fence=5, granted_at=1, expires_at=NOW + 1, hard_expires_at=NOW + 9)
ENDED = HOLDS._replace(status="completed")


def seen(
    slot: bool = False, waits: bool = False, entry: dict[str, Any] | None = None, noted: int | None = None
) -> RedisSnapshot:
    slots, queue = {"a": NOW + 1} if slot else {}, ("a",) if waits else ()
    entries = {"a": entry} if slot or waits or entry else {}
    return RedisSnapshot(NOW, 1, slots, queue, entries, {} if noted is None else {"a": noted}, {})


def found(survey: RedisSnapshot, live: Job | None = None, other: Job | None = None) -> list[tuple[str, int]]:
    findings = list(examine(survey, {"a": live} if live else {}, {"a": other} if other else {}))
    assert all(finding.job_id == "a" for finding in findings)
    return [(finding.kind, finding.fence) for finding in findings]


@pytest.mark.parametrize("noted", [1, NOW])
def test_an_outbox_entry_is_no_drift_while_a_store_has_the_job(noted: int) -> None:
    for live, other in ((HOLDS, None), (WAITS, None), (None, ENDED)):
        assert found(seen(noted=noted), live, other) == []
    assert found(seen(slot=True, entry={"fence": "9", "granted_at": 1}, noted=noted), WAITS) == []
    assert found(seen(slot=True, entry={"fence": "9", "granted_at": 1}, noted=noted)) == []
    assert found(seen(waits=True, entry={"queued_at": 1}, noted=noted)) == []


def test_a_stranger_that_was_only_passed_is_a_stranger_all_the_same() -> None:
    """Its admission never reached SQL, so the entry that says it was passed would stay with it until its queue time is over."""
    survey = seen(waits=True, entry={"queued_at": 1}, noted=1)
    assert found(survey) == [] and found(replace(survey, passed=frozenset("a"))) == [("stranger", 0)]


def test_an_outbox_entry_of_an_unknown_job_is_drift_after_its_time() -> None:
    assert found(seen(noted=OLD)) == []
    assert found(seen(noted=OLD - 1)) == [("unheard", 0)]


def test_a_stranger_is_one_only_after_its_time() -> None:
    for other in (None, HOLDS._replace(pool="other")):
        assert found(seen(slot=True, entry={"fence": "9", "granted_at": OLD, "queued_at": 1}), None, other) == []
        assert found(seen(slot=True, entry={"fence": "9", "granted_at": OLD - 1, "queued_at": NOW}), None, other) == [
            ("stranger", 9)
        ]
        assert found(seen(waits=True, entry={"fence": "9", "queued_at": OLD, "granted_at": 1}), None, other) == []
        assert found(seen(waits=True, entry={"fence": "9", "queued_at": OLD - 1, "granted_at": NOW}), None, other) == [
            ("stranger", 0)
        ]
        assert found(seen(slot=True), None, other) == [("stranger", 0)], "what has no entry has no time"
        assert found(seen(waits=True), None, other) == [("stranger", 0)]


def test_what_has_ended_leaves_redis_at_once() -> None:
    young = {"fence": "9", "granted_at": NOW, "queued_at": NOW}
    assert found(seen(slot=True, entry=young), None, ENDED) == [("ended", 0)]
    assert found(seen(waits=True, entry=young), None, ENDED) == [("ended", 0)]


def test_a_waiter_in_a_slot_is_a_grant_unheard_of_or_one_that_was_given_back() -> None:
    assert found(seen(slot=True, entry={"fence": "5"}), WAITS) == [("adopt", 5)]
    assert found(seen(slot=True, entry={"fence": "4"}), WAITS) == [("give_back", 4)]
    assert found(seen(slot=True, entry={"fence": "3"}), WAITS) == [("give_back", 3)]
    assert found(seen(slot=True, entry={"ticket": "3"}), WAITS) == [("give_back", 0)]
    assert found(seen(slot=True), WAITS) == [("seat", 0)]


def test_a_waiter_has_its_place_and_its_entry() -> None:
    assert found(seen(waits=True, entry={"ticket": "1"}), WAITS) == []
    assert found(seen(waits=True), WAITS) == [("seat", 0)]
    assert found(seen(), WAITS) == [("seat", 0)]


@pytest.mark.parametrize("status", ["granted", "running"])
def test_a_holder_has_its_slot_its_entry_and_its_fence(status: str) -> None:
    holds = HOLDS._replace(status=status)
    assert found(seen(slot=True, entry={"fence": "5"}), holds) == []
    assert found(seen(slot=True, entry={"fence": "6"}), holds) == [("stranger", 6)]
    assert found(seen(slot=True, entry={"fence": "4"}), holds) == [("stranger", 4)]
    for survey in (seen(), seen(slot=True), seen(waits=True), seen(waits=True, entry={"fence": "5"})):
        assert found(survey, holds) == [("restore", 5)]
        assert found(survey, holds._replace(expires_at=NOW)) == [("overdue", 5)]


def test_each_is_looked_at_by_itself() -> None:
    survey = RedisSnapshot(NOW, 1, {"x": NOW, "a": NOW}, ("y",), {"x": {"fence": "5"}, "a": None, "y": None}, {"z": 1}, {})
    live = {name: HOLDS._replace(job_id=name) for name in ("x", "a", "gone")} | {"y": WAITS._replace(job_id="y")}
    assert set(examine(survey, live, {})) == {
        Drift(DriftKind.LOST_LEASE, "a", 5), Drift(DriftKind.LOST_LEASE, "gone", 5), Drift(DriftKind.LOST_PLACE, "y"), Drift(DriftKind.ORPHAN_ENTRY, "z"),
    }  # fmt: skip
