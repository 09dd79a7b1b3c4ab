"""A task of the simulated provider, and the replies and callbacks about it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass, field
from typing import Any, Final

from gate.simulator.account import Account
from gate.simulator.plan import Call, Odd, Plan, Said
from gate.simulator.replies import SUCCESS, echoed

LONG: Final = 4_100
"""Characters of the address of `long_address`. It is longer than the error text that gate keeps."""
QUIET: Final[dict[str, Any]] = {"errorCode": "", "errorMessage": "", "failedReason": {}, "results": None}
"""Fields of a task in the new shape that says nothing but its status."""


@dataclass(slots=True)
class Task:
    """A task.

    Attributes:
        task_id: Its id.
        plan: Its behaviour.
        account: Account of the key that started it.
        key: That key.
        webhook_url: Address of its callback; None for no callback.
        started: Time of its start, on the monotonic clock.
        stop_at: Time at which an accepted cancel ends it; infinite without a cancel.
        ended: SUCCESS or FAILED; None while it has not ended.
        is_cancelled: A cancel ended it.
        changed: Set when its plan or `stop_at` has changed.
        questions: Questions about it, by any key.
        cancels: Cancels of it, by any key.
        denials: Questions that were answered 807 although it was known.
        empty_replies: Questions that were answered with a success without output.
        is_denied_query: The last query was denied, so the next `outputs` call is too.
    """

    task_id: str
    plan: Plan
    account: Account
    key: str
    webhook_url: str | None
    started: float = field(default_factory=time.monotonic)
    stop_at: float = math.inf
    ended: Said | None = None
    is_cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    questions: int = 0
    cancels: int = 0
    denials: int = 0
    empty_replies: int = 0
    is_denied_query: bool = False

    @property
    def status(self) -> Said:
        """Its true status. A cancelled task is FAILED here, as it is to v1."""
        if self.ended is not None:
            return self.ended
        return "QUEUED" if time.monotonic() < self.started + self.plan.queued_s else "RUNNING"

    @property
    def is_forgotten(self) -> bool:
        """Whether the provider says that it does not know the task."""
        forgotten_s = self.plan.forgotten_s
        return forgotten_s is not None and time.monotonic() >= self.started + forgotten_s

    def left_s(self) -> float:
        """Return the time (s) to its end; infinite for a task that does not end by itself."""
        own = math.inf if self.plan.forever else self.started + self.plan.queued_s + self.plan.seconds
        return min(own, self.stop_at) - time.monotonic()

    def change(self, plan: Plan, change: dict[str, Any]) -> None:
        """Take a changed plan.

        Args:
            plan: The plan.
            change: Its changed fields. A number of questions begins again from 0.
        """
        self.plan = plan
        self.denials = 0 if "denied" in change else self.denials
        self.empty_replies = 0 if "empty_first" in change else self.empty_replies
        self.changed.set()

    def cancel(self) -> None:
        """Accept a cancel of a task that has not ended."""
        if self.plan.deaf:
            return
        self.stop_at = min(self.stop_at, time.monotonic() + self.plan.cancel_s)
        if self.plan.cancel_s == 0:
            self.end()
        self.changed.set()

    def end(self) -> None:
        """End the task, by its plan or by the cancel, if it has not ended."""
        if self.ended is not None:
            return
        self.is_cancelled = time.monotonic() >= self.stop_at
        self.ended = "FAILED" if self.is_cancelled or self.plan.outcome == "failed" else "SUCCESS"

    def is_denied(self, call: Call) -> bool:
        """Say whether to answer a question with 807, and count it."""
        belongs_to_query = call == "outputs" and self.is_denied_query
        is_denied = belongs_to_query or self.denials < self.plan.denied
        self.denials += is_denied and not belongs_to_query
        self.is_denied_query = is_denied and call == "query"
        return is_denied

    def answer(self, call: Call) -> dict[str, Any]:
        """Make the reply to a question.

        Args:
            call: `query`, `outputs` or `status`.
        """
        status: Said = self.plan.lie or ("CANCELLED" if self.is_cancelled else self.status)
        if call == "status":
            return SUCCESS | {"data": "FAILED" if status == "CANCELLED" else status}
        is_empty = status == "SUCCESS" and self.empty_replies < self.plan.empty_first
        self.empty_replies += is_empty
        if call == "query":
            return self.new(status, is_empty)
        if status in ("RUNNING", "QUEUED"):
            return {"code": 804 if status == "RUNNING" else 813, "msg": f"APIKEY_TASK_IS_{status}", "data": None}
        return self.old(status, is_empty)

    def old(self, status: Said, is_empty: bool = False) -> dict[str, Any]:
        """Make the old shape of an end. The outputs call returns it too.

        Args:
            status: A status of an end.
            is_empty: A success has no output.
        """
        if status == "SUCCESS":
            one = {"fileType": "png", "taskCostTime": round(self.plan.seconds), "nodeId": "9"}
            return SUCCESS | {"data": [{"fileUrl": url} | one for url in self._results(is_empty)]}
        return {"code": 805, "msg": "APIKEY_TASK_STATUS_ERROR", "data": {"failedReason": self._reason(status)}}

    def new(self, status: Said, is_empty: bool = False) -> dict[str, Any]:
        """Make the new shape, which the query of v2 returns.

        Args:
            status: The status.
            is_empty: A success has no output.
        """
        body: dict[str, Any] = {"taskId": self.task_id, "status": status} | QUIET
        if status == "SUCCESS":
            results = [{"url": url, "outputType": "png"} for url in self._results(is_empty)]
            return body | {"usage": {"consumeCoins": 1}, "results": results}
        if status == "FAILED":
            why = {"errorMessage": "APIKEY_TASK_STATUS_ERROR", "errorCode": "805", "failedReason": self._reason(status)}
            return body | {"usage": {"consumeCoins": 1}} | why
        return body

    def callback(self, echo: bool) -> dict[str, Any]:
        """Make the callback of the end.

        Args:
            echo: The callback has the key in its texts and addresses.
        """
        data = self.old(self.status) if self.plan.shape == "old" else self.new(self.status)
        if self.plan.odd is not None and self.status == "SUCCESS" and self.plan.outcome == "completed":
            data = self._odd(self.plan.odd)
        if echo:
            data = echoed(data, self.key)
        return {"event": "TASK_END", "taskId": self.task_id, "eventData": json.dumps(data) if self.plan.as_string else data}

    def _results(self, is_empty: bool = False) -> list[str]:
        return [] if is_empty or self.plan.outcome == "empty" else [f"https://files.invalid/{self.task_id}.png"]

    def _reason(self, status: Said) -> dict[str, Any]:
        message = "cancelled" if self.is_cancelled or status == "CANCELLED" else self.plan.error
        return {"node_name": "KSampler", "exception_message": message, "traceback": "[]", "node_id": "3"}

    def _odd(self, shape: Odd) -> dict[str, Any]:
        """Make a success that has its output elsewhere than the documentation says."""
        (url,) = self._results()
        new, old = {"taskId": self.task_id, "status": "SUCCESS", "usage": {"consumeCoins": "1"}}, SUCCESS
        text = {"url": None, "outputType": "txt", "text": f"a text of {self.task_id}"}
        shapes: dict[Odd, dict[str, Any]] = {
            "results_file_url": new | {"results": [{"fileUrl": url, "fileType": "png"}]},
            "data_url": old | {"data": [{"url": url, "outputType": "png"}]},
            "data_object": old | {"data": {"fileUrl": url, "fileType": "png"}},
            "output_file_list": old | {"data": {"outputFileList": [{"fileUrl": url, "fileType": "png"}]}},
            "results_object": new | {"results": {"url": url, "outputType": "png"}},
            "plain_results": new | {"results": [url]},
            "plain_data": old | {"data": [url]},
            "text": new | {"results": [text]},
            "long_address": new | {"results": [{"url": f"{url}?{'x' * (LONG - len(url) - 1)}", "outputType": "png"}]},
            "unknown": new | {"results": {"picture": {"at": url}}},
        }
        return shapes[shape]
