"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A finding.

    Attributes:
        what: Its kind, a word of the list above.
        about: The pool, job, tool or store that it is about.
        says: What is wrong.
        helps: What to do about it.
        mended: Whether that was done already.
    """

    what: str
    about: str
    says: str
    helps: str
    mended: bool = False
