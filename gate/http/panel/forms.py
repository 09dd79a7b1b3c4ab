"""Reads the forms that the panel's pages send."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request

from gate.model.errors import Invalid

FIELDS_MAX = 20
"""Fields of a form at most. The panel's own forms have fewer."""


async def fields(request: Request) -> dict[str, str]:
    """Read the fields of a form.

    Returns:
        Value of each field, by name. When a name comes twice, the last value counts.

    Raises:
        Invalid: The body is no form, or has too many fields.
    """
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise Invalid("body", "send a form") from error
