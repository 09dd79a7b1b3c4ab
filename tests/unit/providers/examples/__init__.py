"""Replies that providers really send, in one table for each page. The conformance suite reads them by the name of the page.

A new page needs a module here with EXAMPLES, and its entry in ALL.
"""

from __future__ import annotations

from tests.unit.providers.examples import comfyui, fal, replicate, runninghub
from tests.unit.providers.examples.shape import Examples

ALL: dict[str, Examples] = {
    "runninghub": runninghub.EXAMPLES, "replicate": replicate.EXAMPLES, "fal": fal.EXAMPLES, "comfyui": comfyui.EXAMPLES,
}  # fmt: skip
