"""How a call goes on: step by step, at once; or (each costs a fault) it stands still before a step and goes on at any later
time or never, a transaction fails, or is committed and its answer is lost, a script runs twice because its reply was lost.

A process that is stopped, killed, or slower than the others are all the same to the two stores: a step that comes late or never.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.proof.model.paths import PATHS
from tests.proof.model.running import Down
from tests.proof.model.state import Call, Lease, Reply, State
from tests.proof.model.steps import MEMORY, READS, load, script
from tests.proof.model.sweeping import Finding

DOWN = "down"
"""The answer of a store that does not answer."""
Next = tuple[str, State]


def begin(state: State, label: str, kinds: frozenset[str], path: str, *args: Any) -> Iterator[Next]:
    """Each way in which a call that comes now can go."""
    return _walk(state, label, kinds, Call(path, args, ()))


def resume(state: State, number: int, kinds: frozenset[str]) -> Iterator[Next]:
    """A call that stood still goes on."""
    call = state.calls[number]
    rest = state.calls[:number] + state.calls[number + 1 :]
    return _walk(state._replace(calls=rest), f"{spell(call)} goes on", kinds, call, stands=True)


def _walk(state: State, label: str, kinds: frozenset[str], call: Call, stands: bool = False) -> Iterator[Next]:
    """`stands`: it has stood still before this step already."""
    path, args, answers = call
    walk = PATHS[path](*args)
    faults: list[Iterator[Next]] = []
    try:
        step = next(walk)
        for answer in answers:
            step = walk.throw(Down()) if answer == DOWN else walk.send(answer)
        while True:
            act = step[0]
            if act not in MEMORY and state.faults:
                faults.append(_faults(state, label, kinds, Call(path, args, answers), step, stands))
                stands = False
            state, answer = act(state, *step[1:])
            answers += (answer,)
            step = walk.send(answer)
    except (StopIteration, Down):
        yield label, state
    for fault in faults:  # last, so that a story has one only where it needs one
        yield from fault


def _faults(state: State, label: str, kinds: frozenset[str], call: Call, step: Any, stands: bool) -> Iterator[Next]:
    act, *given = step
    name = given[1] if act is script else act.__name__
    less = state._replace(faults=state.faults - 1)
    path, args, answers = call
    if "stop" in kinds and not stands and act not in READS:
        yield f"{label}, stops before {name}", less._replace(calls=(*state.calls, call))
    if act in READS:
        return
    if act is script:
        if "twice" in kinds:
            once, _ = act(less, *given)
            again, answer = act(once, *given)
            yield from _walk(again, f"{label} ({name} runs twice)", kinds, Call(path, args, (*answers, answer)))
    elif act is load:
        if "twice" in kinds:
            again = Call("loads", tuple(given), ())
            yield from _walk(less._replace(calls=(*state.calls, again)), f"{label} (load comes twice)", kinds, call)
    elif act.__module__.endswith("rows"):
        if "down" in kinds:
            yield from _walk(less, f"{label} (SQL fails at {name})", kinds, Call(path, args, (*answers, DOWN)))
        if "hang" in kinds and name == "admit" and not (len(given) > 3 and given[3]):
            later = less._replace(calls=(*state.calls, Call("hangs", (0, *given[:3]), ())))
            yield from _walk(later, f"{label} (SQL hangs at admit)", kinds, Call(path, args, (*answers, DOWN)))
        if "doubt" in kinds:
            done, _ = act(less, *given)
            yield from _walk(done, f"{label} ({name} committed, answer lost)", kinds, Call(path, args, (*answers, DOWN)))


def spell(call: Call) -> str:
    """The call as a person would say it."""
    words = [call.path]
    for what in call.args[1:]:
        if isinstance(what, (Lease, Finding, Reply)):
            words += [what.kind] if isinstance(what, Finding) else []
            words.append("abc"[what.job])
        elif call.path in ("acquire", "cancel"):
            words.append("abc"[what])
        elif isinstance(what, str):
            words.append(what)
    return " ".join(words)
