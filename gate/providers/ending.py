"""The end of a task, and the report of it. Callbacks and replies to questions share it, so that both give the same report."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, NamedTuple

from gate.model.messages import Answer, AnswerState, ErrorKind, Outcome, ProviderReport

NO_OUTPUT: Final = "the task succeeded without output"
NO_REASON: Final = "the task failed, no reason was given"


class Ending(NamedTuple):
    """The end of a task.

    Attributes:
        outcome: How the task ended.
        error: The provider's reason.
        output: Result of the task.
        understood: As in `ProviderReport`.
        error_kind: As in `ProviderReport`.
        is_without_output: As in `Answer`.
    """

    outcome: Outcome
    error: str | None
    output: Any = None
    understood: bool = True
    error_kind: ErrorKind | None = None
    is_without_output: bool = False


def failure(error: str | None, kind: ErrorKind, output: Any = None) -> Ending:
    """Make the end of a task that failed."""
    return Ending("failed", error or NO_REASON, output, error_kind=kind)


def success(output: tuple[dict[str, Any], bool] | None, nothing: str = NO_OUTPUT, costs: Any = None) -> Ending:
    """Make the end of a task that succeeded. Without an output it is a failure, and its charge is given back.

    Args:
        output: The output, and whether its shape is known; None for no output.
        nothing: Error of a success without output.
        costs: Output of a success without output.
    """
    if output is None:
        return Ending("failed", nothing, costs, error_kind=ErrorKind.UNKNOWN, is_without_output=True)
    return Ending("completed", None, *output)


def report_of(task_id: str, ending: Ending, delivery_id: str | None = None) -> ProviderReport:
    """Make the report of an end.

    Args:
        task_id: The task.
        ending: Its end.
        delivery_id: The provider's own id of the callback, when its signature covers it. Without one it is a hash of the
            meaning, so that a repeat has the same.
    """
    outcome, error, output, understood, kind, _ = ending
    if delivery_id is None:
        meant = [task_id, outcome, error, output]
        delivery_id = hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
    return ProviderReport(outcome, delivery_id, task_id, None, error, output, understood, kind)


def end_answer(task_id: str, ending: Ending, why: str) -> Answer:
    """Make the answer about a task that has ended.

    Args:
        task_id: The task.
        ending: Its end.
        why: The provider's word for it.
    """
    return Answer(AnswerState.ENDED, why, report_of(task_id, ending), is_without_output=ending.is_without_output)
