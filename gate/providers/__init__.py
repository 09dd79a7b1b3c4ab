"""The providers by name. A new provider needs a module in this package, and an entry in `PROVIDERS`, in `PAGES` or in both."""

from __future__ import annotations

from gate.providers import comfyui, fal, replicate, runninghub, runninghub_page, standard
from gate.providers.callback import Provider
from gate.providers.page import ProviderPage

PROVIDERS: dict[str, Provider] = {
    one.name: one for one in (standard.PROVIDER, runninghub.PROVIDER, replicate.PROVIDER, fal.PROVIDER)
}
"""Readers of callbacks."""
PAGES: dict[str, ProviderPage] = {one.name: one for one in (runninghub_page.PAGE, replicate.PAGE, fal.PAGE, comfyui.PAGE)}
"""Pages of the providers that gate can ask."""
