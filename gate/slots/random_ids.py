"""Random digits for lease ids, drawn from the system in stock: asked for each script it would cost more than the answer's journey."""

from __future__ import annotations

import secrets

STOCK_BYTES = 16 * 1024


class RandomDigits:
    """Of the system's own source. What was handed out is never handed out again."""

    def __init__(self) -> None:
        self._digits, self._drawn = "", 0

    def digits(self, count: int) -> str:
        """So many hexadecimal digits; at most twice STOCK_BYTES."""
        start, self._drawn = self._drawn, self._drawn + count
        if self._drawn > len(self._digits):
            self._digits, start, self._drawn = secrets.token_hex(STOCK_BYTES), 0, count
        return self._digits[start : self._drawn]
