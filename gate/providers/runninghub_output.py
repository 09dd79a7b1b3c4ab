"""The output of a RunningHub event: its files, texts and costs, wherever the event has them.

Files are in `results` or `data`, or below that in `outputFileList`. They are a list or one value. Each is an object with
`url` or `fileUrl`, or a bare address. The kind of a file is `outputType` in the new shape, and `fileType` in the old one.
"""

from __future__ import annotations

from typing import Any, Final

from gate.providers.output import URLS, gather, raw_of
from gate.providers.parsing import carries, kept_output, number

INSIDE: Final = (*URLS, "outputFileList", "results", "data", "outputs", "files")
"""Fields of an object that may hold further files."""
NO_OUTPUT_FIELDS: Final = frozenset(
    ("taskId", "taskStatus", "status", "code", "msg", "message", "errorCode", "errorMessage", "failedReason", "usage",
     "taskUsageList", "taskCostTime", "clientId", "promptId", "promptTips", "netWssUrl")
)  # fmt: skip
"""Fields of an event that describe the task and are no output of it."""
USAGE_MAX_BYTES: Final = 4 * 1024
"""Size (bytes) of `usage` that is kept. A real one has some hundred bytes."""
USAGE_LIST_MAX_BYTES: Final = 12 * 1024
"""Size (bytes) of `taskUsageList` that is kept. It has one `usage` for each part of a task, and there are few."""


def output_of(event: dict[str, Any]) -> tuple[dict[str, Any], bool] | None:
    """Read the output of a success.

    Returns:
        The output, and whether its shape is known. A known output is
        `{"files": [{url, type, …}], "texts"?, "coins"?, "usage"?, "taskUsageList"?, "cut"?}`. An unknown one has no files,
        and the event itself under `raw`. None when the event has no output.
    """
    output = gather([event.get("results"), event.get("data")], costs_of(event), INSIDE)
    if output["files"] or "texts" in output:
        return output, True
    if not any(_is_output(name, value) for name, value in event.items()):
        return None
    return {"files": [], "raw": raw_of(event), **costs_of(event)}, False


def costs_of(event: dict[str, Any]) -> dict[str, Any]:
    """Read the costs of a task.

    Returns:
        `coins` as a number, and `usage` and `taskUsageList` with a bounded size. Each is there only when the event has it.
    """
    costs: dict[str, Any] = {}
    usage, parts = event.get("usage"), event.get("taskUsageList")
    if isinstance(usage, dict) and (coins := number(usage.get("consumeCoins"))) is not None:
        costs["coins"] = coins
    if usage not in (None, "", [], {}):
        costs["usage"] = kept_output(usage, USAGE_MAX_BYTES)
    if parts not in (None, "", [], {}):
        costs["taskUsageList"] = kept_output(parts, USAGE_LIST_MAX_BYTES)
    return costs


def _is_output(name: str, value: Any) -> bool:
    if name in ("results", "data"):
        return carries(value)
    return name not in NO_OUTPUT_FIELDS and isinstance(value, str | dict | list) and carries(value)
