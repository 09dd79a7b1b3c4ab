"""Outages: a server that died, and a store that does not answer or takes no writes.

`gate doctor` and `gate verify` ask for them first. So they end, whatever is away, and name what they could not look at.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass

from gate.ledger.admin import migrate
from gate.model import store_url
from gate.model.errors import CannotStart, StoreDown
from gate.runtime.data_dir import Address, DataDir
from gate.slots import Semaphore
from gate.slots.opening import connect

READY_S = 12.0
"""How long to wait for an answer of the server (s). It waits for its stores itself."""


@dataclass(frozen=True, slots=True)
class Outage:
    """An outage of one part.

    Attributes:
        what: `server`, `redis` or `sql`.
        says: What is wrong, in one line.
        helps: What to do about it.
        unseen: The part does not answer, so nothing in it was looked at.
    """

    what: str
    says: str
    helps: str
    unseen: bool = False


def of_server(data: DataDir, has_own_redis: bool) -> Outage | None:
    """Ask the server of a data directory.

    A store may take writes from this process and none from the server, which has another user, quota or limit.

    Args:
        data: The data directory.
        has_own_redis: The server uses an embedded Redis.

    Returns:
        None when the server is ready, or was stopped in order.
    """
    if (address := data.running()) is not None:
        return _of_running(address)
    if (died := data.abandoned()) is None:
        return None
    lost = ", and its embedded Redis with it: Redis was not looked at" if has_own_redis else ""
    says = f"the gate that ran here (process {died.pid}) ended without a stop{lost}"
    return Outage("server", says, "start gate serve again: it loads Redis from SQL", has_own_redis)


def _of_running(address: Address) -> Outage | None:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address.http}/readyz", timeout=READY_S).close()
    except urllib.error.HTTPError as error:
        with error:
            body = json.loads(error.read() or b"{}")
        store = str(body.get("store", "server"))
        says = f"the server is not ready: {body.get('why', error)}"
        return Outage(store, says, "free its disk or its memory, let it be written again, or start it")
    except (OSError, ValueError) as error:
        says = f"the server at {address.http} does not answer: {getattr(error, 'reason', error)}"
        return Outage("server", says, "look at its log; start it again", unseen=True)
    return None


def of_sql(url: str) -> Outage | None:
    """Ask the ledger whether it answers.

    Args:
        url: Address of the ledger.

    Returns:
        None when it does, also when it has no tables yet.
    """
    try:
        migrate.exists(url)
    except CannotStart as error:
        says = f"{error.detail}; I1-I6, I8 and the jobs in I9 were not looked at"
        return Outage("sql", says, "start it, or point gate at the right one", unseen=True)
    return None


def of_redis(url: str) -> Outage | None:
    """Ask a Redis whether it answers and takes writes.

    Args:
        url: Address of Redis.

    Returns:
        None when it does.
    """
    try:
        asyncio.run(_probe(url))
    except CannotStart as error:
        return Outage("redis", error.detail, "point GATE_REDIS_URL at a Redis that gate can use", unseen=True)
    except StoreDown as error:
        if error.refuses:
            return Outage("redis", error.detail, "give it memory or a disk, or make it a primary again")
        says = f"nothing in Redis at {store_url.shown(url)} was looked at: {error.detail}"
        return Outage("redis", says, "start it, or point gate at the right one", unseen=True)
    return None


async def _probe(url: str) -> None:
    link = await connect(url)
    try:
        await Semaphore(link).probe()
    finally:
        await link.aclose()
