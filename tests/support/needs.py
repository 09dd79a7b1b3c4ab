"""What a test needs of the machine."""

from __future__ import annotations

import os
from typing import Any

import pytest


def missing(why: str) -> Any:
    """A developer's machine may lack it; the one that judges may not."""
    if "GATE_TEST_EVERYTHING" in os.environ:
        pytest.fail(why)
    pytest.skip(why)
