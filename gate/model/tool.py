"""The tools that gate works for: what a table of theirs is called, and where their jobs are started and told of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SHIPPED_NAMES = {
    "upscaler_jobs": "Upscaler Arcano",
    "pose_changer_jobs": "Pose Changer",
    "veste_ai_jobs": "Veste AI",
    "video_upscaler_jobs": "Video Upscaler",
    "arcano_cloner_jobs": "Arcano Cloner",
    "character_generator_jobs": "Gerador Personagem",
    "flyer_maker_jobs": "Flyer Maker",
    "bg_remover_jobs": "Remover Fundo",
    "image_generator_jobs": "Gerar Imagem",
    "video_generator_jobs": "Gerar Vídeo",
    "movieled_maker_jobs": "MovieLed Maker",
}
"""Display names of the owner's job tables. Front ends map these exact strings back to a table."""


@dataclass(frozen=True, slots=True)
class Tool:
    """`table` is the label that its jobs carry; `secret` signs what is sent to both addresses. `provider` is whose task ids
    its start call answers. `pool` is where the compatible paths admit its jobs; `lease_ms` and `queue_ms` are None where the pool's
    own count."""

    table: str
    name: str
    provider: str | None = None
    start_url: str | None = None
    events_url: str | None = None
    secret: str | None = None
    pool: str = "default"
    lease_ms: int | None = None
    queue_ms: int | None = None

    def address(self, kind: str) -> str | None:
        """`kind` is `start` or `event`."""
        return self.start_url if kind == "start" else self.events_url


class Tools:
    """The configured ones by their tables. A table that nobody configured is a tool all the same, of the same name."""

    def __init__(self, configured: Mapping[str, Tool] | None = None) -> None:
        self._configured = dict(configured or {})

    def __getitem__(self, table: str) -> Tool:
        return self._configured.get(table) or Tool(table, SHIPPED_NAMES.get(table, table))

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._configured.values())

    @property
    def pools(self) -> list[str]:
        """Every pool that a tool waits in, `default` among them, by name."""
        return sorted({"default", *(tool.pool for tool in self)})

    def __contains__(self, table: object) -> bool:
        return table in self._configured
