"""A stand-in for a provider on loopback. It answers with the examples of the provider's page."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

from tests.unit.providers.examples import ALL
from tests.unit.providers.examples.shape import Reply

NOT_THERE = Reply(b"", 404)


class Call(NamedTuple):
    """A request that the stand-in got."""

    method: str
    path: str
    authorization: str


class StandIn:
    """A provider with one task.

    Attributes:
        ask: The example of `Examples.ask` that questions are answered with.
        stop: The example of `Examples.stop` that a stop is answered with. The task is cancelled then.
        calls: The requests so far.
        url: Address of the provider.
    """

    def __init__(self, name: str, ask_path: str, stop_path: str, stop: str) -> None:
        """`ask_path` and `stop_path` are the paths of a question and of a stop. Any other GET is the further request of a question."""
        self.ask, self.stop = "running", stop
        self.calls: list[Call] = []
        self._examples, self._ask_path, self._stop_path = ALL[name], ask_path, stop_path
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def reply(self, method: str, path: str) -> Reply:
        """Return the reply to a request, and cancel the task if that stops it."""
        if path == self._stop_path and method in ("POST", "PUT"):
            self.ask = "cancelled"
            return self._examples.stop[self.stop].replies[0]
        replies = self._examples.ask[self.ask].replies if method == "GET" else ()
        place = 0 if path == self._ask_path else 1
        return replies[place] if place < len(replies) else NOT_THERE

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                provider.calls.append(Call(self.command, self.path, self.headers.get("authorization", "")))
                reply = provider.reply(self.command, self.path)
                self.send_response(reply.status)
                for name, value in {**reply.headers, "content-length": str(len(reply.raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.raw)

            do_GET = do_POST = do_PUT = _answer

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
