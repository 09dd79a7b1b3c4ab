"""A finding of `gate verify`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breach:
    """A breach of an invariant.

    Attributes:
        invariant: `I1` to `I9`.
        about: The job, pool or event that it is about.
        finding: What was found.
    """

    invariant: str
    about: str
    finding: str
