"""The Redis side of gate, which decides who may run now."""

from gate.slots.connection import RedisConnection
from gate.slots.pool_clock import Stepped
from gate.slots.results import (
    UNDONE,
    AcquireReply,
    AcquireResult,
    ExtendReply,
    ExtendResult,
    LedgerMark,
    NotDone,
    PoolLook,
    QueueState,
    RebuildReply,
    RebuildResult,
    RedisSnapshot,
    RestoreResult,
    ScriptReply,
    ShiftReply,
    ShiftResult,
    Undone,
)
from gate.slots.semaphore import Semaphore

__all__ = [
    "UNDONE",
    "AcquireReply",
    "AcquireResult",
    "ExtendReply",
    "ExtendResult",
    "LedgerMark",
    "NotDone",
    "PoolLook",
    "QueueState",
    "RebuildReply",
    "RebuildResult",
    "RedisConnection",
    "RedisSnapshot",
    "RestoreResult",
    "ScriptReply",
    "Semaphore",
    "ShiftReply",
    "ShiftResult",
    "Stepped",
    "Undone",
]
