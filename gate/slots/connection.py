"""One pool of connections to Redis, and what has to be true of that Redis before gate trusts it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, TimeoutError

from gate.errors import CannotStart, StoreDown

REPLY_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 64
"""A caller waits for a free one (BlockingConnectionPool) and is never refused for the lack of it."""


def connect(url: str, *, patient: bool = False) -> redis.Redis:
    """A client that tries once more when a connection turns out to be dead, and no oftener: the library's own ten
    tries would run a script again and again. Once is safe, each script being idempotent by (job_id, lease_id).

    `patient`: a reply may take for ever, as a subscription's does. Raises CannotStart when `url` is no address.
    """
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=REPLY_TIMEOUT_S,
            socket_timeout=None if patient else REPLY_TIMEOUT_S,
            socket_connect_timeout=REPLY_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        )
    except ValueError as error:
        raise CannotStart(f"GATE_REDIS_URL is no Redis address: {error}") from error
    return redis.Redis(connection_pool=pool)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Turns what the library raises into `StoreDown`."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreDown("redis", f"Redis does not answer: {error}") from error


def without_password(url: str) -> str:
    """The address as it may be printed."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


async def trust(client: redis.Redis, url: str) -> str:
    """What answers there, such as `Valkey 9.1.2`.

    Raises CannotStart in one line when nothing answers, the password is wrong, it is older than 7.0 or it may evict
    gate's keys.
    """
    shown = without_password(url)
    try:
        info = await client.info()
    except AuthenticationError as error:
        if urlsplit(url).password is None:
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
