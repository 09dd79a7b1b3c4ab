"""The HTTP reference, made from the routes: the OpenAPI document, and a web page of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse

from gate.http.answers import ProblemOut
from gate.http.auth.roles import ANY_KEY, ANYONE, RouteFacts, Routes, known_query, open_to
from gate.http.panel import render
from gate.http.panel.routing import PanelRoute, language
from gate.http.problems import HTTP_CODES
from gate.http.problems import TABLE as REFUSALS

router = APIRouter(route_class=PanelRoute, include_in_schema=False, dependencies=[Depends(known_query)])
METHODS = ("get", "put", "post", "delete")
"""Methods that the reference shows. HEAD and OPTIONS have nothing to explain."""
OF_A_CALLBACK = frozenset({"apply", "dismiss"})
"""Verbs about a callback that could not be read."""
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
}
"""How a caller may show its key, as the document describes it."""


@router.get("/openapi.json")
@open_to(ANY_KEY)
async def document(request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
@open_to(ANY_KEY)
async def page(request: Request) -> HTMLResponse:
    """Show the document as a web page, on which each call can be tried."""
    return HTMLResponse(render.fragment("reference.html", language(request)), headers=render.HEADERS)


def describe(app: FastAPI) -> None:
    """Add the refusals of each route, and the keys that it needs, to the OpenAPI document of an application."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            app.openapi_schema = _complete(document, app.state.routes)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any], known: Routes) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for of_the_framework in ("HTTPValidationError", "ValidationError"):
        schemas.pop(of_the_framework, None)
    refusal = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= refusal.pop("$defs", {}) | {"ProblemOut": refusal}
    document["components"]["securitySchemes"] = SCHEMES
    facts_of = {(method.lower(), path.replace(":text}", "}")): facts for (method, path), facts in known.items()}
    for path, operations in document["paths"].items():
        for method in operations.keys() & set(METHODS):
            operation, facts = operations[method], facts_of[method, path]
            operation["responses"].pop("422", None)
            for status in _refusals(path, operation, facts):
                content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
                described = {"description": _titles(status, path, facts), "content": content}
                if status in (429, 503):
                    described["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
                operation["responses"][str(status)] = described
            operation["security"] = [] if facts.may == ANYONE else [{"bearer": []}, {"apikey": []}, {}]
    return document


def _refusals(path: str, operation: dict[str, Any], facts: RouteFacts) -> list[int]:
    if facts.may == ANYONE:
        return [401, 404, 413, 422, 503] if "webhooks" in path else []
    verb = path.rsplit("/", 1)[-1]
    found = {401, 403, 422, 503}
    found |= {404} if "{pool}" in path or verb in OF_A_CALLBACK else set()
    found |= {413} if "requestBody" in operation else set()
    found |= {409} if facts.conflicts else set()
    found |= {410} if facts.needs_lease else set()
    found |= {429} if facts.may_be_full else set()
    return sorted(found)


def _titles(status: int, path: str, facts: RouteFacts) -> str:
    titles: dict[str, str] = {}
    for of, code, title in REFUSALS.values():
        if of == status and _may_be(code, status, path, facts):
            titles.setdefault(code, f"`{code}`: {title}")
    return "; ".join(titles.values()) or "`{}`: {}".format(*HTTP_CODES[status])


def _may_be(code: str, status: int, path: str, facts: RouteFacts) -> bool:
    verb = path.rsplit("/", 1)[-1]
    if status == 409:
        return code in facts.conflicts
    if code == "tool_unknown":  # only the compatible routes refuse so, and they are not in the document
        return False
    if code in ("forged", "provider_unknown", "unauthorized"):
        return ("webhooks" in path) == (code != "unauthorized")
    if code in ("pool_unknown", "callback_unknown"):
        return (verb in OF_A_CALLBACK) == (code == "callback_unknown")
    return code != "job_unknown" or "{job_id}" in path or verb in ("acquire", "apply")
