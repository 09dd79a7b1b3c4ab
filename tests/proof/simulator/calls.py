"""Calls of the simulated provider by one key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2

from gate.simulator import Simulator

CERTIFICATES = httpx2.create_ssl_context()
"""Loaded once, because each client that loads its own takes longer than the call."""
TIMEOUT_S = 5
"""Time (s) after which a call without a response is an error."""


@dataclass(frozen=True)
class Caller:
    """A holder of a key.

    Attributes:
        simulator: The provider.
        key: The key.
    """

    simulator: Simulator
    key: str = "k"

    def v1(self, verb: str, **body: Any) -> httpx2.Response:
        """Make a call of v1, with the key in the body."""
        return self._send("POST", f"/task/openapi/{verb}", {"apiKey": self.key} | body)

    def v2(self, method: str, path: str, **body: Any) -> httpx2.Response:
        """Make a call of v2, with the key in the header."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return self._send(method, f"/openapi/v2/{path}", body if method == "POST" else None, headers)

    def run(self, webhook_url: str | None = None, **plan: Any) -> str:
        """Start a task, and return its id."""
        return str(self.v1("run", webhookUrl=webhook_url, gateTest={"seconds": 60} | plan).json()["data"]["taskId"])

    def query(self, task: str) -> dict[str, Any]:
        """Ask v2 about a task."""
        body: dict[str, Any] = self.v2("POST", "query", taskId=task).json()
        return body

    def outputs(self, task: str) -> dict[str, Any]:
        """Ask v1 for the outputs of a task."""
        body: dict[str, Any] = self.v1("outputs", taskId=task).json()
        return body

    def cancel(self, task: str) -> int:
        """Cancel a task, and return the code of the reply."""
        return int(self.v1("cancel", taskId=task).json()["code"])

    def queue(self) -> dict[str, Any]:
        """Return the queue status of v2."""
        body: dict[str, Any] = self.v2("GET", "queue/status").json()
        return body

    def account(self) -> dict[str, Any]:
        """Return the account status of v1."""
        body: dict[str, Any] = self._send("POST", "/uc/openapi/accountStatus", {"apikey": self.key}).json()
        return body

    def seen(self) -> dict[str, Any]:
        """Return what the provider has seen of this key."""
        account: dict[str, Any] = self.simulator.seen()["keys"][self.key]
        return account

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx2.Response:
        url = f"{self.simulator.url}{path}"
        return httpx2.request(method, url, json=body, headers=headers, timeout=TIMEOUT_S, verify=CERTIFICATES)
