"""The shape of a table of examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gate.model.messages import AnswerState, ErrorKind, Outcome, Room
from gate.providers.callback import Callback

KEY = "sk-0123456789abcdef0123456789abcdef"
"""The key of every question."""


@dataclass(frozen=True)
class Reply:
    """A reply: its body is JSON, or bytes as they are."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        """The body as bytes."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Example:
    """One exchange: the reply, the further reply if there is one, and what they mean."""

    state: AnswerState
    replies: tuple[Reply, ...]
    outcome: Outcome | None = None
    kind: ErrorKind | None = None
    error: str | None = None
    output: Any = None
    retry_s: float | None = None
    is_without_output: bool = False


@dataclass(frozen=True)
class Examples:
    """The examples of a page.

    Attributes:
        task_id: The task of all of them.
        ask: Exchanges about the task, by what they show.
        stop: Exchanges that stop it.
        count: Exchanges that count, with the room or the state that they give.
        callbacks: Callbacks, by the example of `ask` that tells of the same end. None when the provider has none.
    """

    task_id: str
    ask: dict[str, Example]
    stop: dict[str, Example]
    count: dict[str, tuple[tuple[Reply, ...], Room | AnswerState]] | None
    callbacks: dict[str, Callback] | None
