"""What a process expects of the clock of a pool, and what it takes for a step."""

from __future__ import annotations

import re

import pytest

from gate.slots import Stepped, scripts
from gate.slots.pool_clock import KEEP_S, LEARN_S, STEP_MS, PoolClock


def known(at: float = 100.0, now_ms: int = 1_000_000) -> PoolClock:
    clock = PoolClock()
    clock.learn(at, at, now_ms)
    return clock


def reply(now_ms: int, asked: float, heard: float) -> Stepped:
    return Stepped(now_ms, 0, 0, asked, heard)


def test_it_expects_that_as_much_time_passes_as_passes_here() -> None:
    assert known().expected_ms(102.5) == 1_002_500


def test_it_expects_nothing_before_it_has_learned_and_long_after() -> None:
    assert PoolClock().expected_ms(100) is None
    assert PoolClock().step_ms(reply(1, 100, 100)) is None
    assert known().expected_ms(100 + KEEP_S + 1) is None


def test_of_a_slow_redis_the_first_reply_is_taken_all_the_same() -> None:
    clock = PoolClock()
    clock.learn(100, 104, 1_002_000)
    assert clock.expected_ms(104) == 1_004_000


def test_a_reply_that_took_long_teaches_nothing() -> None:
    clock = known()
    clock.learn(101, 101 + LEARN_S + 0.1, 7)
    assert clock.expected_ms(101) == 1_001_000
    clock.learn(101, 102, 1_001_900)
    assert clock.expected_ms(101.5) == 1_001_900, "the middle of its round trip"


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -STEP_MS - 1, STEP_MS + 1, 600_000])
def test_what_no_moment_between_call_and_reply_explains_is_a_step(ahead_ms: int) -> None:
    assert known().step_ms(reply(1_010_000 + ahead_ms, 110, 110)) == ahead_ms


@pytest.mark.parametrize("late_ms", [-STEP_MS, 0, 4_000, 8_000, 8_000 + STEP_MS])
def test_a_redis_that_stood_still_is_no_step(late_ms: int) -> None:
    """It answered after eight seconds, and the script may have run at any moment of them."""
    assert known().step_ms(reply(1_010_000 + late_ms, 110, 118)) == 0


def test_gate_and_its_scripts_have_one_threshold() -> None:
    assert re.findall(r"local STEP_MS = (\d+)", scripts.source("tick")) == [str(STEP_MS)]
