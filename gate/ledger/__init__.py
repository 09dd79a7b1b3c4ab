"""SQL: how each job ended, and what is refunded."""

from gate.ledger.database import Database
from gate.ledger.deliveries import Deliveries, Delivery
from gate.ledger.keys import Key
from gate.ledger.ledger import Ledger
from gate.ledger.owner import Owner, Price
from gate.ledger.pools import Pool, PoolSettings
from gate.ledger.reading import Event, InLine, Reading
from gate.ledger.results import Admitted, Ended, Recorded, Return, Started
from gate.ledger.unread import Unread, UnreadCallbacks

__all__ = [
    "Admitted",
    "Database",
    "Deliveries",
    "Delivery",
    "Ended",
    "Event",
    "InLine",
    "Key",
    "Ledger",
    "Owner",
    "Pool",
    "PoolSettings",
    "Price",
    "Reading",
    "Recorded",
    "Return",
    "Started",
    "Unread",
    "UnreadCallbacks",
]
