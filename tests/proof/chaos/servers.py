"""`gate serve` as something that breaks: on a port of its own, killed, stood still, started again."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from tests.proof.chaos.points import AT, PASS
from tests.support.gate_process import Served
from tests.support.servers import READY_S, free_port
from tests.support.warm import Warm


class Server(Served):
    """Its address stays the same through every restart. `redis_url` None: the embedded one, which dies with it."""

    def __init__(self, folder: Path, config: str, redis_url: str | None, sql_url: str | None) -> None:
        folder.mkdir()
        self.port = free_port()
        environment = {"GATE_REDIS_URL": redis_url, "GATE_DATABASE_URL": sql_url}
        given = {name: value for name, value in environment.items() if value is not None}
        super().__init__(folder, "--port", str(self.port), config=config, on_defaults=True, **given)
        self.address = f"http://127.0.0.1:{self.port}"
        self.frozen = False
        self.warm: Warm | None = None

    def exit_at(self, point: str, nth: int, **environment: str) -> None:
        """From the next start on it exits there, if it is a warm one of tests.proof.chaos.crashing; '' nowhere."""
        self._environment |= {AT: point, PASS: str(nth)} | environment

    def _launched(self, words: list[str], environment: dict[str, str]) -> Any:
        if self.warm is None:
            return super()._launched(words, environment)
        return self.warm.start(words, self.folder, environment, self.errors)

    def start_until_it_does(self) -> None:
        """As a service manager does: a store may be away at the moment."""
        give_up = time.monotonic() + READY_S
        while True:
            try:
                return self.start()
            except AssertionError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    @property
    def answers(self) -> bool:
        return self.process.poll() is None and not self.frozen

    def log(self) -> list[str]:
        return (self.folder / "errors.log").read_text(errors="replace").splitlines()

    def away(self) -> None:
        """However it stands: it ends, and what is left of it too."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.kill()
