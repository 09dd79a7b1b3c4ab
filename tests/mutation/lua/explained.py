"""The mutants that no test can notice, or none should have to: for each why.

A row: the file, the function it stands in, the line as it is, the line as the mutant has it, and the reason. A row that names no
mutant fails tests/mutation/lua/test_mutants.py.
"""

from __future__ import annotations

EXPLAINED: list[tuple[str, str, str, str, str]] = []

REASONS = {row[:4]: row[4] for row in EXPLAINED}
