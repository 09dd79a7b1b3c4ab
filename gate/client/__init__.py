"""The client for Python: a slot for the length of a block.

    async with AsyncGate("http://127.0.0.1:8000") as gate:
        async with gate.slot("default", user="ana", tool="Upscaler Arcano", job_id="cat-1", credits=10) as lease:
            lease.complete(await paint(lease.payload))

`slot` waits in line, claims, renews in the background and releases: `completed`, or `failed` when the body raises. A lease that
is lost is told to the body at once: an async body is cancelled and `LeaseLost` comes out of the block; a sync one looks at
`lease.lost` or calls `lease.check()`. Every request of a slot carries one job_id, so that no retry takes or charges twice.

While gate or its stores do not answer, calls are tried again; stamina logs that, to structlog where it is installed, and
`stamina.instrumentation.set_on_retry_hooks([])` silences it. Nothing of the server is imported but what a job is called
(`gate.jobs`).
"""

from gate.client.async_client import AsyncGate, AsyncLease, AsyncSlot
from gate.client.errors import (
    AlreadyEnded,
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
    Unauthorized,
    Unreachable,
    UserBusy,
)
from gate.client.models import Balance, Entry, Grant, Job, LedgerPage, Pool, Refund
from gate.client.sync_client import Gate, Lease, Slot

__all__ = [
    "AlreadyEnded",
    "AsyncGate",
    "AsyncLease",
    "AsyncSlot",
    "Balance",
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
    "Unauthorized",
    "Unreachable",
    "UserBusy",
]
