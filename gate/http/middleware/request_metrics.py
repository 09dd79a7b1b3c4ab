"""Metrics of requests: the number of answers of each route, and the time until each answer began.

The label is the path of the route, never the path of the request: unknown paths would make labels without end. They count as
`other`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gate.telemetry import counters

OTHER: Final = ("other", "other")


class RequestMetrics:
    """ASGI middleware that counts answers and measures the time until they begin."""

    def __init__(self, app: ASGIApp, known: Iterable[tuple[str, str]]) -> None:
        """Start the counters.

        Args:
            app: The application.
            known: Method and path of each route.
        """
        self._app, known = app, list(known)
        # By the number of slashes and the last part of the path: on the fast path no router names the route of a request.
        self._short = {
            (path.count("/"), path.rpartition("/")[2]): (method, path)
            for method, path in known
            if path.startswith("/v1/pools/{pool}/") and method == "POST"
        }
        for route in (*known, OTHER):  # Start each counter at 0: Prometheus sees no increase from a missing counter.
            counters.answers.setdefault(route, counters.Answers())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and count its answer when it begins."""
        began = time.monotonic()

        def counted(message: Message) -> Awaitable[None]:  # Not `async`: it saves one coroutine for each message.
            if message["type"] == "http.response.start":
                answers = counters.answers[self._route(scope)]
                answers.by_class[message["status"] // 100] += 1
                answers.seconds.add(time.monotonic() - began)
            return send(message)

        await self._app(scope, receive, counted)

    def _route(self, scope: Scope) -> tuple[str, str]:
        route = scope.get("route")
        if route is not None:
            found = (scope["method"], route.path)
            return found if found in counters.answers else OTHER
        path = scope["path"]
        if not path.startswith("/v1/pools/"):
            return OTHER
        found = self._short.get((path.count("/"), path.rpartition("/")[2]), OTHER)
        return found if found[0] == scope["method"] else OTHER
