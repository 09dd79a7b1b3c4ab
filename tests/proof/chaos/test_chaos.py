"""Each fault in small: every other one in a run, the others on the next day. GATE_TEST_CHAOS=all plays all of them.

The whole ones are commands of their own; their counts are published.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from gate.ledger import Deliveries, Ledger, Questions
from gate.slots import scripts
from tests.proof.chaos.__main__ import FAULTS, IN_ANOTHER, play, refusal
from tests.proof.chaos.points import DOORS
from tests.support.needs import missing

SMALL = [fault for fault in FAULTS if fault not in IN_ANOTHER]
TODAY = SMALL if os.environ.get("GATE_TEST_CHAOS") == "all" else SMALL[date.today().toordinal() % 2 :: 2]


@pytest.mark.parametrize("fault", TODAY)
def test_no_job_is_lost_and_the_limit_holds(fault: str) -> None:
    options = replace(FAULTS[fault].small, fault=fault)
    if why := refusal(options):
        missing(why)
    verdict = play(options)
    assert verdict.right, f"\n{verdict}"


SEVERAL = {
    "sql:end": {"sql:release", "sql:cancel", "sql:fail"},
    "sql:extend": {"sql:claim", "sql:renew", "sql:started", "sql:hold"},
}
NOTHING = {"sql:reach", "sql:prove", "sql:keep_payload", "sql:end_presence", "sql:hint"}
"""The first two only try whether SQL can be written. The third keeps text beside a job that has ended, and nothing follows from it. The fourth is
of jobs without a name of their own, which no client here asks for. The last only brings a question forward, which comes without it too."""


def commits(room: type[Any]) -> set[str]:
    """The verbs of it that write."""
    return {
        name for name, verb in inspect.getmembers(room, inspect.isfunction) if "_database.write(" in inspect.getsource(verb)
    }


def test_every_script_and_every_commit_is_a_point_to_exit_at() -> None:
    doors = {f"script:{verb}" for verb in (*scripts.WITH_PRELUDE, "rebuild")} | {"outbox:read", "outbox:trim"}
    doors |= {f"sql:delivery.{verb}" for verb in commits(Deliveries)} | {"sql:refund", "call:start", "call:event"}
    doors |= {f"sql:question.{verb}" for verb in commits(Questions)} | {"call:question"}
    for commit in {f"sql:{verb}" for verb in commits(Ledger)} - NOTHING:
        doors |= SEVERAL.get(commit, {commit})
    assert doors == set(DOORS)
