"""Makes docs/http.md of the OpenAPI document: `python -m tests.checks.reference`."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, cast

from gate.http.app import make_app
from gate.http.auth.roles import ADMIN, ANYONE, LOOK, TOOL
from gate.http.middleware.body_limit import BODY_S
from gate.http.openapi import METHODS
from gate.http.problems import RETRY_AFTER_S
from gate.http.problems import TABLE as REFUSALS
from gate.model.job import JOB_ID, POOL_NAME
from gate.model.limits import BODY_MAX_BYTES, DEPTH_MAX, END_BODY_MAX_BYTES, OUTPUT_MAX_BYTES, PAYLOAD_MAX_BYTES
from tests.support.paths import ROOT
from tests.support.routes import TABLE

PAGE = ROOT / "docs" / "http.md"
WHO = {TOOL: "tool, admin", ADMIN: "admin", LOOK: "admin, read", ANYONE: "anyone"}
"""By the roles of a route; else any key."""
TAGS = {
    "jobs": "Jobs",
    "pools": "Pools",
    "users": "Users",
    "ledger": "The ledger",
    "webhooks": "Webhooks",
    "health": "Health",
}
WAITS = [(status, RETRY_AFTER_S[of]) for of, (status, _, _) in REFUSALS.items() if of in RETRY_AFTER_S]
HEAD = f"""# HTTP reference

Made from the OpenAPI document by `python -m tests.checks.reference`; a test holds it equal. Your own gate shows the same at `/docs`, where each call can be tried, and the
document itself at `/openapi.json`. What the words mean, and what to do about each refusal: [concepts](concepts.md).

- Bodies and answers are JSON. A field or a query parameter that a route does not know is refused. What is absent in an answer is null.
- A key goes into `Authorization: Bearer KEY`, or into `apikey`. *Who* names the roles; while no key exists, this machine alone is let in.
- A refusal is `application/problem+json` ([ProblemOut](#problemout)) with a stable `code`. `Retry-After`: {", ".join(f"{seconds} s after {status}" for status, seconds in WAITS)}.
- A `job_id` matches `{JOB_ID.pattern}`, a pool's name `{POOL_NAME.pattern}`; labels (user, tool, session, task_id) follow [one rule](http-overview.md#names).
- A `payload` is an object of at most {PAYLOAD_MAX_BYTES // 1024} KiB of JSON, an `output` anything of at most {OUTPUT_MAX_BYTES // 1024} KiB, both at most {DEPTH_MAX} levels deep. A whole body has at
  most {BODY_MAX_BYTES // 1024} KiB, one that ends a job {END_BODY_MAX_BYTES // 2**20} MiB (413), and is here within {BODY_S:g} s (408).
- An end is never refused for its text: what `release` or a callback says is cleaned, and cut where it is too long (`… (cut)`).
- Times are RFC 3339, UTC, with milliseconds; lengths of time are seconds, and may be fractional.
"""
TAIL = """
## What else is served

The paths of the queue manager that gate replaces (`/functions/v1/…`, `/rest/v1/rpc/…`) have bodies and answers of their own, and are
not in the OpenAPI document: [moving over](moving-over.md).
"""


@cache
def document() -> dict[str, Any]:
    """It is written from the routes alone: no store is asked."""
    return make_app(cast(Any, None), cast(Any, None), cast(Any, None)).openapi()


def page() -> str:
    found = document()
    parts: dict[str, list[str]] = {tag: [] for tag in TAGS}
    for path, operations in found["paths"].items():
        for method in METHODS:
            if (operation := operations.get(method)) is not None:
                parts[operation["tags"][0]].append(_operation(method, path, operation, found["components"]["schemas"]))
    routes = "".join(f"\n## {TAGS[tag]}\n{''.join(texts)}" for tag, texts in parts.items())
    shapes = found["components"]["schemas"]
    bodies = {name for name in shapes if name.endswith("Body")}
    shown = "".join(_shape(name, shapes[name]) for name in sorted(shapes.keys() - bodies))
    return f"{HEAD}{routes}\n## Shapes\n{shown}{TAIL}"


def _operation(method: str, path: str, operation: dict[str, Any], shapes: dict[str, Any]) -> str:
    told = " ".join(operation["description"].split())
    lines = [f"\n### {method.upper()} {path}\n", told, "", f"*Who*: {_who(method, path)}"]
    rows = [
        (f"`{one['name']}`", one["in"], _type(one["schema"]), _default(one["schema"], one["required"]))
        for one in operation.get("parameters", ())
        if one["in"] != "path"
    ]
    body_told = ""
    if (body := operation.get("requestBody")) is not None:
        body_told = _told(body["content"]["application/json"]["schema"], shapes)
        rows += _body(body["content"]["application/json"]["schema"], shapes)
    if rows:
        lines += ["", "| name | in | type | default |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    lines += ["", body_told] if body_told else []
    answers = [_answer(status, one) for status, one in operation["responses"].items() if not _is_refusal(one)]
    lines += ["", f"*Answers*: {' · '.join(answers)}"]
    if refusals := [_codes(status, one) for status, one in operation["responses"].items() if _is_refusal(one)]:
        lines += ["", f"*Refuses*: {' · '.join(refusals)}"]
    return "\n".join(lines) + "\n"


def _who(method: str, path: str) -> str:
    (roles,) = {roles for (of, at), roles in TABLE.items() if (of, at.replace(":text}", "}")) == (method.upper(), path)}
    return WHO.get(roles, "any key") + (", with the provider's secret" if "webhooks" in path else "")


def _named(schema: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any] | None:
    refs = [one["$ref"] for one in (schema, *schema.get("anyOf", ())) if "$ref" in one]
    return shapes[refs[0].rsplit("/", 1)[-1]] if refs else None


def _told(schema: dict[str, Any], shapes: dict[str, Any]) -> str:
    return " ".join(((_named(schema, shapes) or {}).get("description") or "").split())


def _body(schema: dict[str, Any], shapes: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    if (shape := _named(schema, shapes)) is None:
        return [("body", "body", schema["description"], "required")]
    required = shape.get("required", ())
    return [(f"`{name}`", "body", _type(one), _default(one, name in required)) for name, one in shape["properties"].items()]


def _default(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    return f"`{schema['default']}`" if schema.get("default") is not None else ""


def _is_refusal(response: dict[str, Any]) -> bool:
    return "application/problem+json" in response.get("content", {})


def _answer(status: str, response: dict[str, Any]) -> str:
    (kind, content), *_ = response.get("content", {"": {}}).items() or [("", {})]
    told = "" if response["description"] in ("Successful Response", "Service Unavailable") else response["description"]
    shown = "a stream of [JobOut](#jobout)" if kind == "text/event-stream" else _type(content.get("schema", {}))
    return ", ".join(part for part in (f"{status} {shown}", told) if part)


def _codes(status: str, response: dict[str, Any]) -> str:
    return f"{status} {' '.join(re.findall(r'`[a-z_]+`', response['description']))}"


def _shape(name: str, shape: dict[str, Any]) -> str:
    told = " ".join(shape.get("description", "").split())
    fields = [f"| `{field}` | {_type(one)} |" for field, one in shape["properties"].items()]
    return "\n".join([f"\n### {name}\n", *([told, ""] if told else []), "| field | type |", "|---|---|", *fields]) + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        inside = [_type(one) for one in schema["anyOf"]]
        return " or ".join([one for one in inside if one != "null"] + ["null"] * ("null" in inside))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return " ".join([schema.get("type", "any JSON"), *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> list[str]:
    if "maxLength" in schema:
        return [
            f"of {schema['minLength']} to {schema['maxLength']}"
            if "minLength" in schema
            else f"of at most {schema['maxLength']}"
        ]
    if "maximum" in schema:
        return [f"from {schema['minimum']:g} to {int(schema['maximum']):,}".replace("9,223,372,036,854,775,808", "2⁶³ - 1")]
    return []


if __name__ == "__main__":
    PAGE.write_text(page())
