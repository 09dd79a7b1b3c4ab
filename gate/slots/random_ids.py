"""Random digits for lease ids, read from the operating system in large blocks.

A system call for each script would cost more than the round trip to Redis.
"""

from __future__ import annotations

import secrets

STOCK_BYTES = 16 * 1024
"""Random bytes that one system call reads. Each byte gives two digits."""


class RandomDigits:
    """Hands out random digits from the operating system's source. No digit is handed out twice."""

    def __init__(self) -> None:
        self._digits, self._drawn = "", 0

    def digits(self, count: int) -> str:
        """Return random hexadecimal digits.

        Args:
            count: Number of digits, at most twice STOCK_BYTES.
        """
        start, self._drawn = self._drawn, self._drawn + count
        if self._drawn > len(self._digits):
            self._digits, start, self._drawn = secrets.token_hex(STOCK_BYTES), 0, count
        return self._digits[start : self._drawn]
