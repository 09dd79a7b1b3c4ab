"""The threads of a server share the heaps of malloc, so its memory does not grow with the number of threads."""

from __future__ import annotations

import itertools
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gate.runtime.shared_heaps import HEAPS
from tests.support.gate_process import Served

HEAP_BYTES = 64 * 2**20
"""Address space (bytes) that glibc reserves for each heap but the first, and the alignment of it."""


def heaps(pid: int) -> int:
    """Heaps of malloc that a process has: the first, and each reserved range, whose used part comes before the rest."""
    ranges = [
        (*(int(end, 16) for end in words[0].split("-")), words[1])
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if (words := line.split())
    ]
    return 1 + sum(
        begin % HEAP_BYTES == 0
        and rest_ends == begin + HEAP_BYTES
        and end == rest_begins
        and (mode, rest) == ("rw-p", "---p")
        for (begin, end, mode), (rest_begins, rest_ends, rest) in itertools.pairwise(ranges)
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_threads_of_a_server_share_the_heaps(tmp_path: Path) -> None:
    with Served(tmp_path) as served, ThreadPoolExecutor(8) as clients:
        reads = [clients.submit(served.http.get, "/v1/ledger") for _ in range(64)]
        assert {one.result().status_code for one in reads} == {200}
        assert len(list(Path(f"/proc/{served.process.pid}/task").iterdir())) > 2 * HEAPS
        assert heaps(served.process.pid) <= HEAPS
