"""The providers by name. A new provider needs a module in this package and an entry in `PROVIDERS`."""

from __future__ import annotations

from gate.providers import runninghub, standard
from gate.providers.callback import Provider

PROVIDERS: dict[str, Provider] = {one.name: one for one in (standard.PROVIDER, runninghub.PROVIDER)}
