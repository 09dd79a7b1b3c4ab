"""The plots of docs/performance.md, as SVG. It runs in the environment of the plots: `python -m bench.plots FIGURES FOLDER`.

Every line is named where it ends, and no colour carries what is not written. What was not measured is not drawn.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.medians import PERCENTS, middle

pyplot.rcParams.update({
    "svg.fonttype": "path", "svg.hashsalt": "gate", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#666666", "axes.labelcolor": "#333333", "xtick.color": "#666666", "ytick.color": "#666666",
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
})  # fmt: skip
COLOURS = {
    "gate, SQLite": "#c0392b", "gate, Postgres": "#e67e22", "noop": "#2c3e50", "bytes": "#999999", "SKIP LOCKED": "#2471a3",
    "counted rows": "#5dade2", "Prefect, SQLite": "#7d3c98", "Prefect, Postgres": "#bb8fce", "steindamm": "#229954", "uvicorn": "#d35400",
}  # fmt: skip
Suites = dict[str, Any]
APART = 0.045
"""How far apart two names are at least, of the axis's height."""


def _plain(value: float, _: int = 0) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _logarithmic(axes: Axes, *which: str) -> None:
    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(_plain))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", length=0)


def _named(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Writes each (x, y, name, colour) to the right of its point, moved up or down where two would lie on each other."""
    axes.figure.canvas.draw()  # only then is it known where things are
    to_axes = axes.transAxes.inverted()
    at = sorted((tuple(to_axes.transform(axes.transData.transform((x, y)))), name, colour) for x, y, name, colour in ends)
    at.sort(key=lambda one: one[0][1])
    lowest = -1.0
    for (x, y), name, colour in at:
        lowest = max(y, lowest + APART)
        axes.annotate(
            name, (x, y), (x + 0.015, lowest), "axes fraction", "axes fraction", color=colour, va="center", fontsize=8.5
        )


@contextlib.contextmanager
def _drawn(file: Path, title: str, panels: int = 1) -> Iterator[list[Axes]]:
    figure, axes = pyplot.subplots(1, panels, figsize=(7.2, 4.0), squeeze=False, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, color="#222222")
    yield list(axes[0])
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def throughput(suites: Suites, file: Path) -> None:
    """Pairs a second by clients."""
    by_clients = suites["clients"]["clients"] | suites["throughput"]["clients"]
    counts = sorted(map(int, by_clients))
    with _drawn(file, "Pairs a second, by clients") as (axes,):
        ends = []
        for name, colour in COLOURS.items():
            points = [
                (count, middle(by_clients[str(count)][name]["per_s"])) for count in counts if name in by_clients[str(count)]
            ]
            if points:
                wide = 2.2 if name.startswith("gate") else 1.2
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=wide, marker="o", markersize=3)
                ends.append((*points[-1], name, colour))
        _logarithmic(axes, "x", "y")
        axes.set_xticks(counts)
        axes.set(xlabel="clients", ylabel="pairs/s", xlim=(counts[0] * 0.9, counts[-1] * 4.5))
        axes.spines["bottom"].set_bounds(counts[0], counts[-1])
        _named(axes, ends)


def latency(suites: Suites, file: Path) -> None:
    """The share of requests answered within so many milliseconds, with 32 clients."""
    of = suites["throughput"]["clients"]["32"]
    with _drawn(file, "Requests answered within so many milliseconds, 32 clients") as (axes,):
        for name in sorted(of, key=lambda one: middle(of[one]["p50_ms"])):
            wide = 2.2 if name.startswith("gate") else 1.2
            axes.plot(of[name]["spread_ms"], PERCENTS, color=COLOURS[name], linewidth=wide, label=name)
        _logarithmic(axes, "x")
        axes.set(xlabel="ms, from a request sent to its answer", ylabel="% of requests", ylim=(0, 100.5))
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=8.5,
            labelcolor="linecolor",
            handlelength=1.2,
        )


def depth(suites: Suites, file: Path) -> None:
    """What a call costs by how many wait: for the caller, and in Redis."""
    of = suites["depth"]["depths"]
    depths = sorted(map(int, of))
    colours = dict(zip(of[str(depths[0])]["ms"], COLOURS.values(), strict=False))
    with _drawn(file, "What a call costs, by how many wait", panels=2) as panels:
        for axes, which, label in zip(
            panels, ("ms", "redis_us"), ("ms, for the caller", "µs of Redis, a script"), strict=True
        ):
            ends = []
            for what in of[str(depths[0])][which]:
                points = [(one, of[str(one)][which][what]) for one in depths]
                axes.plot(*zip(*points, strict=True), color=colours[what], linewidth=1.5, marker="o", markersize=3)
                ends.append((*points[-1], what, colours[what]))
            _logarithmic(axes, "x")
            axes.set_xticks(depths)
            axes.set(xlabel="waiting", ylabel=label, xlim=(depths[0] * 0.8, depths[-1] * 12))
            axes.set_ylim(bottom=0)
            axes.spines["bottom"].set_bounds(depths[0], depths[-1])
            _named(axes, ends)


def handover(suites: Suites, file: Path) -> None:
    """The share of hand-overs done within so many milliseconds, beside the commits in them."""
    of = suites["handover"]
    with _drawn(file, "From a release sent, one holder and one who waits") as (axes,):
        for which, name, colour, height, side in (
            ("handed_spread_ms", "the waiter has its answer", "#c0392b", 70, "right"),
            ("claimed_spread_ms", "its claim is answered", "#2471a3", 30, "left"),
        ):
            axes.plot(of[which], PERCENTS, color=colour, linewidth=2)
            at = (of[which][PERCENTS.index(height)], height)
            away = (7 if side == "left" else -7, 0)
            axes.annotate(name, at, away, textcoords="offset points", color=colour, fontsize=8.5, ha=side, va="center")
        commits = 2 * middle(of["commit_ms"])
        axes.axvline(commits, color="#666666", linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "two commits of this disk", (commits, 96), (4, 0), textcoords="offset points", color="#666666", fontsize=8.5
        )
        axes.set(xlabel="ms since the release was sent", ylabel="% of hand-overs", ylim=(0, 100.5))
        axes.set_xlim(0, of["claimed_spread_ms"][PERCENTS.index(99)] * 1.1)


PLOTS: dict[str, Callable[[Suites, Path], None]] = {
    "throughput": throughput, "latency": latency, "depth": depth, "handover": handover,
}  # fmt: skip


def main(figures: Path, folder: Path) -> None:
    suites = {name: suite["found"] for name, suite in json.loads(figures.read_text())["suites"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        with contextlib.suppress(LookupError):
            draw(suites, folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
