"""The server that gate runs in, with an application that answers at once with the same bytes: no framework, no model, nobody asked for a
key. What no application in it can exceed on this machine.
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.peers.bytes import BODY

HEADERS = [(b"content-length", b"%d" % len(BODY)), (b"content-type", b"application/json")]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def serve(application: ASGIApp) -> None:
    """On the port that is the program's argument; the no-op's server too."""
    uvicorn.run(
        application,
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        lifespan="off",
        http="httptools",
        loop="uvloop",
    )


if __name__ == "__main__":
    serve(app)
