"""JSON as it is meant: a name that comes twice, NaN, and numbers beyond all bounds are refused, not guessed at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gate.http.auth import roles
from gate.providers.parsing import tolerantly


class AmbiguousJson(HTTPException):
    """It is JSON to some reader, and no two would read it alike. `field` is the name at fault, or `body`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(422, message)
        self.field = field


class StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            roles.enter(request)  # before its body is read: the framework reads that first
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise AmbiguousJson("body", "send it as it is, without a content-encoding")
        return (loads_end if self.url.path.endswith("/release") else loads)(await self.body())


def loads(text: bytes) -> Any:
    """Raises NotMeant; JSONDecodeError, when it is no JSON."""
    try:
        return _decoder.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise AmbiguousJson("body", f"it is not {error.encoding.upper()}, at byte {error.start}") from error
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise AmbiguousJson("body", "a number is too large") from error
    except RecursionError as error:
        raise AmbiguousJson("body", "it is nested too deep") from error


def loads_end(text: bytes) -> Any:
    """Of a request that ends a job, and so is not refused for its text: see `tolerantly`.

    Raises NotMeant; JSONDecodeError, when it is no JSON.
    """
    try:
        return loads(text)
    except AmbiguousJson:
        pass
    try:
        return tolerantly(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise AmbiguousJson("body", "it is not JSON") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise AmbiguousJson(name if name.isprintable() else "body", "is named twice")
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise AmbiguousJson("body", f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise AmbiguousJson("body", "a number is too large")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
