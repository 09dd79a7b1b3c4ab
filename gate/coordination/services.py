"""The services of a gate, by name. Routes, commands and workers ask for the ones that they need."""

from __future__ import annotations

from dataclasses import dataclass

from gate.coordination.admission import Admission
from gate.coordination.early_end import EarlyEnd
from gate.coordination.jobs import JobCoordinator
from gate.coordination.pools import PoolCoordinator
from gate.coordination.queries import JobQueries
from gate.coordination.scrape import Scraper
from gate.coordination.unread_callbacks import UnreadCallbackDesk
from gate.ledger import LedgerQueries


@dataclass(frozen=True, slots=True)
class Services:
    """What can be asked of a gate.

    Attributes:
        admission: How jobs come in.
        jobs: How jobs run and end.
        pools: Pools as a whole: settings, pause, rebuild.
        queries: Jobs and pools as they stand, with places and estimates.
        ledger: What SQL has on record.
        early_end: Ends of jobs that were never admitted.
        unread: Callbacks that could not be read.
        scraper: Figures for monitoring.
    """

    admission: Admission
    jobs: JobCoordinator
    pools: PoolCoordinator
    queries: JobQueries
    ledger: LedgerQueries
    early_end: EarlyEnd
    unread: UnreadCallbackDesk
    scraper: Scraper
