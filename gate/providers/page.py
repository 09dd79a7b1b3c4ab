"""The interface of a provider's page: how gate asks about a task, stops it, and counts the tasks of an account.

A page is pure functions without I/O. It makes a request, and reads the reply to it. Each page decides these in the same way:

- Only a word that the provider documents as an end is `ended`. What the page does not name is `unclear`.
- A reply that names another task is `unclear`.
- `unknown` needs the provider's own words. An HTML page with the status 404 is a wrong address, not a forgotten task.
- A status or a code about the request itself (a bad key, too many requests) comes before any word about the task.
- The report of an end is the one that a callback about it gives.
- A task id is quoted in a path, so that it cannot name another address of the provider.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote

from gate.model.errors import Unreadable
from gate.model.messages import Answer, AnswerState, Room
from gate.providers.parsing import PARSED_DEPTH_MAX, kept_text, leniently, number

T = TypeVar("T")
KEY_MARK: Final = "[key]"
"""Replaces a key in a reply that echoes it."""
KEY_PART_MIN: Final = 12
"""Shortest part of a key, between colons, that is cut too. The secret of `ID:SECRET` alone is enough to pose as the account."""
WHY_MAX: Final = 200
"""Characters of `Answer.why`. It is shown in one line of a history."""
REPLY_MAX_BYTES: Final = 256 * 1024
"""Size (bytes) of a usual reply that is read. A reply is a status and a few addresses."""
RETRY_MAX_S: Final = 3600
"""Longest time (s) that a reply may ask gate to wait. A longer one would stop the questions about an account."""
COUNT_MAX: Final = 1_000_000
"""Largest number of tasks or slots that counts as one. A larger one is a fault of the reply."""
ENDED: Final = AnswerState.ENDED
OF_STATUS: Final = {401: AnswerState.BAD_KEY, 402: AnswerState.BAD_KEY, 403: AnswerState.BAD_KEY, 429: AnswerState.BUSY}
"""Meaning of an HTTP status at every provider; any of 500 to 599 is BUSY too."""


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A request to a provider. Its repr shows no header and no body, because they have the key.

    Attributes:
        method: HTTP method.
        path: Path below the address of the provider, quoted. It never has the key.
        headers: Headers.
        body: The body; empty for none.
        reply_max_bytes: Size (bytes) of the reply that is read. The rest is cut off.
    """

    method: Literal["GET", "POST", "PUT"]
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    reply_max_bytes: int = REPLY_MAX_BYTES


@dataclass(frozen=True, slots=True)
class ProviderReply:
    """A reply of a provider, parsed and without the key. Make it with `of`.

    Attributes:
        status: HTTP status.
        data: JSON of the body; None for a body that is no JSON.
        retry_s: Time (s) of the header Retry-After; None without one.
    """

    status: int
    data: Any = field(repr=False)
    retry_s: float | None = None

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes, key: str) -> ProviderReply:
        """Parse a reply, and cut the key of the request out of it.

        Args:
            status: HTTP status.
            headers: Headers.
            body: The body, as far as it was read.
            key: The key that the request had.
        """
        try:
            data = leniently(body)
        except Unreadable:
            data = None
        retry_after = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
        return cls(status, without_key(data, key), _wait(retry_after))


@dataclass(frozen=True, slots=True)
class Further(Generic[T]):
    """A further request that is needed for an answer. There is one at most, because `read` gives the answer.

    Attributes:
        request: The request.
        read: Reads the reply to it.
    """

    request: ProviderRequest
    read: Callable[[ProviderReply], T]


@dataclass(frozen=True, slots=True)
class ProviderPage:
    """The functions of a provider's page. No function raises an error for any reply.

    Attributes:
        name: Name of the provider, as in URLs and the configuration.
        base_url: Address of the provider; None when each installation has its own.
        ask: Makes the request about a task. Arguments: task id, key.
        read_answer: Reads the reply to `ask`. Arguments: task id, reply, key.
        stop: Makes the request that stops a task. Arguments: task id, key.
        read_stop: Reads the reply to `stop`. Any state but ENDED asks the caller to ask what became of the task. Arguments: task
            id, reply, key.
        count: Makes the request that counts the tasks of an account, by its key. None when the provider has none.
        read_count: Reads the reply to `count`. An Answer says why there is no count. Arguments: reply, key.
    """

    name: str
    base_url: str | None
    ask: Callable[[str, str], ProviderRequest]
    read_answer: Callable[[str, ProviderReply, str], Answer | Further[Answer]]
    stop: Callable[[str, str], ProviderRequest]
    read_stop: Callable[[str, ProviderReply, str], Answer | Further[Answer]]
    count: Callable[[str], ProviderRequest] | None = None
    read_count: Callable[[ProviderReply, str], Room | Answer | Further[Room | Answer]] | None = None


def without_key(value: Any, key: str) -> Any:
    """Cut a key out of every text and name of a value, also the quoted or escaped key and the secret part of `ID:SECRET`.

    Args:
        value: Any value of JSON. Below 200 levels it is left out.
        key: The key; empty for none.

    Returns:
        The value with KEY_MARK in place of the key.
    """
    parts = {key, *(part for part in key.split(":") if len(part) >= KEY_PART_MIN)}
    forms = {form for part in parts for form in (part, quote(part, safe=""), json.dumps(part)[1:-1]) if form}
    if not forms:
        return _cut(value, None, PARSED_DEPTH_MAX)
    pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))
    return _cut(value, pattern, PARSED_DEPTH_MAX)


def _cut(value: Any, key: re.Pattern[str] | None, depth: int) -> Any:
    if isinstance(value, str):
        return key.sub(KEY_MARK, value) if key else value
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return None
    if isinstance(value, list):
        return [_cut(one, key, depth - 1) for one in value]
    return {_cut(name, key, depth): _cut(one, key, depth - 1) for name, one in value.items()}


def _wait(text: str | None) -> float | None:
    """Read Retry-After in seconds. A date is None, because a page has no clock."""
    found = number(text)
    return min(float(found), RETRY_MAX_S) if found is not None and math.isfinite(found) and found >= 0 else None


def segment(text: str) -> str:
    """Quote a text as one segment of a path. It cannot become another segment, a parent folder or a query."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if text in (".", "..") else quoted


def json_body(value: Mapping[str, Any]) -> bytes:
    """Write the body of a request as JSON in ASCII."""
    return json.dumps(value).encode()


def bearer(key: str) -> dict[str, str]:
    """Return the headers of a request with a key, and of one without when the key is empty."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def answer_of(state: AnswerState, reply: ProviderReply, *words: object) -> Answer:
    """Make the answer about a task that has not ended.

    Args:
        state: The state.
        reply: The reply.
        words: The provider's words, in any form. The HTTP status stands in their place when they are empty.
    """
    said = " ".join(filter(None, (kept_text(word, WHY_MAX) for word in words)))
    return Answer(state, kept_text(said, WHY_MAX) or f"HTTP {reply.status}", retry_s=reply.retry_s)


def by_status(reply: ProviderReply, *words: object) -> Answer:
    """Make the answer from the HTTP status alone: UNCLEAR for each that is not about the request itself."""
    state = OF_STATUS.get(reply.status, AnswerState.BUSY if 500 <= reply.status < 600 else AnswerState.UNCLEAR)
    return answer_of(state, reply, f"HTTP {reply.status}", *words)


def word(value: object) -> str:
    """Return a status in capitals, without blanks at its ends; empty for a value that is no text."""
    return value.strip().upper() if isinstance(value, str) else ""


def names(value: object, task_id: str) -> bool:
    """Say whether a field of a reply names this task, as text or as a whole number."""
    return value == task_id or (isinstance(value, int) and not isinstance(value, bool) and str(value) == task_id)


def tally(value: object) -> int | None:
    """Read a number of tasks or slots, also from text; None for anything else."""
    found = number(value)
    return found if isinstance(found, int) and 0 <= found <= COUNT_MAX else None
