"""What kind of Redis an address leads to, over TLS and with the least rights too, and what is refused at the start."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.diagnostics.redis_primaries import described
from gate.diagnostics.verify import verify
from gate.model import redis_address
from gate.model.errors import CannotStart, StoreDown
from gate.runtime.wiring import open_gate
from gate.slots.sentinels import Sentinels
from tests.proof.cluster.load import Load
from tests.support.needs import missing
from tests.support.paths import ROOT
from tests.support.redis_cluster import Cluster, Node
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio

ACL = next(line for line in (ROOT / "docs" / "redis" / "gate.acl").read_text().splitlines() if line.startswith("user gate "))


@contextlib.contextmanager
def started(*nodes: Node) -> Iterator[None]:
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            node.kill()
            node.client.close()


async def test_single_address_of_a_cluster_is_found_to_be_one(tmp_path: Path, sql_url: str) -> None:
    cluster = Cluster(tmp_path / "cluster", 2, 0)
    try:
        cluster.start()
        url = f"redis://127.0.0.1:{cluster.nodes[1].port}"
        async with open_gate(url, sql_url, {name: settings_of() for name in "abcd"}) as gate:
            assert gate.redis.endswith(", a cluster of 2 primaries")
            for pool in "abcd":
                await Load([gate]).pair(gate, pool)
        assert verify(sql_url, url).breaches == []
        places = ", ".join(sorted(f"127.0.0.1:{node.port}" for node in cluster.nodes))
        assert described(url, 5) == f"Redis: a cluster; the primaries are {places}" == described(cluster.url(), 5)
        for wrong in (f"{url}/1", url.replace("redis://", "redis+cluster://") + "/1"):
            with pytest.raises(CannotStart, match=r"database 0 alone|DB index is out of range"):
                async with open_gate(wrong, sql_url):
                    pass
    finally:
        cluster.stop()


async def test_cluster_over_tls_needs_three_commands_more(
    tmp_path: Path, sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if None in (shutil.which("openssl"), shutil.which("redis-server")):
        missing("needs openssl and a Redis that speaks TLS")
    monkeypatch.setenv("GATE_TEST_REDIS_SERVER", "redis-server")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    tls = (
        "--port",
        "0",
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        cert,
        "--tls-auth-clients",
        "no",
        "--tls-cluster",
        "yes",
    )
    cluster = Cluster(tmp_path / "cluster", 2, 0, *tls, ssl=True, ssl_ca_certs=cert)
    try:
        cluster.start()
        for node in cluster.nodes:
            _, name, *rules = ACL.split()
            node.ask("ACL", "SETUSER", name, *rules, "+cluster|info", "+cluster|nodes", "+cluster|slots")
        url = cluster.url("gate:change-me-gate@", f"?ssl_ca_certs={cert}")
        async with open_gate(url, sql_url, {name: settings_of() for name in "abcd"}) as gate:
            for pool in "abcd":
                await Load([gate]).pair(gate, pool)
    finally:
        cluster.stop()


async def test_what_is_no_cluster_and_no_sentinel_is_refused_in_one_line(tmp_path: Path, sql_url: str) -> None:
    primary, replica = Node(tmp_path / "one"), Node(tmp_path / "two")
    place = tmp_path / "sentinel"
    place.mkdir()
    (place / "sentinel.conf").write_text(f"sentinel monitor gate 127.0.0.1 {primary.port} 2\n")
    alone = Node(place, "--sentinel", words=(str(place / "sentinel.conf"),))
    with started(primary, replica, alone):
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        refusals = {
            f"redis+cluster://127.0.0.1:{primary.port}": "no node of a Redis Cluster answers",
            f"redis+sentinel://127.0.0.1:{alone.port}/gate": "cannot agree on a primary",
            f"redis+sentinel://127.0.0.1:{alone.port}/other": "cannot agree on a primary",
            f"redis+sentinel://127.0.0.1:{primary.port}/gate": "cannot agree on a primary",
            f"redis://127.0.0.1:{alone.port}": "is a Sentinel: write",
            f"redis://127.0.0.1:{replica.port}": "is a replica",
        }
        for url, why in refusals.items():
            with pytest.raises((CannotStart, StoreDown)) as refused:
                async with open_gate(url, sql_url):
                    pass
            assert why in str(refused.value) and len(str(refused.value).splitlines()) == 1, url


async def test_newest_configuration_of_the_sentinels_counts(tmp_path: Path) -> None:
    """One of them was cut off from the others, and names a former primary."""
    nodes = []
    for number, (port, epoch) in enumerate(((7001, 3), (7002, 5), (7001, 3))):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "sentinel.conf").write_text(
            f"sentinel monitor gate 127.0.0.1 {port} 2\nsentinel config-epoch gate {epoch}\n"
        )
        nodes.append(Node(place, "--sentinel", words=(str(place / "sentinel.conf"),)))
    with started(*nodes):
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}/gate"
        address = redis_address.several(url, "")
        assert address is not None
        sentinels = Sentinels(address)
        assert await sentinels.get_master_address() == ("127.0.0.1", 7002)
        await sentinels.aclose()
