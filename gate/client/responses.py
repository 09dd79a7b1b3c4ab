"""What an HTTP answer means, and which failures are worth another try: the same for both clients."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import httpx2

from gate import __version__
from gate.client.errors import GateError, StoreDown, Unreachable, refusal
from gate.client.requests import Call

T = TypeVar("T")
TIMEOUT_S = 10.0
RETRY_S = 60.0
SHORTEST_TRY_S = 0.05
_HOPELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """`first` and `sent`: when the first try and the one that was answered set out, on this machine's monotonic clock.
    `date`: what the server's clock said, in seconds since 1970, to the second.
    """

    value: T
    first: float
    sent: float
    date: float | None


class ClientOptions(TypedDict):
    base_url: str
    headers: dict[str, str]
    limits: httpx2.Limits


def client_options(url: str, key: str | None) -> ClientOptions:
    headers = {"user-agent": f"gate-client/{__version__}", "content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    # No cap on connections: who waits in line must never keep a holder from renewing. Idle ones are dropped before the
    # server does it (after 5 s), or a renewal would now and then meet a closed one.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=4.0)
    return {"base_url": url, "headers": headers, "limits": limits}


def read(call: Call[T], response: httpx2.Response, first: float, sent: float) -> Answer[T]:
    """Raises GateError: what was refused, or that this is not gate's answer."""
    if not response.is_success:
        raise refusal(response.status_code, response.content, response.headers.get("retry-after"))
    try:
        value = call.read(response.json())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError("this is no answer of gate", code="not_gate", status=response.status_code) from error
    told = email.utils.parsedate_tz(response.headers.get("date", ""))
    return Answer(value, first, sent, float(email.utils.mktime_tz(told)) if told else None)


def unanswered(error: httpx2.HTTPError | httpx2.InvalidURL) -> GateError:
    kind = GateError if isinstance(error, _HOPELESS) or not isinstance(error, httpx2.TransportError) else Unreachable
    return kind(f"gate does not answer: {type(error).__name__}: {error}")


def try_seconds(call: Call[Any], timeout: float, end: float) -> float:
    """How long one try may take. Never all that is left, so that there is a second."""
    left = end - time.monotonic() - call.waits
    return call.waits + min(timeout, max(left / 2, SHORTEST_TRY_S))


class Patience(TypedDict):
    on: Callable[[Exception], bool | float]
    attempts: int | None
    timeout: float
    wait_initial: float
    wait_max: float
    wait_jitter: float


def patience(within: float, once: bool) -> Patience:
    """How stamina tries again: for `within` seconds, its pauses in proportion; what the server asks for comes first, as far as
    there is time for it. No pause goes beyond the end: whoever asks decides there.
    """
    end = time.monotonic() + within
    wait_max = min(5.0, within / 5)

    def worth_it(error: Exception) -> bool | float:
        if not isinstance(error, StoreDown | Unreachable) or time.monotonic() + wait_max > end:
            return False
        return min(error.retry_after, wait_max) if error.retry_after else True

    return {
        "on": worth_it, "attempts": 1 if once else None, "timeout": max(within, 0.001), "wait_initial": min(0.1, within / 20),
        "wait_max": wait_max, "wait_jitter": min(1.0, within / 10),
    }  # fmt: skip
