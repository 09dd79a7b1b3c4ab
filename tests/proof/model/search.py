"""The search: every state that can be reached, nearest first, so that the first harm found is the shortest story of it."""

from __future__ import annotations

import gc
import sys
from array import array
from collections import deque
from dataclasses import dataclass

from tests.proof.model.numbers import canonical
from tests.proof.model.rules import agreed, broken, harm, over
from tests.proof.model.world import World, callers, gate, time, trouble

MOST = 3_000_000
STUCK = "stuck for ever"
DISAGREE = "stuck until a deadline passes"


@dataclass(frozen=True)
class Found:
    """`harm` is '' when everything holds; `story` is the shortest way to it."""

    states: int
    harm: str = ""
    story: str = ""


def explore(world: World, only: str = "") -> Found:
    """`only`: look for this harm, and walk past others."""
    gc.disable()  # nothing here is cyclic, and the collector would double the time
    try:
        return _explore(world, only)
    finally:
        gc.enable()


def _explore(world: World, only: str) -> Found:
    start = world.start()
    number = {start: 0}
    came_from, by = array("l", [-1]), [""]
    edges: list[tuple[array[int], array[int]]] = [(array("l"), array("l")), (array("l"), array("l"))]
    is_over, is_agreed = bytearray(), bytearray()
    todo = deque([start])

    def story(at: int, *last: str) -> str:
        steps = list(last)
        while at:
            steps.append(by[at])
            at = came_from[at]
        return " > ".join(reversed(steps))

    while todo:
        state = todo.popleft()
        here = len(is_over)
        is_over.append(over(state))
        is_agreed.append(agreed(state))
        for actor in (gate, time, callers, trouble):
            for label, after in actor(world, state):
                by_gate = actor is not trouble or "goes on" in label
                there = number.get(after, -1)
                found = harm(state, after, by_gate) or (there < 0 and broken(after)) or ""
                if found and only in found:
                    return Found(len(came_from), found, story(here, label))
                if there < 0:
                    plain = canonical(after)
                    there = number.setdefault(plain, len(came_from))
                    number[after] = there
                    if there == len(came_from):
                        came_from.append(here)
                        by.append(sys.intern(label))
                        todo.append(plain)
                if (actor is gate or actor is time) and after.faults == state.faults:
                    sources, targets = edges[actor is time]
                    sources.append(here)
                    targets.append(there)
        if len(came_from) > MOST:
            return Found(len(came_from), "no end of states")
    if only and only not in (STUCK, DISAGREE):
        return Found(len(came_from))
    for goal, among, what in ((is_over, edges, STUCK), (is_agreed, edges[:1], DISAGREE)):
        lost = _cannot_reach(goal, among)
        if lost >= 0:
            return Found(len(came_from), what, story(lost))
    return Found(len(came_from))


def _cannot_reach(goal: bytearray, edges: list[tuple[array[int], array[int]]]) -> int:
    """The first state from which no way leads to the goal; -1: there is none."""
    back: list[list[int]] = [[] for _ in goal]
    for sources, targets in edges:
        for source, target in zip(sources, targets, strict=True):
            back[target].append(source)
    reached = bytearray(goal)
    todo = [state for state, there in enumerate(goal) if there]
    while todo:
        for source in back[todo.pop()]:
            if not reached[source]:
                reached[source] = 1
                todo.append(source)
    return reached.find(0)
