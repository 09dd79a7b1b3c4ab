"""Callbacks by Standard Webhooks: `{type, data: {job_id | task_id, outcome, error?, output?}}`, signed.

The library only computes signatures here. Its own check reads the clock, accepts `1700000000.0` as a timestamp, and raises
ValueError on malformed headers.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

from gate.model.errors import Forged, Unreadable
from gate.model.job import JOB_ID
from gate.model.messages import ProviderReport, is_outcome
from gate.providers.callback import NO_SECRET, Callback, Provider
from gate.providers.error_kind import kind_of
from gate.providers.parsing import kept_output, kept_text, label, strictly

PREFIXES = ("webhook", "svix")
"""Prefixes of the three headers; the first one that is there counts. Svix sends names of its own with the same meaning."""
STALE_S = 300
"""Largest difference (s) between the timestamp and the clock, in either direction. An older callback may be a replay."""
DELIVERY_ID = re.compile(r"[!-~]{1,256}")
TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")
SECRET = re.compile(r"(whsec_)?[A-Za-z0-9+/]+={0,2}")


def read(callback: Callback) -> ProviderReport | None:
    """Read a callback.

    Returns:
        None when it does not end a task.

    Raises:
        Forged: The signature or the timestamp is missing or wrong.
        Unreadable: The body has another form.
    """
    delivery_id = check_signature(callback)
    body = strictly(callback.body)
    if not isinstance(body, dict):
        raise Unreadable("body", "must be an object")
    if not isinstance(body.get("type"), str):
        raise Unreadable("type", "must be a string")
    data = body.get("data")
    if not isinstance(data, dict):
        raise Unreadable("data", "must be an object")
    if "outcome" not in data:
        return None  # an event of another kind
    if not is_outcome(data["outcome"]):
        raise Unreadable("data.outcome", "must be completed, failed or cancelled")
    job_id, task_id = data.get("job_id"), data.get("task_id")
    if (job_id is None) == (task_id is None):
        raise Unreadable("data.job_id", "name one of job_id and task_id")
    if job_id is not None and not (isinstance(job_id, str) and JOB_ID.fullmatch(job_id)):
        raise Unreadable("data.job_id", f"must match {JOB_ID.pattern}")
    if task_id is not None:
        task_id = label(task_id, "data.task_id")
    error, output = kept_text(data.get("error")), kept_output(data.get("output"))
    kind = kind_of(error) if data["outcome"] == "failed" else None
    return ProviderReport(data["outcome"], delivery_id, task_id, job_id, error, output, error_kind=kind)


def check_signature(callback: Callback) -> str:
    """Check the signature of a callback. A hint needs none.

    Returns:
        The delivery id, which the signature covers; empty for a hint.

    Raises:
        Forged: The signature or the timestamp is missing or wrong.
    """
    if callback.is_hint:
        return ""
    headers = {name.lower(): value for name, value in callback.headers.items()}
    prefix = next((one for one in PREFIXES if f"{one}-signature" in headers), PREFIXES[0])
    delivery_id, timestamp = headers.get(f"{prefix}-id", ""), headers.get(f"{prefix}-timestamp", "")
    if not DELIVERY_ID.fullmatch(delivery_id) or not TIMESTAMP.fullmatch(timestamp):
        raise Forged("webhook-id and webhook-timestamp are wanted, the latter as whole seconds")
    if abs(callback.now_s - int(timestamp)) > STALE_S:
        raise Forged("webhook-timestamp is more than 5 minutes away")
    try:
        body = callback.body.decode()
    except UnicodeDecodeError:
        raise Forged("no signature fits") from None
    shown = [one.encode("utf-8", "replace") for one in headers.get(f"{prefix}-signature", "").split(" ")]
    moment = datetime.fromtimestamp(int(timestamp), UTC)
    right = [one.sign(delivery_id, moment, body).encode() for one in _usable(callback.secrets)]
    if not right:
        raise Forged(NO_SECRET)
    # A list, not a generator: all comparisons run, so the time does not show which secret or signature fits.
    if not any([hmac.compare_digest(mine, theirs) for mine in right for theirs in shown]):
        raise Forged("no signature fits")
    return delivery_id


def _usable(secrets: Sequence[str]) -> list[Webhook]:
    return [Webhook(secret) for secret in secrets if fault(secret) is None]


def fault(secret: str) -> str | None:
    """Return what is wrong with a configured secret; None when it is valid."""
    if SECRET.fullmatch(secret):
        try:
            Webhook(secret)
            return None
        except Exception:  # the library raises two kinds of errors for a secret that is no base64
            pass
    return "must be base64, with or without whsec_ before it"


PROVIDER = Provider("standard", read, fault, ("task_id", "taskId"))
