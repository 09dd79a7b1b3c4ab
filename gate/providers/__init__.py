"""The providers by name. A new one is a page beside these, and a line here."""

from __future__ import annotations

from gate.providers import runninghub, standard
from gate.providers.callback import Provider

PROVIDERS: dict[str, Provider] = {one.name: one for one in (standard.PROVIDER, runninghub.PROVIDER)}
