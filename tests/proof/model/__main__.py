"""python -m tests.proof.model [--quick] [--provider]: the whole protocol holds; without any one of its safeguards it does not.

Prints for each the number of states looked at, and the shortest story of the harm. Exit code 1 when the whole does not hold, or
when a safeguard that is switched off breaks nothing.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.proof.model.provider_worlds import PROVIDER_QUICK, PROVIDER_WHOLE
from tests.proof.model.safeguards import TABLE, without
from tests.proof.model.search import Found, explore
from tests.proof.model.third_truth import THIRD_TRUTH
from tests.proof.model.worlds import QUICK, WHOLE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.model", description="Checks the protocol state by state.")
    parser.add_argument("--quick", action="store_true", help="smaller worlds, and the safeguards whose loss shows soon")
    parser.add_argument("--provider", action="store_true", help="only the worlds and safeguards of the provider")
    given = parser.parse_args()
    quick, bad = given.quick, 0
    worlds = {} if given.provider else QUICK if quick else WHOLE
    worlds = {**worlds, **PROVIDER_QUICK, **({} if quick else PROVIDER_WHOLE)}
    print("THE WHOLE PROTOCOL")
    for name, world in worlds.items():
        began = time.monotonic()
        found = explore(world)
        bad += _say(name, found, began, found.harm or "holds", found.harm != "")
    print("\nWITHOUT EACH SAFEGUARD")
    for safeguard in THIRD_TRUTH if given.provider else TABLE:
        if quick and not safeguard.quick:
            print(f"{safeguard.name:16s}           (python -m tests.proof.model)       {safeguard.demands}")
            continue
        began = time.monotonic()
        found = without(safeguard)
        print(f"{safeguard.name:16s} {safeguard.demands}")
        bad += _say("", found, began, found.harm or "BREAKS NOTHING", not found.harm)
    return int(bad > 0)


def _say(name: str, found: Found, began: float, verdict: str, bad: bool) -> bool:
    print(f"  {name:30s} {found.states:9,d} states {time.monotonic() - began:6.1f} s  {verdict}", flush=True)
    if found.story:
        print(f"      {found.story}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
