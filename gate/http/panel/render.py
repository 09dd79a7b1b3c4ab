"""Renders templates to HTML, in the visitor's language.

The templates escape every value, and every response has the same strict content security policy.
"""

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
"""Content security policy. Scripts and styles come from gate's own files only, and no page may frame the panel."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept-Language, Cookie",
}
"""Headers of every page and fragment."""


@cache
def _templates() -> jinja2.Environment:
    """Load the templates at the first request for a page: `gate serve` starts faster without jinja2."""
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
    """Render one template.

    Args:
        name: File name of the template.
        language: Language of its texts.
        values: Variables of the template.
    """
    return _templates().get_template(name).render(t=words.of(language), language=language, **values)


def page(name: str, request: Request, visitor: Visitor, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a whole page. A visitor without a session gets one, because forms need its CSRF token.

    Args:
        name: File name of the template.
        request: The request for the page.
        visitor: The visitor who sent it.
        status: HTTP status.
        values: Variables of the template.
    """
    language = words.language(request.headers.get("accept-language", ""))
    html = fragment(
        name, language, visitor=visitor, path=request.url.path, words_js=words.for_script(language), now=now_ms(), **values
    )
    return answer(html, request, visitor, status)


def answer(html: str, request: Request, visitor: Visitor, status: int = 200) -> HTMLResponse:
    """Make a response of HTML, and set the session cookie when it is new."""
    made = HTMLResponse(html, status, HEADERS)
    if visitor.fresh:
        session.give(made, request, visitor.cookie)
    return made


def _indented(text: str) -> str:
    """Indent JSON that a provider sent. Text that is no JSON, or is 20,000 characters or longer, stays as it is."""
    try:
        shown = json.dumps(json.loads(text), indent=2, ensure_ascii=False) if len(text) < 20_000 else text
    except (ValueError, RecursionError):
        return text
    return shown.encode(errors="backslashreplace").decode()  # A page in UTF-8 cannot hold lone surrogates.
