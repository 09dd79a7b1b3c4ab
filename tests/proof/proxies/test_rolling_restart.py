"""Two gates behind nginx and HAProxy are restarted one after the other, and no call of any caller fails.

The callers repeat nothing. GATE_TEST_PROXIES=defaults has the times of the proxies and of gate as they are by default (half a minute);
else all of them are a fraction, so that the test fits.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from gate.runtime.settings import SHUTDOWN_DELAY_S
from tests.proof.proxies.callers import Callers
from tests.proof.proxies.fronts import fronts, programs, taken_in
from tests.proof.proxies.gates import gate_on
from tests.support.servers import free_port
from tests.support.wait import until

AS_THEY_ARE = os.environ.get("GATE_TEST_PROXIES") == "defaults"
DELAY_S = SHUTDOWN_DELAY_S if AS_THEY_ARE else SHUTDOWN_DELAY_S / 4
FAIL_S, CHECK_MS = (None, None) if AS_THEY_ARE else (1, 300)


def test_a_rolling_restart_fails_no_call(tmp_path: Path, stores: dict[str, str]) -> None:
    programs()
    ports = [free_port(), free_port()]
    delay = {"GATE_SHUTDOWN_DELAY_SECONDS": f"{DELAY_S:g}"}
    gates = [gate_on(tmp_path / f"gate{number}", stores, port, **delay) for number, port in enumerate(ports)]
    with gates[0], gates[1], fronts(tmp_path, ports, FAIL_S, CHECK_MS) as urls:
        gates[0].acquire(job_id="held")
        with Callers(urls) as callers:
            asyncio.run(until(lambda: sum(callers.answers.values()) > 100, "calls are answered"))
            for gate in gates:
                assert gate.stop() == 0
                gate.start()
                asyncio.run(until(lambda: taken_in(tmp_path), "HAProxy has taken it in again", within_s=60))
            before = sum(callers.answers.values())
            asyncio.run(until(lambda: sum(callers.answers.values()) > before + 100, "calls are answered"))
        print(dict(callers.answers))
        assert not callers.failed, (len(callers.failed), callers.failed[:10])
        for gate in gates:
            gate.process.send_signal(signal.SIGINT)
            assert gate.process.wait(20) == 0
