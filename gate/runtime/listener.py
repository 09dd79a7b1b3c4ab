"""The socket that gate listens on, with the limits of TCP on a peer that is gone.

A peer may vanish without a word: its machine loses power, or a firewall forgets the connection. Then TCP alone keeps a connection
that waits (a long poll, a stream, an idle one) for ever. On Linux each accepted socket inherits these options from the listener, so
they cost nothing for a connection.
"""

from __future__ import annotations

import socket

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


def listen(host: str, port: int) -> socket.socket:
    """Listen on a TCP port.

    Args:
        host: Address of this machine.
        port: Port; 0 for a free one.

    Returns:
        The socket, which does not block.

    Raises:
        CannotStart: The port cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        _close_dead_peers(listener)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotStart(f"port {port} on {host} cannot be listened on: {error.strerror} (--port takes another)") from error
    listener.setblocking(False)
    return listener


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
