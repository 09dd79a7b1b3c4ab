"""Figures of a scenario, each with its bound, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure.

    Attributes:
        name: What it counts or measures.
        value: Its value; None where nothing was measured.
        most: The largest value that is accepted; None for a figure without a bound.
        is_speed: It depends on the speed of the machine. A test does not assert it.
        least: The smallest value that is accepted.
    """

    name: str
    value: float | None
    most: float | None = None
    is_speed: bool = False
    least: float | None = None

    @property
    def is_met(self) -> bool:
        if self.value is None:
            return self.most is None and self.least is None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        value = "none" if self.value is None else f"{self.value:,.2f}".rstrip("0").rstrip(".")
        bounds = [f"{sign} {bound:g}" for sign, bound in (("<=", self.most), (">=", self.least)) if bound is not None]
        verdict = f"  ({' and '.join(bounds)}: {'met' if self.is_met else 'NOT MET'})" if bounds else ""
        return f"  {self.name}: {value}{verdict}"


@dataclass(slots=True)
class Result:
    """What a scenario found.

    Attributes:
        name: The scenario.
        figures: Its figures.
        wrong: What is wrong beyond the figures, a line each.
        skipped: Why it was not played; None when it was.
    """

    name: str
    figures: list[Figure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    skipped: str | None = None

    def add(
        self, name: str, value: float | None, most: float | None = None, is_speed: bool = False, least: float | None = None
    ) -> None:
        self.figures.append(Figure(name, value, most, is_speed, least))

    @property
    def is_good(self) -> bool:
        return not self.wrong and all(one.is_met for one in self.figures)

    def missed(self) -> list[str]:
        """Return what is wrong, without the figures that depend on the speed of the machine."""
        return self.wrong + [str(one).strip() for one in self.figures if not one.is_speed and not one.is_met]

    def text(self) -> str:
        if self.skipped is not None:
            return f"{self.name}: skipped, {self.skipped}"
        return "\n".join([self.name, *map(str, self.figures), *(f"  WRONG {one}" for one in self.wrong[:20])])


def percentile(values: Sequence[float], part: float) -> float | None:
    """Return the value below which that part of the values lies; None without values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else None


def average(values: Sequence[float]) -> float | None:
    """Return the mean; None without values."""
    return mean(values) if values else None
