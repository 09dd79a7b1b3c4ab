"""The HTTP reference, made from the routes: the OpenAPI document, and a web page of it."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse

from gate.http.auth.roles import ANY_KEY, ANYONE, RouteFacts, Routes, known_query, open_to
from gate.http.panel.routing import PanelRoute
from gate.http.problems import HTTP_CODES
from gate.http.problems import TABLE as REFUSALS
from gate.http.schemas import ProblemOut

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
    """Show the document as a web page."""
    return HTMLResponse(_page(request.app.openapi()))


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


def _page(document: dict[str, Any]) -> str:
    parts = []
    for path, operations in document["paths"].items():
        for method in METHODS:
            if (operation := operations.get(method)) is not None:
                parts.append(_operation(method, path, operation))
    shapes = "".join(
        f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(shape.get('description', ''))}</p><table>{_fields(shape)}</table>"
        for name, shape in sorted(document["components"]["schemas"].items())
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>gate: HTTP reference</title><style>{STYLE}</style>
<h1>gate {escape(document["info"]["version"])}: HTTP reference</h1>
<p>The same for programs: <a href="/openapi.json">openapi.json</a>. Keys go into <code>Authorization: Bearer KEY</code>.</p>
{"".join(parts)}<h2>Shapes</h2>{shapes}</html>"""


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        (one["name"], one["in"], _type(one["schema"]), one.get("description", "")) for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    if body:
        rows.append(("body", "JSON", _type(body["content"]["application/json"]["schema"]), ""))
    for status, response in operation["responses"].items():
        contents: list[dict[str, Any]] = list(response.get("content", {}).values())
        schema = contents[0].get("schema", {}) if contents else {}
        rows.append((status, "answer", _type(schema), response["description"]))
    cells = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in (escape(a), escape(b), c, escape(d))) for a, b, c, d in rows
    )
    description = escape(operation.get("description", operation.get("summary", "")))
    return f"<h2><b>{method.upper()}</b> {escape(path)}</h2><p>{description}</p><table>{cells}</table>"


def _fields(shape: dict[str, Any]) -> str:
    return "".join(
        f"<tr><td>{escape(name)}</td><td>{_type(field)}</td></tr>" for name, field in shape.get("properties", {}).items()
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return escape(" | ".join(map(str, schema["enum"])))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    bounds = [f"{word} {schema[name]}" for name, word in BOUNDS.items() if name in schema]
    return escape(", ".join([schema.get("type", "any JSON"), *bounds]))


BOUNDS = {"minimum": "from", "maximum": "to", "minLength": "at least", "maxLength": "at most", "const": "exactly"}
STYLE = """:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{font:1.05rem ui-monospace,monospace;margin-top:2.5rem;border-top:1px solid #8885;padding-top:1rem}td{padding:.15rem .8rem .15rem 0;
vertical-align:top}td:first-child{font-family:ui-monospace,monospace}table{border-spacing:0;overflow-x:auto;display:block}"""
