"""The HTTP protocol that gate serves. It declines an offer to upgrade to another protocol.

Java's client offers HTTP/2 with its first request, and so does `curl --http2`. A server that does not upgrade answers as if
the client had offered nothing (RFC 9110, 7.8). The parser stops behind such a head instead. It takes the request for one
without a body, and the body for the next request. So the head is parsed again without the offer, and then the bytes that
followed it.
"""

from __future__ import annotations

import sys

import httptools

from gate.http.server.protocol import BoundedProtocol


class DecliningProtocol(BoundedProtocol):
    """A BoundedProtocol that ignores offers to upgrade."""

    _came = b""
    _again = b""

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client. After an offer, parse again from the head without it."""
        while data:
            self._came, self._again = data, b""
            super().data_received(data)
            data, self._came = self._again, b""

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head has an offer: then the head is parsed again first."""
        if self._is_offer():
            self._in_head = False  # The bytes behind the head do not count for its size.
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request, unless its head has an offer: then the parser ended it too early."""
        if not self._is_offer():
            super().on_message_complete()

    def _is_offer(self) -> bool:
        """Say whether the head offers an upgrade. CONNECT is no offer: the application refuses it."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """Keep the head without its offer, and the bytes behind it.

        uvicorn calls this while it handles the parser's HttpParserUpgrade.
        """
        stopped = sys.exc_info()[1]
        if isinstance(stopped, httptools.HttpParserUpgrade) and self._is_offer():
            self._again = self._head() + self._came[stopped.args[0] :]

    def _head(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
