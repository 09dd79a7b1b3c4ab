"""The HTTP client for calls to tools, signed as Standard Webhooks. Repeats of a call have the same `webhook-id` and body."""

from __future__ import annotations

import asyncio
import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
from standardwebhooks.webhooks import Webhook

from gate import __version__
from gate.ledger import Delivery
from gate.model.label import is_label
from gate.model.tool import Tool
from gate.providers.parsing import kept_text

ANSWER_MAX_BYTES = 64 * 1024
"""Size (bytes) from which an answer is not read. No answer that gate understands is longer."""
RETRY_AFTER_MAX_S = 300.0
"""Longest pause (s) that an answer can ask for. More would keep a whole pool still for one wrong header."""
BUSY_CODES = frozenset({415, 421, 1003, 1011, 1520})
"""Codes of RunningHub for "not now": all instances taken, queue full, rate limit, system busy, no machine free."""
ALIVE_CODES = frozenset({804, 813})
"""Codes of RunningHub for a task of that id that runs or waits already."""


FINE_CODES = frozenset({0, 200})
"""Codes of an answer that names no failure."""


class Verdict(StrEnum):
    """Meaning of the answer to a start call."""

    STARTED = "started"
    UNDER_WAY = "under_way"  # an earlier call of this start is not done yet
    REFUSED = "refused"  # the provider takes no further task now
    TOOL_DOWN = "tool_down"  # the address or the secret is wrong: no job of this tool can start
    UNWELL = "unwell"  # the tool failed; whether it started the job is not known
    FAILED = "failed"  # a repeat would fail in the same way
    SILENT = "silent"  # there was no answer


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The answer of a tool.

    Attributes:
        status: Status code of HTTP; None when there was no answer.
        said: The JSON object of the body; empty when the body is no object.
        error: The reason why there was no answer; None when there was one.
        retry_after_s: Shortest time (s) until the next call, by the header Retry-After; 0 without one.
        moved_to: Address to which a redirect points, without user, query and fragment; None when the answer is no redirect.
    """

    status: int | None
    said: Mapping[str, Any]
    error: str | None = None
    retry_after_s: float = 0
    moved_to: str | None = None

    @property
    def good(self) -> bool:
        """Whether the status is 2xx."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def account_down(self) -> bool:
        """Whether the tool says that the provider refuses the account, not the job."""
        return self.good and self.said.get("outcome") == "refused" and self.said.get("account_down") is True

    @property
    def verdict(self) -> Verdict:
        """Meaning of this answer to a start call."""
        if self.status is None:
            return Verdict.SILENT
        codes = {_code(self.said.get(name)) for name in ("code", "errorCode")}
        if self.status in (409, 429) or (self.good and self.said.get("outcome") == "refused") or codes & BUSY_CODES:
            return Verdict.REFUSED
        if self.good and self.task_id is None and codes - {None, *FINE_CODES}:
            return Verdict.FAILED
        if self.good and self.task_id is None and self.said.get("outcome") == "starting":
            return Verdict.UNDER_WAY
        if self.good or (codes & ALIVE_CODES and self.task_id is not None):
            return Verdict.STARTED
        if self.status in (401, 403, 404) or 300 <= self.status < 400:
            return Verdict.TOOL_DOWN
        return Verdict.FAILED if 400 <= self.status < 500 else Verdict.UNWELL

    @property
    def names_task(self) -> bool:
        """Whether the answer has a field for a task, readable or not."""
        return bool(self.said.keys() & {"task_id", "taskId"})

    @property
    def task_id(self) -> str | None:
        """ID of the provider's task; None when there is none. Tools and both APIs of RunningHub write it differently."""
        data = self.said.get("data")
        places = (self.said, data if isinstance(data, dict) else {})
        for found in (place.get(name) for place in places for name in ("task_id", "taskId")):
            if isinstance(found, int) and not isinstance(found, bool):
                found = str(found)
            if isinstance(found, str) and is_label(found):
                return found
        return None

    @property
    def why(self) -> str:
        """Reason of a failure in words, for people."""
        if self.error is not None:
            return self.error
        if self.moved_to is not None:
            return f"it redirects to {self.moved_to}, which gate does not follow; set that address in gate.toml"
        for name in ("error", "message", "detail", "msg", "errorMessage"):
            if isinstance(self.said.get(name), str) and (text := kept_text(self.said[name])):
                return text
        return f"answered {self.status}"


def _code(value: Any) -> int | None:
    """Return a provider's code, which comes as a number or as its digits. None when it is neither."""
    text = str(value)
    return int(text) if isinstance(value, int | str) and text.isascii() and text.isdigit() and len(text) < 10 else None


class WebhookClient:
    """Makes calls to tools. One client serves a gate until it is closed."""

    def __init__(self) -> None:
        # No redirects: the address of a tool is configured, and a body signed for it must not reach another address.
        # No bound on connections: the worker bounds the calls to each tool. A common bound would let one tool that hangs
        # delay the others.
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=None,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # a cookie of one tool must not reach another
        )

    async def call(self, tool: Tool, delivery: Delivery, within_s: float) -> WebhookResponse:
        """Make a call. It never raises; an error becomes an answer without a status.

        Args:
            tool: The tool.
            delivery: The call.
            within_s: Timeout (s).

        Returns:
            The answer.
        """
        address = tool.address(delivery.kind)
        if address is None:
            return WebhookResponse(None, {}, "there is no address for it any more")
        body = delivery.body.encode()
        try:
            async with asyncio.timeout(within_s):
                headers = self._headers(tool, delivery)
                async with self._client.stream("POST", address, content=body, headers=headers) as response:
                    return _answer(response, _object(await _bounded(response)))
        except TimeoutError:
            return WebhookResponse(None, {}, f"no answer within {within_s:g} s")
        except Exception as error:  # a wrong address, certificate or protocol counts like a failed connection: no answer
            return WebhookResponse(None, {}, kept_text(f"no answer: {type(error).__name__} {error}"))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @staticmethod
    def _headers(tool: Tool, delivery: Delivery) -> dict[str, str]:
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


def _answer(response: httpx2.Response, said: Mapping[str, Any]) -> WebhookResponse:
    moved_to = None
    if response.has_redirect_location:
        to = response.url.join(response.headers["location"])
        moved_to = kept_text(str(to.copy_with(username=None, password=None, query=None, fragment=None)))
    return WebhookResponse(response.status_code, said, retry_after_s=retry_after_s(response.headers), moved_to=moved_to)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Read the header Retry-After of an answer.

    Args:
        headers: The headers. A date is compared with the header Date, because this machine's clock may be wrong.

    Returns:
        Time (s), at most RETRY_AFTER_MAX_S; 0 when there is none, or one that cannot be read.
    """
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_MAX_S)
    until, sent = email.utils.parsedate_tz(text), email.utils.parsedate_tz(headers.get("date", ""))
    if until is None or sent is None:
        return 0
    return min(max(email.utils.mktime_tz(until) - email.utils.mktime_tz(sent), 0.0), RETRY_AFTER_MAX_S)


async def _bounded(response: httpx2.Response) -> bytes:
    """Return the body, empty when it is too long. It is not decompressed, because a small body may become a huge one."""
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
