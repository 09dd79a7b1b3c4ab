"""The interface of a provider: the callback that it reads, and its functions.

Each provider decides these about its callbacks in the same way:

- An end is never refused for a text or a number in it. Parse its body with `leniently`; the standard provider, whose senders
  are programs written for gate, is the exception.
- An event that ends no task is None. A body of another form is Unreadable; an operator can apply it later.
- A success without any output is a failure with a refund, unless the provider's jobs may have none.
- `delivery_id` is the provider's own id of the callback if the signature covers it. Otherwise it is a hash of the task and the
  content, so that no callback can hide the end of another task.
- A signature without a time allows a replay. That changes nothing, because each task ends once.
- What the provider charges is `coins` of the output, also after a failure. `credits` are what the caller charged its user.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gate.model.errors import Forged
from gate.model.messages import ProviderReport

NO_SECRET = "this gate has no secret of this provider: it goes into gate.toml under [providers], and counts after a restart"
"""Message for the first try without a secret. It is safe to show, because gate then rejects every callback."""


@dataclass(frozen=True, slots=True)
class Callback:
    """A request of a provider, as gate received it.

    Attributes:
        headers: Headers of the request.
        query: Parameters of its query.
        body: Its body.
        secrets: All secrets that are valid now. There are two while a secret is replaced.
        now_s: Time of the request (s since 1970).
        is_hint: It is not believed, so it needs no secret and no signature.
    """

    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    secrets: Sequence[str]
    now_s: float
    is_hint: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """The functions of a provider.

    Attributes:
        name: Name of the provider, as in URLs and the configuration.
        read: Reads a callback. It returns None for one that ends no task, and raises only Forged or Unreadable.
        fault: Returns what is wrong with a configured secret, in a few words; None when it is valid.
        task_names: Fields in which a callback names its task. gate looks there in a body that `read` could not read.
    """

    name: str
    read: Callable[[Callback], ProviderReport | None]
    fault: Callable[[str], str | None]
    task_names: tuple[str, ...]


def plain_fault(secret: str) -> str | None:
    """Return what is wrong with a secret that is used as it is written; None when it is valid."""
    return None if secret and secret.isprintable() else "must be printable characters, at least one"


def check_token(callback: Callback) -> None:
    """Check the secret of a provider that does not sign, or whose signature gate cannot check: `?token=` of the address.

    A hint needs none.

    Raises:
        Forged: The token is missing or wrong.
    """
    if callback.is_hint:
        return
    if not any(callback.secrets):
        raise Forged(NO_SECRET)
    shown = _bytes(callback.query.get("token", ""))
    # A list, not a generator: all comparisons run, so the time does not show which secret fits.
    if not any([hmac.compare_digest(shown, _bytes(secret)) for secret in callback.secrets if secret]):
        raise Forged("the token is missing or wrong")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
