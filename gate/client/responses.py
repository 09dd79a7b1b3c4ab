"""Reading of HTTP responses, and the rules for retries. Both clients share them."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import httpx2

from gate.client.errors import GateError, StoreDown, Unreachable, WrongJob, refusal
from gate.client.models import Job
from gate.client.requests import Call
from gate.client.version import VERSION

T = TypeVar("T")
TIMEOUT_S = 10.0
"""Default time (s) for one response, without the time that the call waits in the queue."""
RETRY_S = 60.0
"""Default time (s) for which a call is retried."""
SHORTEST_TRY_S = 0.05
"""Shortest timeout (s) of one try. A try that has less time could not reach gate."""
_HOPELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
"""Errors of the request itself, which a retry would repeat."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A response of gate, with the times that bound its clock.

    Attributes:
        value: What the call asked for.
        first: Start of the first try, by this machine's monotonic clock (s).
        sent: Start of the try that gate answered, by the same clock (s).
        date: Time of the header Date (s since 1970), exact to the second; None without it.
    """

    value: T
    first: float
    sent: float
    date: float | None


class ClientOptions(TypedDict):
    """Options of an HTTP client of httpx2."""

    base_url: str
    headers: dict[str, str]
    limits: httpx2.Limits


def client_options(url: str, key: str | None) -> ClientOptions:
    """Make the options of an HTTP client.

    Args:
        url: Address of gate.
        key: Key of gate; None for none.
    """
    headers = {"user-agent": f"gate-client/{VERSION}", "content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    # No limit on connections: waiters would take all of them, and holders could not renew. Idle connections close before the
    # server closes them (after 5 s), or a renewal would sometimes meet a closed one.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=4.0)
    return {"base_url": url, "headers": headers, "limits": limits}


def address(url: Callable[[], str] | None, call: Call[Any]) -> str:
    """Return the address of a call.

    Args:
        url: Returns the address of gate; None when the HTTP client has it.
        call: The call.
    """
    return call.path if url is None else url().rstrip("/") + call.path


def read(call: Call[T], response: httpx2.Response, first: float, sent: float) -> Answer[T]:
    """Read a response.

    Args:
        call: The call that it answers.
        response: The response.
        first: See `Answer`.
        sent: See `Answer`.

    Raises:
        GateError: gate refuses the call, or the response does not come from gate.
        WrongJob: The response is about another job.
    """
    if response.has_redirect_location:
        to = response.url.join(response.headers["location"]).copy_with(username=None, password=None, query=None)
        raise GateError(f"gate's address redirects to {to}: use that address", code="redirected", status=response.status_code)
    if not response.is_success:
        raise refusal(response.status_code, response.content, response.headers.get("retry-after"))
    try:
        value = call.read(response.json())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError("this is no answer of gate", code="not_gate", status=response.status_code) from error
    if call.job_id is not None and isinstance(value, Job) and value.job_id != call.job_id:  # guard: answer-of-another-job
        raise WrongJob(f"gate was asked about job {call.job_id}; the answer is about {value.job_id}")
    date = email.utils.parsedate_tz(response.headers.get("date", ""))
    return Answer(value, first, sent, float(email.utils.mktime_tz(date)) if date else None)


def unanswered(error: httpx2.HTTPError | httpx2.InvalidURL) -> GateError:
    """Make the error for a call without a response: Unreachable when a retry may help, else a plain GateError."""
    kind = GateError if isinstance(error, _HOPELESS) or not isinstance(error, httpx2.TransportError) else Unreachable
    return kind(f"gate does not answer: {type(error).__name__}: {error}")


def try_seconds(call: Call[Any], timeout: float, end: float) -> float:
    """Compute the timeout (s) of one try. It is never all of the time that is left, so that a second try is possible.

    Args:
        call: The call.
        timeout: Longest time (s) for a response, without the time that the call waits in the queue.
        end: End of the retries, by the monotonic clock (s).
    """
    left = end - time.monotonic() - call.waits
    return call.waits + min(timeout, max(left / 2, SHORTEST_TRY_S))


class Patience(TypedDict):
    """Arguments of `stamina.retry_context`."""

    on: Callable[[Exception], bool | float]
    attempts: int | None
    timeout: float
    wait_initial: float
    wait_max: float
    wait_jitter: float


def patience(within: float, once: bool) -> Patience:
    """Make the retry rules of a call for stamina.

    The back-off is in proportion to `within`. A Retry-After of the server replaces it, up to the longest pause. No pause goes
    beyond the end, so that the caller of the call can act in time.

    Args:
        within: Time (s) for all tries.
        once: True for a single try.
    """
    end = time.monotonic() + within
    wait_max = min(5.0, within / 5)

    def pause_s(error: Exception) -> bool | float:
        if not isinstance(error, StoreDown | Unreachable) or time.monotonic() + wait_max > end:
            return False
        return min(error.retry_after, wait_max) if error.retry_after else True

    return {
        "on": pause_s, "attempts": 1 if once else None, "timeout": max(within, 0.001), "wait_initial": min(0.1, within / 20),
        "wait_max": wait_max, "wait_jitter": min(1.0, within / 10),
    }  # fmt: skip
