"""The HTTP routes of the simulated provider."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from gate.simulator.plan import Call, Control
from gate.simulator.provider import Provider
from gate.simulator.replies import Form

Authorization = Annotated[str, Header()]
"""Header that has the key, `Bearer KEY`. The body of a call of v1 has it too, and comes first."""
Body = dict[str, Any]


def make_app(provider: Provider) -> FastAPI:
    """Make the routes of a provider."""
    app = FastAPI(title="provider simulator")

    @app.exception_handler(ValidationError)
    async def not_a_plan(_request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    async def answer(call: Call, authorization: str, body: Body, form: Form = "v1") -> JSONResponse:
        key = body.get("apiKey") or body.get("apikey") or authorization.removeprefix("Bearer ")
        reply = await provider.answer(call, str(key), body, form)
        return JSONResponse(reply.body, reply.status)

    @app.post("/task/openapi/run")
    @app.post("/task/openapi/create")
    @app.post("/task/openapi/ai-app/run")
    async def run(body: Body, authorization: Authorization = "") -> Any:
        return await answer("run", authorization, body)

    @app.post("/openapi/v2/run/ai-app/{app_id}")
    @app.post("/openapi/v2/run/workflow/{app_id}")
    async def run_v2(app_id: str, body: Body, authorization: Authorization = "") -> Any:
        return await answer("run", authorization, body, "v2")

    @app.post("/openapi/v2/query")
    async def query(body: Body, authorization: Authorization = "") -> Any:
        return await answer("query", authorization, body)

    @app.post("/task/openapi/status")
    async def status(body: Body, authorization: Authorization = "") -> Any:
        return await answer("status", authorization, body)

    @app.post("/task/openapi/outputs")
    async def outputs(body: Body, authorization: Authorization = "") -> Any:
        return await answer("outputs", authorization, body)

    @app.post("/task/openapi/cancel")
    async def cancel(body: Body, authorization: Authorization = "") -> Any:
        return await answer("cancel", authorization, body)

    @app.get("/openapi/v2/queue/status")
    async def queue(authorization: Authorization = "") -> Any:
        return await answer("queue", authorization, {})

    @app.post("/uc/openapi/accountStatus")
    async def account(body: Body, authorization: Authorization = "") -> Any:
        return await answer("account", authorization, body)

    @app.get("/control")
    async def seen() -> Any:
        return provider.seen()

    @app.post("/control")
    async def control(wanted: Control) -> Any:
        try:
            provider.control(wanted)
        except KeyError as error:
            return JSONResponse({"detail": error.args[0]}, 404)
        return provider.seen()

    return app
