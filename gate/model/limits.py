"""Every bound on what comes from outside, once. Packages import them from here; docs/http.md states them."""

from __future__ import annotations

from typing import Final

LABEL_MAX: Final = 256
"""Characters of a user, tool or session at most."""
TEXT_MAX: Final = 4_000
"""Characters of an error or a reason at most. The error of an end is cut there; another text is refused."""
PAYLOAD_MAX_BYTES: Final = 16 * 1024
"""Size (bytes) of a payload as JSON at most."""
OUTPUT_MAX_BYTES: Final = 64 * 1024
"""Size (bytes) of an output as JSON that is kept. A larger one is cut."""
DEPTH_MAX: Final = 32
"""Levels of a payload at most, and of an output that are kept. Deeper JSON breaks recursive encoders."""
CALLBACK_KEPT_MAX: Final = 64 * 1024
"""Characters of a callback's body that are kept. A provider must not fill the disk with one callback."""

BODY_MAX_BYTES: Final = 256 * 1024
"""Largest body (bytes) of most requests. A payload of the largest size fits, with room for the other fields."""
END_BODY_MAX_BYTES: Final = 8 * 1024 * 1024
"""Largest body (bytes) of a callback, and of a request that ends a job. One with a picture or a log must still end its job."""
DISCARD_MAX_BYTES: Final = 2 * END_BODY_MAX_BYTES
"""How much (bytes) of a body that is too large is read and thrown away before the refusal.

A server that closes a connection while the client still sends resets it, so the client (or a proxy in front of gate, which then
says 502) may never read the answer. RFC 9112, section 9.6.
"""

SECONDS_MIN: Final = 0.5
"""Shortest time (s) that a caller or a setting may name."""
SECONDS_MAX: Final = 31_536_000
"""Longest time (s) that a caller or a setting may name: a year."""
WAIT_MAX_S: Final = 60
"""Longest time that one call may wait (s). Many proxies end requests that take longer."""
SLOTS_MAX: Final = 10_000
"""Slots of a pool at most."""
QUEUE_MAX: Final = 100_000
"""Waiters of a pool at most."""
REFUSALS_MAX: Final = 1_000
"""Refusals of one job in a row, after which others are tried, at most."""
CREDITS_MAX: Final = 10**9
"""Credits of a job at most."""
