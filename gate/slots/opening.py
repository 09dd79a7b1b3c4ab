"""The first connection to Redis: what kind it is, and whether gate can work with it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, ResponseError, TimeoutError

from gate.model import redis_address, store_url
from gate.model.errors import CannotStart
from gate.model.redis_address import Topology
from gate.slots.cluster import ClusterConnection
from gate.slots.connection import RedisConnection, mode


@dataclass(frozen=True, slots=True)
class Reached:
    """A Redis that gate can work with.

    Attributes:
        link: Connections to it.
        product: Name and version of the server, such as `Valkey 9.1.2`, with the kind when it is not a single one.
    """

    link: RedisConnection
    product: str


async def connect(url: str) -> RedisConnection:
    """Make connections of the right kind. A single address is asked whether it is a node of a cluster.

    Args:
        url: Address of Redis.

    Raises:
        CannotStart: It is no address of Redis, no cluster answers there, or the cluster cannot be used.
    """
    address = redis_address.several(url, store_url.OF_REDIS)
    if address is not None and address.topology is Topology.CLUSTER:
        return await _cluster(url)
    link = RedisConnection(url)
    if link.has_sentinels or not await _is_in_cluster(link, store_url.shown(url)):
        return link
    await link.aclose()
    if not url.strip().startswith("redis"):
        raise CannotStart("a Redis Cluster has no socket file: write redis+cluster://HOST:PORT,HOST:PORT")
    return await _cluster(re.sub(r"^(rediss?)://", r"\1+cluster://", url.strip()))


async def _cluster(url: str) -> RedisConnection:
    link = ClusterConnection(url)
    try:
        await link.first_look()
    except BaseException:
        await link.aclose()
        raise
    return link


async def _is_in_cluster(link: RedisConnection, shown: str) -> bool:
    """Ask for the mode of the server. Of one that does not answer `trust` says why."""
    try:
        found = mode(await link.client.info("server"))
    except ResponseError as error:
        if "SELECT is not allowed in cluster mode" not in str(error):
            return False
        await link.aclose()
        raise CannotStart(f"Redis at {shown} is a Redis Cluster, which has the database 0 alone") from error
    except (RedisError, OSError):
        return False
    if found == "sentinel":
        await link.aclose()
        raise CannotStart(f"{shown} is a Sentinel: write redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    return found == "cluster"


async def reach(url: str) -> Reached:
    """Connect, and check that gate can work with this Redis.

    Args:
        url: Its address.

    Raises:
        CannotStart: As `connect` and `trust` say.
    """
    link = await connect(url)
    try:
        return Reached(link, await trust(link, url))
    except BaseException:
        await link.aclose()
        raise


async def trust(link: RedisConnection, url: str) -> str:
    """Check that gate can work with this Redis.

    Args:
        link: Connections to it.
        url: Its address, for the messages.

    Returns:
        Name and version of the server, such as `Valkey 9.1.2`.

    Raises:
        CannotStart: No primary answers, or one refuses the password or INFO, is older than 7.0, or may evict gate's keys. Or too
            few Sentinels answer for a failover. The message is one line.
    """
    shown = store_url.shown(url)
    if (why := await link.lacks_quorum()) is not None:
        raise CannotStart(f"the Sentinels at {shown} cannot agree on a primary: {why}")
    primaries = link.primaries
    found = await asyncio.gather(*(_trust(one, shown) for one in primaries), return_exceptions=True)
    versions = sorted({one for one in found if isinstance(one, str)})
    for error in found:
        away = isinstance(error, CannotStart) and isinstance(error.__cause__, (ConnectionError, TimeoutError, OSError))
        if isinstance(error, BaseException) and not (
            versions and away and not isinstance(error.__cause__, AuthenticationError)
        ):
            raise error
    kind = f", a cluster of {len(primaries)} primaries" if isinstance(link, ClusterConnection) else ""
    return " and ".join(versions) + (", by Sentinels" if link.has_sentinels else kind)


async def _trust(link: RedisConnection, shown: str) -> str:
    try:
        info: dict[str, Any] = await link.client.info()
    except AuthenticationError as error:
        if not link.has_password:
            raise CannotStart(f"Redis at {shown} wants a password, and GATE_REDIS_URL has none") from error
        raise CannotStart(f"Redis at {shown} refuses the password: {error}") from error
    except NoPermissionError as error:
        raise CannotStart(f"Redis at {shown} does not let this user run INFO: {error}") from error
    except (ConnectionError, TimeoutError, OSError) as error:
        raise CannotStart(f"no Redis answers at {shown}: {error}") from error
    except RedisError as error:
        raise CannotStart(f"Redis at {shown} cannot be used: {error}") from error
    version = str(info["redis_version"])
    if int(version.split(".")[0]) < 7:
        raise CannotStart(f"Redis at {shown} is {version}; gate needs 7.0 or newer, or Valkey")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        raise CannotStart(f"Redis at {shown} may evict gate's keys: set maxmemory-policy to noeviction, not {policy}")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {version}"
