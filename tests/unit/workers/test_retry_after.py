"""The header Retry-After of a tool's answer."""

from __future__ import annotations

import pytest

from gate.workers.webhook_client import RETRY_AFTER_MAX_S, retry_after_s

NOON = "Mon, 30 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "86400"}, RETRY_AFTER_MAX_S),
        ({"retry-after": "9" * 400}, RETRY_AFTER_MAX_S),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:30 GMT", "date": NOON}, 30),
        ({"retry-after": "Mon, 30 Nov 2026 11:00:00 GMT", "date": NOON}, 0),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:30 GMT"}, 0),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "soon", "date": NOON}, 0),
        ({"retry-after": "²"}, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_beside_the_servers_own(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds
