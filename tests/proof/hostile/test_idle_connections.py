"""An idle connection stays open for longer than uvicorn's five seconds. A proxy sends the next request into it."""

from __future__ import annotations

import contextlib
import http.client
import time

from gate.runtime.serve import KEEP_ALIVE_S
from tests.support.gate_process import Served

LONGEST_OF_PROXIES_S = 120
"""Idle time (s) of Caddy, the longest of those that docs/operating.md names."""


def test_a_connection_that_was_idle_for_six_seconds_takes_a_request(served: Served) -> None:
    assert KEEP_ALIVE_S > LONGEST_OF_PROXIES_S
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as proxy:
        for pause_s in (6.5, 0):
            proxy.request("GET", "/healthz")
            answer = proxy.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"status":"alive"}')
            assert proxy.sock is not None
            proxy.auto_open = 0  # a new connection would prove nothing
            time.sleep(pause_s)  # the connection is idle
