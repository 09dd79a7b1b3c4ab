"""Installed front ends, unchanged: the real supabase-js in Node and in a browser, against gate itself and against the function."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.proof.examples.platform import ANON_KEY
from tests.proof.examples.stage import MANAGER, Stage, program
from tests.support.gate_process import run_gate
from tests.support.wait import until

pytestmark = pytest.mark.anyio
UPSCALER = "upscaler_jobs"
SHOP = "http://shop.localhost"


@pytest.mark.parametrize("door", ["gate", "function"])
def test_supabase_js_in_node_is_answered_on_every_path(empty: Stage, door: str) -> None:
    """What the function adds is the owner's rows: the answers are those of gate itself."""
    url, key = (empty.gate.url, empty.key) if door == "gate" else (empty.platform.url, ANON_KEY)
    user = str(uuid.uuid4())
    asked = empty.new(user, table="pose_changer_jobs")
    mine = {"table": asked["table"], "jobId": asked["jobId"]}
    calls: list[tuple[str, Any]] = [
        ("status", {}),
        ("check", mine | {"userId": user, "creditCost": 10}),
        ("check-user-active", {"userId": user}),
        ("run-or-queue", mine | {"userId": user}),
        ("enqueue", mine | {"userId": user}),
        ("process-next", {}),
        ("cancel-session", {"sessionId": "no such tab"}),
        ("finish", mine | {"status": "failed", "errorMessage": "no"}),
        ("finish", mine | {"status": "failed"}),
        ("check", {}),
        ("nothing", {}),
        ("enqueue", {"jobId": "x"}),
    ]
    said = empty.node(url, key, calls)
    counts = {"running": 0, "maxConcurrent": 3, "slotsAvailable": 3, "totalQueued": 0}
    admitted = {"success": True, "queued": False, "position": 0, "totalQueued": 0, "status": "running", "duplicate": True}
    if door == "function":  # its tools call a job without `queued` and `taskId` a failure
        admitted |= {"queued": True, "position": 1}
    active = {"activeTool": "Pose Changer", "activeJobId": asked["jobId"]}
    assert [one["body"] for one in said] == [
        {"totalMaxSlots": 3, "totalRunning": 0, "totalSlotsAvailable": 3, "queuedByTool": {}, "accounts": []} | counts,
        {"available": True} | counts,
        {"hasActiveJob": True, "activeStatus": "running"} | active,
        admitted,
        admitted,
        {"processed": False, "reason": "No queued jobs"},
        {"success": True, "cancelledCount": 0, "cancelledJobs": []},
        {"success": True, "refundedAmount": 10},
        {"success": True, "skipped": True, "reason": "already_terminal", "refundedAmount": 10},
        {"available": False} | counts | {"slotsAvailable": 0},
        {"error": "Invalid endpoint"},
        {"error": "Missing table"},
    ]
    assert [one["status"] for one in said] == [200] * 10 + [400] * 2


class Shop:
    """The page's own server: of another origin than whatever the page asks."""

    def __init__(self, pages: dict[str, tuple[str, bytes]]) -> None:
        self.reported: list[Any] = []
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, page = pages.get(self.path, ("text/plain", b""))
                self.send_response(200)
                self.send_header("content-type", kind)
                self.end_headers()
                self.wfile.write(page)

            def do_POST(self) -> None:
                shop.reported.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"{SHOP}:{self.server.server_port}"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        thread.start()
        yield
        self.server.shutdown()
        thread.join()
        self.server.server_close()


def shop_with(functions: Path, page: str, calls: Any) -> Shop:
    library = functions / "node_modules" / "@supabase" / "supabase-js" / "dist" / "umd" / "supabase.js"
    return Shop({
        f"/{page}": ("text/html", (functions / page).read_bytes()),
        "/direct.mjs": ("text/javascript", (functions / "direct.mjs").read_bytes()),
        "/supabase.js": ("text/javascript", library.read_bytes()),
        "/calls.json": ("application/json", json.dumps(calls).encode()),
    })  # fmt: skip


async def visit(shop: Shop, page: str, folder: Path) -> None:
    """Opens the page in a real browser, until it has reported."""
    command = [
        program("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}", f"{shop.origin}/{page}",
    ]  # fmt: skip
    with shop.open(), (folder / "log").open("w") as log:
        browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            await until(lambda: shop.reported, "the page reported", within_s=60)
        finally:
            browser.terminate()
            browser.wait(20)


@pytest.mark.parametrize("door", ["gate", "function"])
async def test_a_page_of_another_origin_reads_the_answers(empty: Stage, functions: Path, tmp_path: Path, door: str) -> None:
    url, key = (empty.gate.url, empty.key) if door == "gate" else (empty.platform.url, ANON_KEY)
    shop = shop_with(functions, "page.html", {"urls": [url], "key": key, "body": {}, "rpc": door == "gate"})
    await visit(shop, "page.html", tmp_path)
    counts = {"available": False, "running": 0, "maxConcurrent": 3, "slotsAvailable": 0, "totalQueued": 0}
    cancelled = {"status": 404} if door == "gate" else None
    assert shop.reported == [[counts, {"status": 400, "body": {"error": "Invalid endpoint"}}, counts, cancelled]]
    if door == "function":
        asked = [(one.method, one.headers["origin"]) for one in empty.platform.asked if "origin" in one.headers]
        assert {("OPTIONS", shop.origin), ("POST", shop.origin)} == set(asked), "the browser asked first"
        assert MANAGER in empty.platform.asked[-1].url.path


async def reading_key(stage: Stage) -> str:
    """A key that may look and not act, once gate knows it."""
    made = run_gate("keys", "create", f"looks-{uuid.uuid4()}", "--role", "read", "--json", cwd=stage.folder)
    key: str = json.loads(made.stdout)["key"]
    shown = {"authorization": f"Bearer {key}"}
    await until(lambda: stage.gate.http.get("/v1/pools", headers=shown).status_code == 200, "gate knows the key")
    return key


@pytest.mark.parametrize("where", ["node", "chromium"])
async def test_supabase_js_calls_gate_itself_with_all_its_headers(
    empty: Stage, functions: Path, tmp_path: Path, where: str
) -> None:
    """Without its preflight no browser sends `rpc` (content-profile) or a call to a region (x-region)."""
    jobs = [empty.gate.acquire(job_id=str(uuid.uuid4()), tool="pose_changer_jobs", credits=7).json() for _ in range(2)]
    args = [{"p_table_name": "pose_changer_jobs", "p_job_id": job["job_id"]} for job in jobs]
    calls: list[dict[str, Any]] = [
        {"rpc": "user_cancel_ai_job", "args": args[0]},
        {"rpc": "user_cancel_ai_job", "args": args[1], "schema": "public"},
        {"invoke": f"{MANAGER}/check", "args": {}, "options": {"region": "us-east-1"}},
        {"rpc": "cleanup_all_stale_ai_jobs", "options": {"count": "exact"}},
        {"rpc": "user_cancel_ai_job", "args": args[0] | {"p_job_id": "of-nobody"}},
        {"rpc": "no_such_function", "args": {}},
        {"rpc": "user_cancel_ai_job", "args": {}},
        {"rpc": "user_cancel_ai_job", "args": args[0], "key": "no-key-of-gate"},
        {"rpc": "user_cancel_ai_job", "args": args[0], "key": await reading_key(empty)},
    ]
    asked = {"url": empty.gate.url, "calls": [{"key": empty.key} | call for call in calls]}
    if where == "node":
        command = [program("node"), "direct.mjs", json.dumps(asked)]
        done = subprocess.run(command, cwd=functions, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
    else:
        shop = shop_with(functions, "direct.html", asked)
        await visit(shop, "direct.html", tmp_path)
        (said,) = shop.reported
    refunded = [{"success": True, "refunded_amount": 7, "error_message": None}]
    assert [one["data"] for one in said[:2]] == [refunded, refunded], said[:2]
    assert (said[2]["error"], said[2]["data"]["maxConcurrent"]) == (None, 3)
    assert (said[3]["error"], said[3]["data"]) == (None, [])
    refused = [(one["status"], one["error"]["code"]) for one in said[4:]]
    assert refused == [(404, "job_unknown"), (400, "PGRST202"), (400, "invalid"), (401, "unauthorized"), (403, "forbidden")]
    messages = [one["error"]["message"] for one in said[4:]]
    assert all(messages) and "no_such_function" in messages[1], messages
