"""The socket that gate listens on, with the limits of TCP on a peer that is gone.

A peer may vanish without a word: its machine loses power, or a firewall forgets the connection. Then TCP alone keeps a connection
that waits (a long poll, a stream, an idle one) for ever. On Linux each accepted socket inherits these options from the listener, so
they cost nothing for a connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

from gate.model.errors import CannotStart

BACKLOG = 2048
"""Connections that may wait to be accepted."""
PROBE_AFTER_S = 15
"""Silence (s) after which the kernel asks the peer whether it is still there."""
PROBE_EVERY_S = 5
"""Time (s) between two such probes."""
PROBES_MAX = 3
"""Unanswered probes after which the connection is closed: 30 s after the last sign of the peer."""
UNACKNOWLEDGED_MS = 30_000
"""Time (ms) for which sent data may stay without an acknowledgement, or a peer may read nothing of what waits for it. Without it
Linux sends again for a quarter of an hour, and each heartbeat of a stream would begin that time anew."""
SO_ATTACH_FILTER = 26
"""Option of Linux that gives a socket a filter of packets. Python has no name for it."""
_PASS_ALL_BUT_SYN = (
    (0x30, 0, 0, 13),  # load the byte with the flags of the TCP header
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0x40000),  # else pass all of it
)
"""Instructions of the filter: code, jump if true, jump if false, operand."""


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """Listen on a TCP port.

    Args:
        host: Address of this machine.
        port: Port; 0 for a free one.
        shared: Other sockets of this user may listen on it too. The kernel deals the connections to them.

    Returns:
        The socket, which does not block.

    Raises:
        CannotStart: The port cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        _close_dead_peers(listener)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotStart(f"port {port} on {host} cannot be listened on: {error.strerror} (--port takes another)") from error
    listener.setblocking(False)
    return listener


def refuse_new(listener: socket.socket) -> None:
    """Let no further connection begin, so that none is lost when the listener closes.

    A listener that closes resets the connections that wait to be accepted, with the requests that proxies have sent into them. So
    first let the kernel drop each new SYN. The connections that it has completed can be accepted then. Who was dropped tries again
    after a second, and is refused or meets the next server on this port. On another system than Linux this does nothing.
    """
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("HBBI", *one) for one in _PASS_ALL_BUT_SYN)
    kept = ctypes.create_string_buffer(program)
    where = struct.pack("HL", len(_PASS_ALL_BUT_SYN), ctypes.addressof(kept))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, where)


def _close_dead_peers(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # guard: probe-silent-peers
    options = [
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES_MAX),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),  # guard: bound-unacknowledged-data
    ]
    for name, value in options:
        if (option := getattr(socket, name, None)) is not None:  # macOS has not all of them
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
