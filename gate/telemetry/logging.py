"""Logs on stderr: readable lines on a terminal, elsewhere one JSON object a line. Logs of libraries take the same way.

Names, reasons and errors in a log come from callers. Their line breaks and control characters are escaped. Otherwise a caller
could forge a log line, move a terminal's cursor or reverse the direction of text. Secrets are removed from every field.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import traceback
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SECRETS = re.compile(
    r"(://[^\s:/@]*:)[^\s'\"\\]+(?=@)"
    r"|(gate_(?:tool|admin|read)_|whsec_|(?i:bearer)\s+|[?&]\w*(?:token|key|password|secret)=)[^\s&'\"\\]+"
)
"""Keys of gate, signing secrets, and secrets in the query or before the @ of an address."""
PARAMETERS = re.compile(r"\[parameters: .*")
"""Parameters that SQLAlchemy adds to an error. Leases and payloads are among them."""


class _Patient:
    """Writes to a stream. What cannot be written, because its disk is full, is dropped: no worker ends over a line of its log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(level: int = logging.INFO) -> None:
    """Configure the logs of this process. Call it once.

    Args:
        level: Lowest level that gate logs. Logs of libraries are kept from `warning` up, even when it is lower.
    """
    pretty = sys.stderr.isatty()
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), _traced]
    last: list[Processor] = [_for_people, structlog.dev.ConsoleRenderer()] if pretty else [_as_json]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Patient(sys.stderr))),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # psycopg raises whatever it warns of, so a warning is a duplicate
    root = logging.getLogger()
    root.handlers, root.level = [handler], max(level, logging.WARNING)


def _traced(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the exception as text, without the values of variables: passwords and leases are among them."""
    error: Any = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        text = "".join(traceback.format_exception(error)).removesuffix("\n")
        event["exception"] = PARAMETERS.sub("[parameters: ***", text)
    return event


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _escaped(json.dumps(_bare(event), ensure_ascii=False, default=repr))


def _for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    shown = {name: _escaped(value) if isinstance(value, str) else value for name, value in _bare(event).items()}
    if isinstance(trace := event.get("exception"), str):
        # Indented, so that no line of the traceback looks like the start of a log line.
        shown["exception"] = "\n".join("    " + _escaped(line) for line in _bare(trace).split("\n"))
    return shown


def _bare(value: Any) -> Any:
    """Return the value without secrets, at every level of it."""
    if isinstance(value, str):
        return SECRETS.sub(r"\1\2***", value)
    if isinstance(value, bytes):
        return _bare(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, dict):
        return {_bare(name) if isinstance(name, str) else str(name): _bare(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_bare(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float)) else _bare(str(value))


def _escaped(text: str) -> str:
    """Escape characters that cannot be printed as JSON does. Inside a JSON string the result is the same string."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
