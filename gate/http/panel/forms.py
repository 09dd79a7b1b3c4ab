"""What a form of the panel sends."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request

from gate.model.errors import Invalid

FIELDS_MAX = 20


async def fields(request: Request) -> dict[str, str]:
    """By name; of one that comes twice the last. Raises Invalid."""
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise Invalid("body", "send a form") from error
