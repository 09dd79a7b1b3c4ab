"""The HTTP protocol that is served: for a request, too, that offers to go on in another one.

Java's client offers HTTP/2 with its first request, and so does `curl --http2`. Whoever does not want that answers as if nothing had been
offered (RFC 9110, 7.8). The parser stops behind such a head instead: it takes the request for one without a body, and the body for
the next request. So a head is read again without the offer, and what came behind it after that.
"""

from __future__ import annotations

import sys

import httptools

from gate.http.server.protocol import BoundedProtocol


class DecliningProtocol(BoundedProtocol):
    _came = b""
    _again = b""

    def data_received(self, data: bytes) -> None:
        while data:
            self._came, self._again = data, b""
            super().data_received(data)
            data, self._came = self._again, b""

    def on_headers_complete(self) -> None:
        if self._is_offer():
            self._in_head = False  # what is behind it is no part of it
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._is_offer():
            super().on_message_complete()

    def _is_offer(self) -> bool:
        """CONNECT asks for something else, and is told that it is not had here."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """Called where the parser has stopped, while what it raised is handled."""
        stopped = sys.exc_info()[1]
        if isinstance(stopped, httptools.HttpParserUpgrade) and self._is_offer():
            self._again = self._head() + self._came[stopped.args[0] :]

    def _head(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
