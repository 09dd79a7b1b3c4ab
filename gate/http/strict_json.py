"""Strict JSON for request bodies, and what of it is refused over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gate.http.auth import roles
from gate.model import strict_json
from gate.providers.parsing import tolerantly


class AmbiguousJson(HTTPException):
    """The body is JSON that parsers read differently (422).

    Attributes:
        field: The name at fault, or `body`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(422, message)
        self.field = field


class StrictRoute(APIRoute):
    """A route that reads its body as strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler: check the caller's role, then read the body."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            # The framework reads the body before it checks the caller. Callers without a key must be refused before that.
            roles.enter(request)
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise AmbiguousJson("body", "send it as it is, without a content-encoding")
        return (loads_end if self.url.path.endswith("/release") else loads)(await self.body())


def loads(text: bytes) -> Any:
    """Parse strict JSON.

    Args:
        text: The body, in UTF-8, UTF-16 or UTF-32.

    Raises:
        AmbiguousJson: Parsers read it differently.
        JSONDecodeError: It is no JSON.
    """
    try:
        return strict_json.loads(text.decode(json.detect_encoding(text), "surrogatepass"))
    except json.JSONDecodeError:
        raise
    except strict_json.Ambiguous as error:
        raise AmbiguousJson(error.field or "body", error.message) from error
    except UnicodeDecodeError as error:
        raise AmbiguousJson("body", f"it is not {error.encoding.upper()}, at byte {error.start}") from error
    except ValueError as error:  # Python refuses integers of several thousand digits.
        raise AmbiguousJson("body", "a number is too large") from error
    except RecursionError as error:
        raise AmbiguousJson("body", "it is nested too deep") from error


def loads_end(text: bytes) -> Any:
    """Parse the JSON of a request that ends a job. It is not refused for a text or number in it: see `tolerantly`.

    Args:
        text: The body.

    Raises:
        AmbiguousJson: A name comes twice in an object, or the text cannot be decoded.
        JSONDecodeError: It is no JSON.
    """
    try:
        return loads(text)
    except AmbiguousJson:
        pass
    try:
        return tolerantly(text, object_pairs_hook=strict_json.once)
    except json.JSONDecodeError:
        raise
    except strict_json.Ambiguous as error:
        raise AmbiguousJson(error.field or "body", error.message) from error
    except ValueError as error:
        raise AmbiguousJson("body", "it is not JSON") from error
