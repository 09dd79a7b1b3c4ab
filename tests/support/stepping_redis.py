"""A real Redis whose clock a test steps: everything that the server does with time follows."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

from tests.support.needs import missing
from tests.support.servers import RedisServer, wait_for

SOURCE = Path(__file__).with_name("stepped_clock.c")


class SteppingRedis(RedisServer):
    """`kind` as in RedisServer. Its monotonic clock does not step, as on a machine whose clock is set."""

    def __init__(self, kind: str, folder: Path) -> None:
        if not shutil.which("cc"):
            missing("no C compiler is installed")
        super().__init__(kind, folder)
        library, self._ahead = folder / "clock.so", folder / "ahead"
        subprocess.run(["cc", "-shared", "-fPIC", "-nostdlib", "-O1", "-o", library, SOURCE], check=True)
        self._ahead.write_bytes(struct.pack("q", 0))
        self.environment = os.environ | {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(self._ahead)}

    def step_to(self, ahead_s: int) -> None:
        """Put the server's clock this far (s) ahead of the machine's, and return when it shows that: Valkey caches its clock."""
        with self._ahead.open("r+b") as file:  # in place: the server has this file mapped
            file.write(struct.pack("q", ahead_s))
        wait_for(lambda: abs(int(self.cli("TIME").split()[0]) - time.time() - ahead_s) < 2, "the clock shows the step")
