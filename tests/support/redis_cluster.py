"""A Redis Cluster and a primary under Sentinels, of real servers on loopback, and what happens to them."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from gate.runtime.embedded_redis import binary
from gate.slots.cluster_map import slot_of
from tests.support.cluster_bus import ClusterBus
from tests.support.servers import free_port, wait_for
from tests.support.stores import other_redis

SLOTS = 16384
NODE_TIMEOUT_MS = 1000


class Node:
    """One server with a client for it."""

    def __init__(self, folder: Path, *options: str, words: Sequence[str] = (), client: dict[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self._options, self._words = folder, free_port(), options, words
        self._client_options = client or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=10, decode_responses=True, **self._client_options)

    def start(self) -> None:
        port = ["--tls-port" if self._client_options.get("ssl") else "--port", str(self.port)]
        listening = [*self._words, *port, "--bind", "127.0.0.1", "--protected-mode", "no", "--dir", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(other_redis() or binary()), *listening, *self._options], stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.answers, f"the server at {self.port} answers")

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: Any) -> Any:
        """The reply as it is: redis-py turns those of CLUSTER into objects."""
        connection = self.client.connection_pool.get_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            self.client.connection_pool.release(connection)

    def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        connection = self.client.connection_pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]
        finally:
            self.client.connection_pool.release(connection)

    def option(self, name: str) -> str:
        return self._options[self._options.index(name) + 1]

    @property
    def is_primary(self) -> bool:
        return self.client.info("replication")["role"] == "master"

    @property
    def node_id(self) -> str:
        return str(self.ask("CLUSTER", "MYID"))


class Cluster:
    """Primaries with a replica each, or with none."""

    def __init__(self, folder: Path, primaries: int = 3, replicas: int = 1, *options: str, **client: Any) -> None:
        common = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                  "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0", *options)  # fmt: skip
        self.bus, self.nodes = ClusterBus(), []
        for number in range(primaries * (1 + replicas)):
            source, port = f"127.0.0.{number + 11}", free_port()
            own = ("--cluster-port", str(port), "--bind-source-addr", source, "--cluster-announce-ip", "127.0.0.1",
                   "--cluster-announce-bus-port", str(self.bus.relay(source, port)))  # fmt: skip
            self.nodes.append(Node(folder / str(number), *own, *common, client=client))
        self._primaries = primaries
        self.scheme = "rediss" if client.get("ssl") else "redis"

    def url(self, login: str = "", options: str = "") -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])
        return f"{self.scheme}+cluster://{login}{hosts}{options}"

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        primaries, others = self.nodes[: self._primaries], self.nodes[self._primaries :]
        edges = [SLOTS * number // len(primaries) for number in range(len(primaries) + 1)]
        for number, (node, (first, after)) in enumerate(zip(primaries, itertools.pairwise(edges), strict=True)):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        for node in self.nodes[1:]:
            self.introduce(self.nodes[0], node)
        wait_for(
            lambda: all(len(node.ask("CLUSTER", "NODES").splitlines()) == len(self.nodes) for node in self.nodes), "all met"
        )
        for number, node in enumerate(others):
            of = primaries[number % len(primaries)].node_id
            wait_for(lambda node=node, of=of: _done(node, "CLUSTER", "REPLICATE", of), "it replicates")
        wait_for(self.is_well, "the cluster is well")

    @staticmethod
    def introduce(one: Node, other: Node) -> None:
        one.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.option("--cluster-announce-bus-port"))

    def is_well(self) -> bool:
        """All nodes agree about who is there, and each replica has its primary's data."""
        with contextlib.suppress(redis.RedisError):
            views = [node.ask("CLUSTER", "NODES").splitlines() for node in self.nodes]
            agreed = {frozenset((one[0], one[6], *one[8:]) for one in map(str.split, view)) for view in views}
            states = [node.ask("CLUSTER", "INFO") for node in self.nodes]
            facts = [node.client.info("replication") for node in self.nodes]
            linked = [one["role"] == "master" or one["master_link_status"] == "up" for one in facts]
            fails = any("fail" in line for view in views for line in view)
            return len(agreed) == 1 and all(linked) and all("cluster_state:ok" in one for one in states) and not fails
        return False

    def primary_of(self, pool: str) -> Node:
        return self.owner(slot_of(pool))

    def owner(self, slot: int) -> Node:
        return self.map()[slot]

    def map(self) -> list[Node]:
        """The node that has each slot: the one that says so of itself, under the highest epoch."""
        found = [self.nodes[0]] * SLOTS
        claims = []
        for node in self.nodes:
            if node.process is not None:
                mine = next(line.split() for line in node.ask("CLUSTER", "NODES").splitlines() if "myself" in line)
                claims.append((int(mine[6]), node, list(_ranges(mine[8:]))))
        for _, node, ranges in sorted(claims, key=lambda one: one[0]):
            for first, last in ranges:
                found[first : last + 1] = [node] * (last + 1 - first)
        return found

    def replica_of(self, primary: Node) -> Node:
        named = primary.node_id
        return next(
            node
            for node in self.nodes
            if node.process is not None and any("myself" in line and named in line.split()[3] for line in node.ask("CLUSTER", "NODES").splitlines())
        )  # fmt: skip

    def move(self, slots: Sequence[int], source: Node, to: Node, at_once: int = 100) -> None:
        """Move slots as redis-cli does; those without keys many at a time."""
        for these in (slots[first : first + at_once] for first in range(0, len(slots), at_once)):
            counts = source.ask_all([("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in these])
            self._move(source, to, [slot for slot, count in zip(these, counts, strict=True) if not count])
            for slot in (slot for slot, count in zip(these, counts, strict=True) if count):
                self._move(source, to, [slot])

    def move_at_once(self, first: int, last: int, source: Node, to: Node) -> None:
        """Move a range of slots as a whole, which Valkey 9 can; as `move` does on others."""
        try:
            source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", to.node_id)
        except redis.ResponseError as error:
            if "unknown subcommand" not in str(error):
                raise
            self.move(range(first, last + 1), source, to)
        wait_for(lambda: {*self.map()[first : last + 1]} == {to}, "the slots are moved")

    def _move(self, source: Node, to: Node, slots: list[int]) -> None:
        if not slots:
            return
        there, here = to.node_id, source.node_id
        to.ask_all([("CLUSTER", "SETSLOT", slot, "IMPORTING", here) for slot in slots])
        source.ask_all([("CLUSTER", "SETSLOT", slot, "MIGRATING", there) for slot in slots])
        for slot in slots:
            while names := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
                source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *names)
        to.ask_all([("CLUSTER", "SETSLOT", slot, "NODE", there) for slot in slots])
        source.ask_all([("CLUSTER", "SETSLOT", slot, "NODE", there) for slot in slots])

    def fail_over(self, primary: Node) -> Node:
        """A planned failover. Returns the new primary."""
        replica = self.replica_of(primary)
        replica.ask("CLUSTER", "FAILOVER")
        wait_for(lambda: replica.is_primary, "the replica is the primary")
        return replica

    def cut_off(self, node: Node) -> None:
        """Cut a primary off from the other nodes, not from its clients. It goes on as the primary that it was for a minute."""
        node.client.config_set("cluster-node-timeout", 60_000)
        replica = self.replica_of(node)
        self.bus.cut_off(node.option("--bind-source-addr"))
        wait_for(lambda: replica.is_primary, "the others have another primary")

    def rejoin(self, node: Node) -> None:
        """End what `cut_off` began."""
        self.bus.rejoin(node.option("--bind-source-addr"))
        node.client.config_set("cluster-node-timeout", NODE_TIMEOUT_MS)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
            node.client.close()
        self.bus.stop()


def _done(node: Node, *words: str) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(node.ask(*words) == "OK")
    return False


def _ranges(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    for word in words:
        if not word.startswith("["):
            first, _, last = word.partition("-")
            yield int(first), int(last or first)


class Sentinels:
    """A primary with a replica, and three Sentinels of them."""

    NAME = "gate"

    def __init__(self, folder: Path) -> None:
        common = ("--save", "", "--repl-diskless-sync-delay", "0")
        self.nodes = [Node(folder / f"redis-{number}", *common) for number in range(2)]
        self.sentinels = []
        for number in range(3):
            place = folder / f"sentinel-{number}"
            place.mkdir(parents=True)
            (place / "sentinel.conf").write_text(
                f"sentinel monitor {self.NAME} 127.0.0.1 {self.nodes[0].port} 2\n"
                f"sentinel down-after-milliseconds {self.NAME} 800\n"
                f"sentinel failover-timeout {self.NAME} 4000\n"
            )
            self.sentinels.append(Node(place, "--sentinel", words=(str(place / "sentinel.conf"),)))

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{self.NAME}"

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.nodes[1].ask("REPLICAOF", "127.0.0.1", self.nodes[0].port)
        for one in self.sentinels:
            one.start()
        wait_for(self.is_well, "the Sentinels know each other and the replica")

    def is_well(self) -> bool:
        facts = [one.client.sentinel_masters()[self.NAME] for one in self.sentinels]
        same = len({one["port"] for one in facts}) == 1
        return (
            same
            and all(one["num-other-sentinels"] == 2 and one["num-slaves"] >= 1 and one["flags"] == "master" for one in facts)
            and self._linked()
        )

    def _linked(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            facts = [node.client.info("replication") for node in self.nodes]
            roles = sorted(one["role"] for one in facts)
            return roles == ["master", "slave"] and all(one.get("master_link_status", "up") == "up" for one in facts)
        return False

    @property
    def primary(self) -> Node:
        port = self.sentinels[0].client.sentinel_masters()[self.NAME]["port"]
        return next(node for node in self.nodes if node.port == port)

    def fail_over(self) -> None:
        before = self.primary
        wait_for(lambda: _done(self.sentinels[0], "SENTINEL", "FAILOVER", self.NAME), "a failover begins")
        wait_for(lambda: self.primary is not before and not before.is_primary, "the primary is a replica")

    def stop(self) -> None:
        for node in (*self.sentinels, *self.nodes):
            node.kill()
            node.client.close()


def pools_of(cluster: Cluster, each: int, prefix: str) -> dict[Node, list[str]]:
    """Names of pools, `each` for each primary."""
    found: dict[Node, list[str]] = {}
    owners = cluster.map()
    primaries = set(owners)
    for number in itertools.count():
        own = found.setdefault(owners[slot_of(f"{prefix}{number}")], [])
        if len(own) < each:
            own.append(f"{prefix}{number}")
        if len(found) == len(primaries) and all(len(one) == each for one in found.values()):
            return found
    raise AssertionError
