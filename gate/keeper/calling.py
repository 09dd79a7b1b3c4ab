"""One call to a tool, signed as Standard Webhooks, and what came back. The same `webhook-id` and body however often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
from standardwebhooks.webhooks import Webhook

from gate import __version__
from gate.jobs import LABEL_MAX
from gate.ledger import Delivery
from gate.tools import Tool

ANSWER_MAX_BYTES = 64 * 1024
TEXT_MAX = 4_000
"""Characters of an error."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is None when there was none. `said` is the object that came back, if it was one."""

    status: int | None
    said: Mapping[str, Any]
    error: str | None = None

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """The provider would not take the job now."""
        return self.status in (409, 429) or (self.good and self.said.get("outcome") == "refused")

    @property
    def final(self) -> bool:
        """It will say the same the next time."""
        return self.status is not None and 400 <= self.status < 500

    @property
    def task_id(self) -> str | None:
        found = self.said.get("task_id")
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        return found if isinstance(found, str) and 0 < len(found) <= LABEL_MAX and found.isprintable() else None

    @property
    def why(self) -> str:
        """In words, for people."""
        if self.error is not None:
            return self.error
        for name in ("error", "message", "detail"):
            text = self.said.get(name)
            if isinstance(text, str) and (text := _clean(text).strip()):
                return text[:TEXT_MAX]
        return f"answered {self.status}"


class Caller:
    """For as long as the gate is open."""

    def __init__(self) -> None:
        # Where gate calls is configured; where that sends it on is not, and what is signed for one is for nobody else.
        # How many calls there may be is bounded for each tool: a bound on all would let one that hangs keep the others waiting.
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=None,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept, nor shown to another tool
        )

    async def call(self, tool: Tool, delivery: Delivery, within_s: float) -> Answer:
        """Never raises: whatever goes wrong is an answer."""
        address = tool.address(delivery.kind)
        if address is None:
            return Answer(None, {}, "there is no address for it any more")
        body = delivery.body.encode()
        try:
            async with asyncio.timeout(within_s):
                headers = self._signed(tool, delivery)
                async with self._client.stream("POST", address, content=body, headers=headers) as response:
                    return Answer(response.status_code, _object(await _bounded(response)))
        except TimeoutError:
            return Answer(None, {}, f"no answer within {within_s:g} s")
        except Exception as error:  # an address, a certificate, a connection, a protocol: all mean that nobody answered
            return Answer(None, {}, _clean(f"no answer: {type(error).__name__} {error}".strip())[:TEXT_MAX])

    async def aclose(self) -> None:
        await self._client.aclose()

    @staticmethod
    def _signed(tool: Tool, delivery: Delivery) -> dict[str, str]:
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"gate/{__version__}",
            "webhook-id": delivery.webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if tool.secret is not None:
            headers["webhook-signature"] = Webhook(tool.secret).sign(delivery.webhook_id, now, delivery.body)
        return headers


async def _bounded(response: httpx2.Response) -> bytes:
    """What is longer says nothing that gate asks for. As it came: unpacking what somebody packed could take for ever."""
    read = b""
    async for part in response.aiter_raw():
        read += part
        if len(read) > ANSWER_MAX_BYTES:
            return b""
    return read


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _clean(text: str) -> str:
    """As SQL can keep it: no NUL, no lone surrogate."""
    return text.replace("\x00", "").encode("utf-8", "ignore").decode()
