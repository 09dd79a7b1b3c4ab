"""Tools: their names, the addresses at which gate starts jobs and reports changes, and the pools of their jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gate.model.job import CancelRefunds
from gate.model.messages import ErrorKind, ProviderReport

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
    """A tool, as the configuration has it.

    Attributes:
        table: Label that its jobs carry as `tool`, and name of its job table.
        name: Display name.
        provider: Provider whose task ids the start call returns; None when the configuration names none.
        start_url: Address at which gate starts its jobs; None when gate starts none.
        events_url: Address to which gate sends each change of a job; None to send none.
        secret: Signs the calls to both addresses; None to send them unsigned.
        pool: Pool into which the compatible paths admit its jobs.
        lease_ms: Length of leases (ms) of its jobs; None for the pool's.
        queue_ms: Limit of time in the queue (ms) of its jobs; None for the pool's.
        cancel_refunds: Whether its jobs are refunded when they are cancelled after their start; None for the pool's setting.
        retry: How often gate starts one of its jobs again after a failure of its provider that is no fault of the job.
        retry_on: Words of an error, in small letters, by which a failure is one of those too.
    """

    table: str
    name: str
    provider: str | None = None
    start_url: str | None = None
    events_url: str | None = None
    secret: str | None = None
    pool: str = "default"
    lease_ms: int | None = None
    queue_ms: int | None = None
    cancel_refunds: CancelRefunds | None = None
    retry: int = 0
    retry_on: tuple[str, ...] = ()

    def starts_again(self, retries: int, report: ProviderReport) -> bool:
        """Return whether a job of this tool is started again after a report of its provider.

        Args:
            retries: How often it was started again before.
            report: The report.
        """
        if retries >= self.retry:  # guard: retries-are-counted
            return False
        if report.outcome != "failed":
            return False
        said = (report.error or "").casefold()
        return report.error_kind is ErrorKind.INFRASTRUCTURE or any(word in said for word in self.retry_on)

    def address(self, kind: str) -> str | None:
        """Return the address for a kind of call; None when the tool has none.

        Args:
            kind: `start` or `event`.
        """
        return self.start_url if kind == "start" else self.events_url


class Tools:
    """The tools by their tables. A table without configuration is a tool too.

    Its name is then the shipped display name, or else the table's name.
    """

    def __init__(self, configured: Mapping[str, Tool] | None = None) -> None:
        self._configured = dict(configured or {})

    def __getitem__(self, table: str) -> Tool:
        return self._configured.get(table) or Tool(table, SHIPPED_NAMES.get(table, table))

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._configured.values())

    @property
    def pools(self) -> list[str]:
        """Names of all pools that tools use, with `default`, in order."""
        return sorted({"default", *(tool.pool for tool in self)})

    def __contains__(self, table: object) -> bool:
        return table in self._configured
