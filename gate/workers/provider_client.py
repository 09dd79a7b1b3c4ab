"""The HTTP client for requests to providers. A reply is cut to its bound, and carries no key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from gate import __version__
from gate.model.account import Account
from gate.providers.page import Further, ProviderReply, ProviderRequest, T
from gate.providers.parsing import kept_text


class NoReply(Exception):
    """The provider has not replied. The text says why, without the key."""


class ProviderClient:
    """Makes requests to providers. One client serves a gate until it is closed."""

    def __init__(self) -> None:
        # No redirects: a key must not reach another host than the one that is configured.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=None, limits=limits)

    async def reply(self, account: Account, request: ProviderRequest, within_s: float) -> ProviderReply:
        """Make a request.

        Args:
            account: The account whose provider is asked.
            request: The request.
            within_s: Timeout (s).

        Returns:
            The reply, whatever its status.

        Raises:
            NoReply: There was no reply.
        """
        url = account.base_url + request.path
        headers = {**request.headers, "user-agent": f"gate/{__version__}", "accept-encoding": "identity"}
        try:
            async with (
                asyncio.timeout(within_s),
                self._client.stream(request.method, url, content=request.body, headers=headers) as response,
            ):
                body = await _bounded(response, request.reply_max_bytes)
        except TimeoutError:
            raise NoReply(f"no reply within {within_s:g} s") from None
        except Exception as error:  # a wrong address, certificate or protocol: no reply
            raise NoReply(kept_text(f"no reply: {type(error).__name__}") or "no reply") from None
        return ProviderReply.of(response.status_code, dict(response.headers), body, account.key)

    async def answer(
        self, account: Account, request: ProviderRequest, read: Callable[[ProviderReply], T | Further[T]], within_s: float
    ) -> T:
        """Make a request, and one further request if the reply to it asks for that.

        Args:
            account: The account whose provider is asked.
            request: The request.
            read: Reads the reply to it.
            within_s: Timeout (s) of each.

        Raises:
            NoReply: There was no reply.
        """
        found = read(await self.reply(account, request, within_s))
        if isinstance(found, Further):
            return found.read(await self.reply(account, found.request, within_s))
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _bounded(response: httpx2.Response, most: int) -> bytes:
    read = b""
    async for part in response.aiter_raw():
        read += part
        if len(read) > most:
            return read[:most]
    return read
