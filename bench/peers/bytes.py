"""Answers whatever comes with the same bytes: how much the load itself can do."""

from __future__ import annotations

import asyncio
import sys

import uvloop

BODY = b'{"job_id":"j","status":"running","lease":{"lease_id":"' + b"f" * 32 + b'"}}' + b" " * 600
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
