"""A FastAPI route that does nothing: the same models in, the same bytes out, the same server in front. What is left of a pair when
nothing is decided, nothing written down and nobody is asked for a key.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path
from fastapi.responses import JSONResponse

from bench.peers.uvicorn_alone import serve
from gate.http.schemas import AcquireBody, JobId, ReleaseBody
from gate.model.job import Job
from gate.model.job_json import job_body

app = FastAPI()
NOW_MS = 1_800_000_000_000
PAYLOAD = {"image": "https://files.example/in/1.png", "scale": 4, "model": "fine"}
ROW = Job(
    "", "bench", "running", "ana", "upscaler", None, 5, PAYLOAD, 1, 1, "f" * 32, 600_000, NOW_MS, NOW_MS, NOW_MS, NOW_MS
)
RUNS = job_body(ROW)
ENDED = RUNS | {"status": "completed", "lease": None, "ended_at": "2026-11-24T12:00:00.000Z", "ended_by": "holder"}


@app.post("/v1/pools/{pool}/acquire")
async def acquire(pool: str, body: AcquireBody) -> JSONResponse:
    return JSONResponse(RUNS | {"job_id": body.job_id})


@app.post("/v1/pools/{pool}/jobs/{job_id}/release")
async def release(pool: str, job_id: Annotated[JobId, Path()], body: ReleaseBody) -> JSONResponse:
    return JSONResponse(ENDED | {"job_id": job_id})


if __name__ == "__main__":
    serve(app)
