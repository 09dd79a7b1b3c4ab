"""A tool's side, as gate calls it: an address that keeps what came, checks its signature, and answers as a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook

SECRET = "whsec_dGhpcyBpcyBhIHNlY3JldCBvZiB0aGUgdGVzdHM="


@dataclass(frozen=True, slots=True)
class Call:
    """`at` and `until` are seconds of time.monotonic(), when it came and when it was answered."""

    path: str
    webhook_id: str
    body: dict[str, Any]
    at: float
    until: float

    @property
    def job(self) -> dict[str, Any]:
        return self.body["data"]


class Tool:
    """`answer` is given the body of a start call, and returns a status and a body; events are answered 204.

    Every answer has `headers` too.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.headers: dict[str, str] = {}
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = lambda body: (
            200,
            {"task_id": "t-" + body["data"]["job_id"]},
        )
        self.events_answer: Callable[[dict[str, Any]], int] = lambda body: 204
        tool = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                came = time.monotonic()
                body = Webhook(SECRET).verify(raw, {name.lower(): value for name, value in self.headers.items()})
                said: Any = None
                status, said = (tool.events_answer(body), None) if self.path == "/events" else tool.answer(body)
                tool.calls.append(Call(self.path, self.headers["webhook-id"], body, came, time.monotonic()))
                content = b"" if said is None else json.dumps(said).encode()
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("content-length", str(len(content)))
                    for name, value in tool.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_words: object) -> None:
                return None

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_about: object) -> None:
                return None  # the caller has died, as the test wanted

        self._server = Server(("127.0.0.1", 0), Handler)
        weakref.finalize(self, self._server.server_close)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def config(self, table: str = "upscaler_jobs", provider: str | None = "runninghub", events: bool = True) -> str:
        lines = [f"[tools.{table}]", f'start_url = "{self.url}/start"', f'secret = "{SECRET}"']
        lines += [f'events_url = "{self.url}/events"'] if events else []
        lines += [f'provider = "{provider}"'] if provider else []
        return "\n".join(lines) + "\n"

    def starts(self, job_id: str | None = None) -> list[Call]:
        return [call for call in list(self.calls) if call.path == "/start" and job_id in (None, call.job["job_id"])]

    def told(self, job_id: str) -> list[str]:
        """The types of the events about a job, in the order they came."""
        return [call.body["type"] for call in list(self.calls) if call.path == "/events" and call.job["job_id"] == job_id]

    @contextlib.contextmanager
    def running(self) -> Iterator[Tool]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
