"""`python -m bench [SUITE …]`: measures gate beside its peers, on this machine, and prints what it found."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench import dead, depth, handover, parked, starting, throughput


def _throughput(folder: Path) -> str:
    return throughput.report(throughput.run(folder))


def _depth(folder: Path) -> str:
    lines = [f"{'':<34}{'10 wait':>9}{'10,000':>9}{'ratio':>7}"]
    for name, figures in depth.run(folder).items():
        shallow, deep = figures[10], figures[10_000]
        lines.append(f"{name:<34}{shallow:>9.3f}{deep:>9.3f}{deep / shallow:>7.2f}")
    return "\n".join(lines)


def _plain(figures: dict[str, float]) -> str:
    return "\n".join(f"{name:<24}{figure:>12.3f}" for name, figure in figures.items())


SUITES = {
    "throughput": ("pairs a second, 32 clients; p50, p99 and CPU", _throughput),
    "handover": (
        "from a release sent to the waiter's answer, in ms; 32 in line for three slots",
        lambda f: _plain(handover.run(f)),
    ),
    "depth": ("the same calls with 10 and with 10,000 waiting: ms, or µs of Redis a script", _depth),
    "dead": ("one script with 100,000 leases or waiters dead at once", lambda f: _plain(dead.run(f))),
    "parked": ("10,000 who wait: memory each, and the others' throughput", lambda f: _plain(parked.run(f))),
    "starting": ("seconds until gate serve is ready", lambda f: _plain(starting.run(f))),
}


def main() -> None:
    reading = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    reading.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all of them by default")
    chosen = reading.parse_args().suites or list(SUITES)
    if unknown := set(chosen) - SUITES.keys():
        reading.error(f"there is no suite {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="gate-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user there
        for name in chosen:
            says, run = SUITES[name]
            print(f"{name}: {says}\n\n{run(Path(folder) / name)}\n", flush=True)


if __name__ == "__main__":
    main()
