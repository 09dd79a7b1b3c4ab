"""Plans of a simulator: the behaviour of a task, of a key and of the whole provider, as `POST /control` takes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Odd = Literal[
    "results_file_url", "data_url", "data_object", "output_file_list", "results_object", "plain_results", "plain_data",
    "text", "long_address", "unknown",
]  # fmt: skip
"""Shapes of a success that are not documented. gate knows all of them but `unknown`."""
Busy = Literal[415, 421, 1003, 1011, 1520, 429, 500, 503]
"""Codes of a provider that cannot take a task now. 429, 500 and 503 are the HTTP status; the others are in the body."""
KeyCode = Literal[801, 802, 806, 811, 1002, 1014, 416, 812, 401, 403]
"""Codes of a key that is not valid, or whose wallet is empty (416, 812). 401 and 403 are the HTTP status."""
Call = Literal["run", "query", "outputs", "status", "cancel", "queue", "account"]
"""Calls of the provider. `queue` is the queue status of v2, and `account` the account status of v1."""
Fault = Literal["none", "hang", 500, 503]
"""Fault of a call. `hang` gives no response until the fault is over."""
Said = Literal["QUEUED", "RUNNING", "SUCCESS", "FAILED", "CANCELLED"]
"""Statuses of a task."""
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
ANY_KEY = "*"
"""Name of the one account that every key has while no key is configured."""


class _Changeable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, change: dict[str, Any]) -> Self:
        """Return this plan with other values.

        Args:
            change: The values, by field.

        Raises:
            ValidationError: A field or a value is not valid.
        """
        return type(self).model_validate(self.model_dump() | change)


class Plan(_Changeable):
    """Behaviour of a task.

    Attributes:
        seconds: Time (s) that the task runs.
        outcome: Its outcome. `empty` is a success without output.
        error: Reason of a failure.
        shape: Shape of the callback's `eventData`.
        as_string: `eventData` is JSON in a string.
        callback: How often the callback is sent.
        late: Time (s) between the end of the task and its callback.
        early: The callback is sent before the response to the run call.
        refuse: The run call starts no task; the provider's queue is full.
        odd: Shape of a success instead of `shape`; None for `shape`.
        busy: The run call starts no task and returns this code, or this HTTP status for 429, 500 and 503.
        starting_s: Time (s) from the run call to its response. The task itself begins at once.
        queued_s: Time (s) that the task is QUEUED before it runs. A queued task counts towards the limit.
        forever: The task does not end by itself.
        cancel_s: Time (s) from an accepted cancel to the end of the task.
        deaf: A cancel is accepted and has no effect.
        denied: Questions that are answered 807. The `outputs` call after a denied query belongs to that question.
        empty_first: Questions that are answered with a success without output before the real one. The callback has the output.
        forgotten_s: Time (s) from the start after which every call about the task is answered 807. The task itself goes on, and
            calls back. None for never.
        lie: Status that every question is answered with; None for the true one.
    """

    seconds: Seconds = 0.05
    outcome: Literal["completed", "failed", "empty"] = "completed"
    error: str = "it broke"
    shape: Literal["old", "new"] = "old"
    as_string: bool = True
    callback: Literal["once", "lost", "doubled"] = "once"
    late: Seconds = 0
    early: bool = False
    refuse: bool = False
    odd: Odd | None = None
    busy: Busy | None = None
    starting_s: Seconds = 0
    queued_s: Seconds = 0
    forever: bool = False
    cancel_s: Seconds = 0
    deaf: bool = False
    denied: Count = 0
    empty_first: Count = 0
    forgotten_s: Seconds | None = None
    lie: Said | None = None


class KeyPlan(_Changeable):
    """Behaviour of a key.

    Attributes:
        limit: Tasks of this key that may run at once; None for the limit of the simulator.
        code: Code of every response to this key, as for a revoked key or an empty wallet; None for a good key.
        strangers: Tasks on this key that others started. They count towards the limit, and never end.
        counter: Number of tasks that both counts return, as a counter that is stuck does; None for the true number.
        has_queue_status: The key may use the queue status of v2. Without it the response is 1009.
    """

    limit: Count | None = None
    code: KeyCode | None = None
    strangers: Count = 0
    counter: Count | None = None
    has_queue_status: bool = True


class Control(BaseModel):
    """Body of `POST /control`. A field that is None or empty changes nothing.

    Attributes:
        limit: Tasks that may run at once, for each key without a limit of its own.
        defaults: Changes of the plan of all later tasks.
        next: Plans of the next runs, one for each.
        tasks: Changes of the plans of tasks, by their ids.
        keys: Changes of the plans of keys, by the key. A new key is added. From the first key on, the provider demands one. The
            key `*` has the plan of every key until then.
        faults: Faults, by call. `all` sets the fault of every call.
        delay_s: Time (s) before each response of the provider.
        rate: Requests a second that each key may make. The next one is answered 1003. 0 for no such limit.
        echo: Every response and every callback has the key in its texts and addresses.
        away_s: Time (s) from now for which connections are refused. 0 ends it. Only `Simulator.control` is heard meanwhile.
    """

    model_config = ConfigDict(extra="forbid")

    limit: Count | None = None
    defaults: dict[str, Any] = {}
    next: list[dict[str, Any]] = []
    tasks: dict[str, dict[str, Any]] = {}
    keys: dict[str, dict[str, Any]] = {}
    faults: dict[Call | Literal["all"], Fault] = {}
    delay_s: Seconds | None = None
    rate: Count | None = None
    echo: bool | None = None
    away_s: Seconds | None = None
