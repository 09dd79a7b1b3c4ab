"""SQL: how each job ended, and what is refunded."""

from gate.ledger.database import Database
from gate.ledger.keys import Key
from gate.ledger.ledger import Ledger
from gate.ledger.pools import Pool, PoolSettings
from gate.ledger.reading import Event, InLine, Reading
from gate.ledger.results import Admitted, Ended, Recorded, Return

__all__ = [
    "Admitted",
    "Database",
    "Ended",
    "Event",
    "InLine",
    "Key",
    "Ledger",
    "Pool",
    "PoolSettings",
    "Reading",
    "Recorded",
    "Return",
]
