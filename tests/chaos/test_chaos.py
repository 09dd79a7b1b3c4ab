"""Each fault in small, as part of every run. The whole ones are commands of their own; their counts are published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.__main__ import FAULTS, play, refusal


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_nobody_is_one_too_many(fault: str) -> None:
    options = replace(FAULTS[fault].small, fault=fault)
    if why := refusal(options):
        pytest.skip(why)
    verdict = play(options)
    assert verdict.right, f"\n{verdict}"
