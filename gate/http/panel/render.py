"""From what was seen to HTML: templates that escape everything, in the language of whoever looks, under one strict policy."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse

from gate.http.auth import session
from gate.http.auth.session import Visitor
from gate.http.panel import assets, words
from gate.model.job import now_ms
from gate.model.job_json import moment

if TYPE_CHECKING:
    import jinja2

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept-Language, Cookie",
}


@cache
def _templates() -> jinja2.Environment:
    """Made when the panel is first asked for: `gate serve` starts without it."""
    import jinja2

    loader = jinja2.PackageLoader("gate.http.panel", "templates")
    made = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"asset": assets.address, "version": assets.version()}
    made.filters |= {
        "moment": moment,
        "segment": lambda text: quote(text, safe=""),
        "readable": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        "raw": _indented,
    }
    return made


def fragment(name: str, language: str, **values: Any) -> str:
    """One template, without a page around it."""
    return _templates().get_template(name).render(t=words.of(language), language=language, **values)


def page(name: str, request: Request, visitor: Visitor, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page; whoever has no session yet is given one, for its CSRF token."""
    language = words.language(request.headers.get("accept-language", ""))
    html = fragment(
        name, language, visitor=visitor, path=request.url.path, words_js=words.for_script(language), now=now_ms(), **values
    )
    return answer(html, request, visitor, status)


def answer(html: str, request: Request, visitor: Visitor, status: int = 200) -> HTMLResponse:
    made = HTMLResponse(html, status, HEADERS)
    if visitor.fresh:
        session.give(made, request, visitor.cookie)
    return made


def _indented(text: str) -> str:
    """What somebody sent, easier to read when it is JSON; as it came when it is not, or not small."""
    try:
        shown = json.dumps(json.loads(text), indent=2, ensure_ascii=False) if len(text) < 20_000 else text
    except (ValueError, RecursionError):
        return text
    return shown.encode(errors="backslashreplace").decode()  # half an emoji is no text, and no page can hold it
