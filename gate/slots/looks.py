"""Looks at many pools at once, without a script, so that nothing is reaped or granted by them."""

from __future__ import annotations

from collections.abc import Sequence

from gate.slots import entry_codec, keys
from gate.slots.connection import AnotherRedis, RedisConnection, answering
from gate.slots.results import LedgerMark, PoolLook

OF_MARK = ("ledger", "epoch", "recorded")
"""Fields of `meta` that show what Redis has seen of a ledger."""


async def looks(link: RedisConnection, pools: Sequence[str], settings: Sequence[str]) -> dict[str, PoolLook]:
    """Look at pools.

    Three cheap commands a pool, all in one round trip to each primary. A pool that cannot be read so counts as one that holds something:
    the next script on it finds out why.

    Args:
        link: Connection to Redis.
        pools: Names of the pools.
        settings: Fields of `meta` to read.

    Raises:
        StoreDown: Redis does not answer.
    """
    commands = [words for pool in pools for words in _look_at(keys.keys(pool), settings)]
    with answering():
        try:
            found = await link.ask_all(pools, commands)
        except AnotherRedis:
            return {pool: PoolLook(True, LedgerMark("", 0, 0), {}) for pool in pools}
    return {
        pool: PoolLook([jobs, entries] != [0, 0] or isinstance(meta, Exception), _mark(meta), _numbers(settings, meta, 3))
        for pool, jobs, entries, meta in zip(pools, found[::3], found[1::3], found[2::3], strict=True)
    }


async def marks(link: RedisConnection, pools: Sequence[str]) -> dict[str, LedgerMark]:
    """Read what Redis has seen of the ledger of each pool, in one round trip to each primary. A pool that cannot be read has none.

    Raises:
        StoreDown: Redis does not answer.
    """
    commands = [("HMGET", keys.keys(pool)[4], *OF_MARK) for pool in pools]
    with answering():
        try:
            found = await link.ask_all(pools, commands)
        except AnotherRedis:
            return {}
    return {pool: _mark(reply) for pool, reply in zip(pools, found, strict=True) if not isinstance(reply, Exception)}


def _look_at(of_pool: tuple[str, ...], settings: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The commands of one look, by the keys of the pool."""
    _, _, jobs, outbox, meta, _ = of_pool
    return ("HLEN", jobs), ("XLEN", outbox), ("HMGET", meta, *OF_MARK, *settings)


def _mark(values: list[bytes | None] | Exception) -> LedgerMark:
    """Read the fields OF_MARK, which are the first."""
    if isinstance(values, Exception):
        return LedgerMark("", 0, 0)
    return LedgerMark(
        (values[0] or b"").decode(errors="replace"), *(entry_codec.whole_number(one or b"0") for one in values[1:3])
    )


def _numbers(names: Sequence[str], values: list[bytes | None] | Exception, first: int) -> dict[str, int]:
    """Read the fields `names`, which begin at place `first`."""
    if isinstance(values, Exception):
        return {}
    found = zip(names, values[first:], strict=True)
    return {name: entry_codec.whole_number(value) for name, value in found if value is not None}
