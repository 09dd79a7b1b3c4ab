"""The quick mode, as tests: the whole protocol holds, and without any one of its safeguards it does not."""

from __future__ import annotations

import pytest

from tests.proof.model.provider_worlds import PROVIDER_QUICK
from tests.proof.model.rules import broken
from tests.proof.model.safeguards import TABLE, without
from tests.proof.model.search import explore
from tests.proof.model.state import off
from tests.proof.model.world import World
from tests.proof.model.worlds import QUICK, Safeguard

WORLDS = {**QUICK, **PROVIDER_QUICK}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_whole_protocol_holds(world: World) -> None:
    found = explore(world)
    assert not found.harm, found.story


SOON = [safeguard for safeguard in TABLE if safeguard.quick]


@pytest.mark.parametrize("safeguard", SOON, ids=[safeguard.name for safeguard in SOON])
def test_without_it_something_goes_wrong(safeguard: Safeguard) -> None:
    """The rest, if any, is shown by `python -m tests.proof.model`."""
    assert without(safeguard).harm, safeguard.demands
    assert not off


@pytest.mark.parametrize("safeguard", [one for one in SOON if one.behind], ids=[one.name for one in SOON if one.behind])
def test_a_second_net_catches_what_the_first_lets_through(safeguard: Safeguard) -> None:
    off.update(safeguard.behind)
    try:
        assert not explore(safeguard.world, only=safeguard.harm).harm
    finally:
        off.clear()


def test_each_safeguard_is_named_once_and_looked_at_by_the_model() -> None:
    names = [safeguard.name for safeguard in TABLE]
    assert len(set(names)) == len(names)
    assert not broken(World().start())
