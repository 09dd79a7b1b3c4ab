"""Counts every answer by its route, and how long it took until it began. By the route as it is written, never by what was asked for: a
path that nobody knows is `other`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gate.http.auth.roles import TABLE
from gate.telemetry import counters

OTHER: Final = ("other", "other")
_short: Final = {
    (path.count("/"), path.rpartition("/")[2]): (method, path)
    for method, path in TABLE
    if path.startswith("/v1/pools/{pool}/") and method == "POST"
}
"""By the number of their slashes and their last part: what goes the short way meets no router that would name its route."""


class RequestMetrics:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        for route in (*TABLE, OTHER):  # a figure that is not there yet cannot be seen to rise
            counters.answers.setdefault(route, counters.Answers())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()

        def seen(message: Message) -> Awaitable[None]:  # hands on what `send` gives: a step less for each message
            if message["type"] == "http.response.start":
                answers = counters.answers[_route(scope)]
                answers.by_class[message["status"] // 100] += 1
                answers.seconds.add(time.monotonic() - began)
            return send(message)

        await self._app(scope, receive, seen)


def _route(scope: Scope) -> tuple[str, str]:
    route = scope.get("route")
    if route is not None:
        found = (scope["method"], route.path)
        return found if found in counters.answers else OTHER
    path = scope["path"]
    if not path.startswith("/v1/pools/"):
        return OTHER
    found = _short.get((path.count("/"), path.rpartition("/")[2]), OTHER)
    return found if found[0] == scope["method"] else OTHER
