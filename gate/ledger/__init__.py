"""SQL: how each job ended, and what is refunded."""

from gate.ledger.database import Database
from gate.ledger.deliveries import Deliveries, Delivery
from gate.ledger.keys import Key
from gate.ledger.ledger import Ledger
from gate.ledger.owner import Owner, Price
from gate.ledger.pools import Pool, PoolSettings
from gate.ledger.reading import Event, InLine, Reading
from gate.ledger.results import (
    AdmitResult,
    ApplyResult,
    BindResult,
    CallbackResult,
    Change,
    EndResult,
    EpochResult,
    ExtensionResult,
    GrantReturn,
    RecordReply,
    RefuseResult,
)
from gate.ledger.unread import Unread, UnreadCallbacks

__all__ = [
    "AdmitResult",
    "ApplyResult",
    "BindResult",
    "CallbackResult",
    "Change",
    "Database",
    "Deliveries",
    "Delivery",
    "EndResult",
    "EpochResult",
    "Event",
    "ExtensionResult",
    "GrantReturn",
    "InLine",
    "Key",
    "Ledger",
    "Owner",
    "Pool",
    "PoolSettings",
    "Price",
    "Reading",
    "RecordReply",
    "RefuseResult",
    "Unread",
    "UnreadCallbacks",
]
