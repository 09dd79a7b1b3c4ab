"""Brings gate up to what the rows of the old queue manager say: what has ended, what runs, what waits. May be run again and again.

    GATE_URL=… GATE_KEY=… DATABASE_URL=… .venv/bin/python docs/moving-over/import.py

Shows a key with the role admin, and leaves the pool paused: what waits is taken up, and nothing starts before `resume`.
"""

import os
import sys
from typing import Any

import httpx2
import psycopg
from psycopg.rows import dict_row

POOL = "/v1/pools/default"
MANAGER = "/functions/v1/runninghub-queue-manager"
HOLDS = "moving-to-gate"  # the session of the rows that hold the old queue manager back

gate = httpx2.Client(
    base_url=os.environ["GATE_URL"], headers={"authorization": f"Bearer {os.environ['GATE_KEY']}"}, timeout=60
)


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = gate.request(method, path, json=body or {}) if method != "GET" else gate.get(path)
    said: dict[str, Any] = answer.json()
    if answer.status_code >= 300 and said.get("code") not in ("user_busy", "queue_full"):
        sys.exit(f"{method} {path} {body}: {answer.status_code} {answer.text}")
    return said


def rows(*statuses: str) -> list[dict[str, Any]]:
    """Oldest first, as the old queue manager counts."""
    found = []
    with psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row) as db:
        for table in db.execute("select unnest(gate_tables()) as name").fetchall():
            query = psycopg.sql.SQL(
                "select id::text as id, status, session_id, task_id, created_at, output_url, error_message,"
                " to_jsonb(job) -> 'job_payload' as payload from {} as job where status = any (%s) and session_id is distinct from %s"
            ).format(psycopg.sql.Identifier(table["name"]))
            found += [row | {"table": table["name"]} for row in db.execute(query, (list(statuses), HOLDS)).fetchall()]
    return sorted(found, key=lambda row: row["created_at"])


pool = call("GET", f"{POOL}?limit=1000")
known = {job["job_id"] for job in pool["holders"] + pool["queue"]}

for row in rows("completed", "failed", "cancelled"):
    if row["id"] in known:  # the old function ended it after an import
        body = {"table": row["table"], "jobId": row["id"], "status": row["status"]}
        more = {"outputUrl": row["output_url"], "errorMessage": row["error_message"]}
        call("POST", f"{MANAGER}/finish", body | {name: value for name, value in more.items() if value})
        print(f"{row['id']} has ended: {row['status']}")

running = [row for row in rows("starting", "running") if row["id"] not in known]
if running and (pool["paused"] or pool["queued"] or len(running) > pool["free"]):
    sys.exit(f"{len(running)} run that gate does not know, and it has no free slots for them: wait until they have ended")
if starting := [row["id"] for row in running if not row["task_id"]]:
    sys.exit(f"{starting[0]} is just starting, or its start was cut off: wait until its row has a task or has ended")
for row in running:
    job = call("POST", f"{POOL}/acquire", {"job_id": row["id"], "tool": row["table"]})
    if job["status"] != "running":
        sys.exit(f"{row['id']} is not admitted: {job}")
    task = {"provider": "runninghub", "task_id": row["task_id"], "lease_id": job["lease"]["lease_id"]}
    call("PUT", f"{POOL}/jobs/{row['id']}/task", task)
    print(f"{row['id']} runs as task {row['task_id']}")

call("POST", f"{POOL}/pause")
for row in rows("queued"):
    if row["id"] not in known:
        body = {"table": row["table"], "jobId": row["id"], "sessionId": row["session_id"], "job_payload": row["payload"]}
        said = call("POST", f"{MANAGER}/run-or-queue", {name: value for name, value in body.items() if value is not None})
        print(
            f"{row['id']} waits at {said['position']}" if said["success"] else f"{row['id']} is NOT admitted: {said['error']}"
        )
print("the pool is paused")
