"""The SQL store. It decides how each job ended, and what is refunded."""

from gate.ledger.admin.api_keys import Key
from gate.ledger.billing_hooks import BillingHooks, Price
from gate.ledger.commit.database import Database
from gate.ledger.ledger import Ledger
from gate.ledger.queries import Event, InLine, LedgerQueries
from gate.ledger.reports.asked_tasks import Asked, OrphanTasks
from gate.ledger.reports.provider_troubles import ProviderTroubles
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
    RebuildPlan,
    RecordReply,
    RefuseResult,
)
from gate.ledger.sql.pool_rows import Pool, PoolSettings
from gate.ledger.transitions.capacity import AccountState, Capacity, CapacityLook
from gate.ledger.transitions.deliveries import Deliveries, Delivery
from gate.ledger.transitions.hints import HintUse
from gate.ledger.transitions.questions import Heard, Question, Questions
from gate.ledger.transitions.servers import ServerRow, Servers
from gate.ledger.transitions.unread_callbacks import Unread, UnreadCallbacks

__all__ = [
    "AccountState",
    "AdmitResult",
    "ApplyResult",
    "Asked",
    "BillingHooks",
    "BindResult",
    "CallbackResult",
    "Capacity",
    "CapacityLook",
    "Change",
    "Database",
    "Deliveries",
    "Delivery",
    "EndResult",
    "EpochResult",
    "Event",
    "ExtensionResult",
    "GrantReturn",
    "Heard",
    "HintUse",
    "InLine",
    "Key",
    "Ledger",
    "LedgerQueries",
    "OrphanTasks",
    "Pool",
    "PoolSettings",
    "Price",
    "ProviderTroubles",
    "Question",
    "Questions",
    "RebuildPlan",
    "RecordReply",
    "RefuseResult",
    "ServerRow",
    "Servers",
    "Unread",
    "UnreadCallbacks",
]
