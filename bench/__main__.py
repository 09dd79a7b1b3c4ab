"""Measures gate beside its peers, on this machine, and prints what it found: all suites, or those that are named.

What a suite found takes the place of what it found before; tables and plots can be made again without measuring.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import ablation, asking, data, dead, depth, figures, growth, handover, page, parked, starting, tables, throughput
from bench.progress import say

SUITES: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "throughput": ("pairs a second with 32 clients, beside all peers", throughput.run),
    "clients": (
        "the same with fewer and more clients",
        partial(throughput.run, clients=(1, 4, 8, 16, 64), rounds=3, seconds=1.0),
    ),
    "handover": ("from a release to the next in line; 32 in line for three slots; the order", handover.run),
    "depth": ("the same calls with 10 to 10,000 waiting", depth.run),
    "dead": ("one script with 100,000 leases or waiters dead at once", dead.run),
    "parked": ("10,000 who wait: memory each, and the others' throughput", parked.run),
    "ablation": ("what each part of the fast lane gains", ablation.run),
    "asking": ("what questions that hang cost the calls of tools", asking.run),
    "data": ("a million ended jobs, 5,000 waiters that leave, 10,000 grants to catch up with, 1,000 pools", data.run),
    "growth": ("idle pools, a restart, four servers, a repair, a loss of Redis", growth.run),
    "starting": ("seconds until gate serve is ready", starting.run),
}


def measure(chosen: list[str], kept: Path) -> list[str]:
    """The names of the suites that failed; the others' figures are kept."""
    failed = []
    for name in chosen:
        says, run = SUITES[name]
        say(f"— {name}: {says}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gate-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # Postgres runs as another user there
            try:
                found = run(Path(folder))
            except Exception:  # the other suites are worth having all the same
                traceback.print_exc()
                failed.append(name)
                continue
        figures.keep(name, found, time.monotonic() - began, kept)
        say(f"{name} took {time.monotonic() - began:.0f} s")
    return failed


def main() -> None:
    reading = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    reading.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all of them by default")
    reading.add_argument("--write", action="store_true", help="measure nothing; write docs/performance.md and its plots")
    reading.add_argument("--figures", type=Path, default=figures.KEPT, help="where the figures are kept (%(default)s)")
    asked = reading.parse_args()
    if unknown := set(asked.suites) - SUITES.keys():
        reading.error(f"there is no suite {', '.join(sorted(unknown))}")
    if asked.write:
        page.write(asked.figures)
        return
    failed = measure(asked.suites or list(SUITES), asked.figures)
    for name, table in tables.made(figures.load(asked.figures)).items():
        print(f"{name}\n\n{table}\n")
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
