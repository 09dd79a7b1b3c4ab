"""Play the acceptance of the questions to providers, in scaled time.

    python -m tests.proof.soak.providers                  # all scenarios, on SQLite
    python -m tests.proof.soak.providers --only 1 --postgres --seed 2
    python -m tests.proof.soak.providers --quick          # a tenth

Each scenario prints its figures, each with its bound. The exit status is 1 when a bound is not met.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.proof.soak.providers import capacity, echoes, ends
from tests.proof.soak.providers.figures import Result

SCENARIOS: dict[int, tuple[int, float, Callable[[Path, int, int, float, bool], Result]]] = {
    1: (2000, 100, ends.lost_callbacks),
    2: (1000, 20, ends.no_callbacks),
    3: (300, 20, ends.cancels),
    4: (3, 20, capacity.strangers),
    5: (200, 20, capacity.accounts),
    7: (len(echoes.PLANS), 100, echoes.echoed_key),
}
"""Number of jobs and scale of each scenario, and the scenario. 6 is `python -m bench asking`.

Scenario 2 is not played at 1:100. A question would be due every 50 ms for each of 20 tasks, and the answers of gate and of the
machine would be most of what is measured. Nor is scenario 3: a drain of 0.3 s is shorter than a busy machine needs for a stop.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.soak.providers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", type=int, action="append", choices=sorted(SCENARIOS), help="a scenario; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, help="so many seconds are one here; 100 or 20 by default")
    parser.add_argument("--jobs", type=int, help="jobs of each scenario, in place of its own number")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs")
    parser.add_argument("--postgres", action="store_true", help="two servers on one Postgres, in place of one on SQLite")
    options = parser.parse_args()
    good, skipped = True, []
    for number in options.only or sorted(SCENARIOS):
        own, scale, play = SCENARIOS[number]
        jobs = options.jobs or (max(own // 10, 1) if options.quick else own)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            result = play(Path(folder), jobs, options.seed, options.scale or scale, options.postgres)
        print(f"{result.text()}\n  took: {time.monotonic() - began:.0f} s\n", flush=True)
        good &= result.is_good
        skipped += [str(number)] if result.skipped else []
    print("every bound is met, gate verify is clean" if good else "NOT every bound is met")
    if skipped:
        print(f"skipped: {', '.join(skipped)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
