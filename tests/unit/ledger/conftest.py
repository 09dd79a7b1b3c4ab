"""The ledger of a test, on a database of its own."""

from tests.support.ledger_book import book

__all__ = ["book"]
