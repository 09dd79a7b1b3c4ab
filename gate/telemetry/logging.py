"""Logs on stderr: for people on a terminal, elsewhere one JSON object a line. What uvicorn and other libraries say goes the same way.

Names, reasons and errors are others' words. No line break and no control character of theirs gets out as such: nobody can write a line
of ours, move a terminal's cursor, or turn the direction of what is read. And what must not be read is taken out, wherever it stands.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SECRETS = re.compile(
    r"(gate_(?:tool|admin|read)_|whsec_|(?i:bearer)\s+|[?&](?:token|key|apikey|password|secret)=|://[^\s:/@]*:)[^\s&@'\"\\]+"
)
"""Keys of ours, signing secrets, what stands in a query or before the @ of an address."""
PARAMETERS = re.compile(r"\[parameters: .*")
"""What SQLAlchemy adds to an error: leases and payloads are among them."""


def configure(level: int = logging.INFO) -> None:
    """For this process, once: `level` and above."""
    pretty = sys.stderr.isatty()
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), _traced]
    last: list[Processor] = [_for_people, structlog.dev.ConsoleRenderer()] if pretty else [_as_json]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of is raised as well
    root = logging.getLogger()
    root.handlers, root.level = [handler], max(level, logging.WARNING)


def _traced(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The exception as text. Never with the values of variables: passwords and leases are among them."""
    error: Any = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        told = "".join(traceback.format_exception(error)).removesuffix("\n")
        event["exception"] = PARAMETERS.sub("[parameters: ***", told)
    return event


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _escaped(json.dumps(_bare(event), ensure_ascii=False, default=repr))


def _for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    shown = {name: _escaped(value) if isinstance(value, str) else value for name, value in _bare(event).items()}
    if isinstance(trace := event.get("exception"), str):
        # Set in, so that a line of it never stands where a line of ours begins.
        shown["exception"] = "\n".join("    " + _escaped(line) for line in _bare(trace).split("\n"))
    return shown


def _bare(value: Any) -> Any:
    """Without secrets, whatever it is made of."""
    if isinstance(value, str):
        return SECRETS.sub(r"\1***", value)
    if isinstance(value, bytes):
        return _bare(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, dict):
        return {_bare(name) if isinstance(name, str) else str(name): _bare(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_bare(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float)) else _bare(str(value))


def _escaped(text: str) -> str:
    """What cannot be printed as JSON writes it: within a string of JSON that is the same string."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
