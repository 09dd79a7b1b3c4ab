"""List, create and revoke keys from the terminal. Only SQL is needed, so it works while no server runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from gate.ledger.admin import api_keys
from gate.ledger.sql.engines import engine, first_line
from gate.model.errors import CannotStart

T = TypeVar("T")


def every(url: str) -> list[api_keys.Key]:
    """Return all keys, in order of their creation.

    Args:
        url: Address of the ledger.

    Raises:
        CannotStart: The ledger cannot be reached.
    """
    return _do(url, api_keys.every)


def create(url: str, name: str, role: str) -> str:
    """Create a key. Only this call returns it.

    Args:
        url: Address of the ledger.
        name: Name of the key.
        role: One of `api_keys.ROLES`.

    Raises:
        CannotStart: A key of this name exists, valid or revoked, or the ledger cannot be reached.
    """
    made = _do(url, lambda connection: api_keys.create(connection, name, role))
    if made is None:
        raise CannotStart(f"there is, or was, a key named {name!r}: take another name")
    return made


def revoke(url: str, name: str) -> None:
    """Revoke a key.

    Args:
        url: Address of the ledger.
        name: Name of the key.

    Raises:
        CannotStart: There is no valid key of this name, or the ledger cannot be reached.
    """
    if not _do(url, lambda connection: api_keys.revoke(connection, name)):
        raise CannotStart(f"there is no living key named {name!r}")


def _do(url: str, work: Callable[[Connection], T]) -> T:
    made = engine(url, writes=True)
    try:
        with made.begin() as connection:
            return work(connection)
    except SQLAlchemyError as error:
        raise CannotStart(f"the keys cannot be reached: {first_line(error)}") from error
    finally:
        made.dispose()
