"""The services of a gate, by name. Routes, commands and workers ask for the ones that they need."""

from __future__ import annotations

from dataclasses import dataclass

from gate.coordination.admission import Admission
from gate.coordination.early_end import EarlyEnd
from gate.coordination.hint_receiver import HintReceiver
from gate.coordination.jobs import JobCoordinator
from gate.coordination.pools import PoolCoordinator
from gate.coordination.queries import JobQueries
from gate.coordination.scrape import Scraper
from gate.coordination.store_health import StoreHealth
from gate.coordination.unread_callbacks import UnreadCallbackDesk
from gate.ledger import LedgerQueries


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one gate.

    Attributes:
        admission: Admits jobs.
        jobs: Runs and ends jobs.
        pools: Creates and changes pools.
        queries: Reads jobs and pools as they are now, with positions and estimates.
        ledger: Reads the records in SQL.
        early_end: Ends jobs that were never admitted.
        hints: Makes gate ask because of callbacks that are not believed.
        unread: Keeps callbacks that could not be read.
        scraper: Reads figures for monitoring.
        health: Knows whether both stores answer and take writes.
    """

    admission: Admission
    jobs: JobCoordinator
    pools: PoolCoordinator
    queries: JobQueries
    ledger: LedgerQueries
    early_end: EarlyEnd
    hints: HintReceiver
    unread: UnreadCallbackDesk
    scraper: Scraper
    health: StoreHealth
