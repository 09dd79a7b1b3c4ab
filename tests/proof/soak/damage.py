"""Damage made by hand with redis-cli and SQL while no gate runs; then what `gate doctor` says, what it mends, and what is left.

python -m tests.proof.soak.damage
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.gate_process import Served, run_gate
from tests.support.servers import RedisServer

CONFIG = "lease_seconds = 3000\nclaim_seconds = 3000\n"
LONG_AGO_MS = 1_000


def key(role: str) -> str:
    return f"gate:{{default}}:{role}"


@dataclass(frozen=True, slots=True)
class Damage:
    about: str
    says: str
    commands: tuple[tuple[str, ...], ...]


def damage(holders: list[str], waiters: list[str], ended: str) -> list[Damage]:
    """One kind each; `about` is what the doctor has to name."""
    stranger = {"ticket": "7", "queued_at": LONG_AGO_MS, "lease_ms": 60_000, "fence": "7", "granted_at": LONG_AGO_MS,
                "lease_id": "f" * 32, "claimed": True, "due": 9_999_999_999_999, "hard": 9_999_999_999_999}  # fmt: skip
    leftover = {"ticket": "8", "queued_at": LONG_AGO_MS, "lease_ms": 60_000}
    return [
        Damage(holders[0], "the job holds a lease in SQL that Redis has lost", (("ZREM", key("slots"), holders[0]),)),
        Damage(holders[1], "the job holds a lease in SQL that Redis has lost", (("HDEL", key("jobs"), holders[1]),)),
        Damage(waiters[0], "the job waits in SQL, but is not in Redis", (
            ("LREM", key("queue"), "0", waiters[0]), ("HDEL", key("jobs"), waiters[0]),
        )),
        Damage("nobodys", "the job is in Redis, but not in SQL", (
            ("HSET", key("jobs"), "nobodys", json.dumps(stranger)), ("ZADD", key("slots"), "9999999999999", "nobodys"),
        )),
        Damage(ended, "the job has ended in SQL, but Redis still has it", (
            ("HSET", key("jobs"), ended, json.dumps(leftover)), ("RPUSH", key("queue"), ended),
        )),
        Damage("default", "Redis has other settings of the pool than SQL", (("HSET", key("meta"), "limit", "7"),)),
    ]  # fmt: skip


def play(folder: Path) -> tuple[str, list[str]]:
    """What was seen, and what was wrong with it."""
    redis, wrong = RedisServer("valkey", folder / "redis"), []
    redis.start()
    served = Served(folder, config=CONFIG, on_defaults=True, GATE_REDIS_URL=redis.url)
    try:
        served.start()
        ended = served.acquire(job_id="ended").json()
        served.act(ended, "release", outcome="completed")
        jobs = [served.acquire(job_id=f"job-{number}", credits=5).json()["job_id"] for number in range(6)]
        served.stop()
        done = damage(jobs[:3], jobs[3:], "ended")
        said = []
        for one in done:
            for words in one.commands:
                redis.cli(*words)
                said.append("redis-cli " + subprocess.list2cmdline(words))
        for flags in ((), ("--fix",)):
            seen = run_gate("doctor", *flags, cwd=folder, GATE_REDIS_URL=redis.url).stdout
            said += ["", f"$ gate doctor {' '.join(flags)}".rstrip(), seen.rstrip()]
            wrong += [f"{one.about} is not named" for one in done if one.about not in seen or one.says not in seen]
        after = run_gate("doctor", cwd=folder, GATE_REDIS_URL=redis.url)
        said += ["", "$ gate doctor", after.stdout.rstrip()]
        if after.returncode != 0:
            wrong.append("after --fix it is not well")
        return "\n".join(said), wrong
    finally:
        redis.kill()


def main() -> None:
    argparse.ArgumentParser("python -m tests.proof.soak.damage", description=__doc__.split("\n\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said, wrong = play(Path(folder))
    print(said)
    print(f"\nwrong: {'; '.join(wrong) or 'nothing'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
