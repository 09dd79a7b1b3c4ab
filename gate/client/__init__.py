"""The Python client: a `with` block that holds a slot.

    async with AsyncGate("http://127.0.0.1:8000") as gate:
        async with gate.slot("default", user="ana", tool="Upscaler Arcano", job_id="cat-1", credits=10) as lease:
            lease.complete(await paint(lease.payload))

`slot` waits in the queue, claims the slot, renews the lease in the background and releases it. The outcome is `completed`, or
`failed` when the body raises.

When the lease is lost, an async body is cancelled at once and the block raises `LeaseLost`. A sync body cannot be cancelled,
so it checks `lease.lost` or calls `lease.check()`.

All requests of a slot carry the same job_id, so no retry takes a second slot or charges twice.

Calls are retried while gate or its stores do not answer. stamina logs each retry, through structlog where that is installed.
`stamina.instrumentation.set_on_retry_hooks([])` turns these logs off. The client imports nothing of the server.
"""

from gate.client.async_client import AsyncGate, AsyncLease, AsyncSlot
from gate.client.errors import (
    AlreadyEnded,
    Closed,
    Forbidden,
    GateError,
    Invalid,
    JobEnded,
    JobIdReused,
    JobUnknown,
    LeaseLost,
    PoolUnknown,
    QueueFull,
    Refused,
    StartedByGate,
    StoreDown,
    TaskTaken,
    TooLarge,
    TooLong,
    Unauthorized,
    Unreachable,
    UserBusy,
    UserQueueFull,
    WaitTimeout,
    WrongJob,
)
from gate.client.models import Balance, Entry, Grant, Job, LedgerPage, Pool, Refund
from gate.client.sync_client import Gate, Lease, Slot

__all__ = [
    "AlreadyEnded",
    "AsyncGate",
    "AsyncLease",
    "AsyncSlot",
    "Balance",
    "Closed",
    "Entry",
    "Forbidden",
    "Gate",
    "GateError",
    "Grant",
    "Invalid",
    "Job",
    "JobEnded",
    "JobIdReused",
    "JobUnknown",
    "Lease",
    "LeaseLost",
    "LedgerPage",
    "Pool",
    "PoolUnknown",
    "QueueFull",
    "Refund",
    "Refused",
    "Slot",
    "StartedByGate",
    "StoreDown",
    "TaskTaken",
    "TooLarge",
    "TooLong",
    "Unauthorized",
    "Unreachable",
    "UserBusy",
    "UserQueueFull",
    "WaitTimeout",
    "WrongJob",
]
