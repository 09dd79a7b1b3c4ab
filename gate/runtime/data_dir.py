"""The data dir: a lock that says a server lives here, and where that server can be reached."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from gate.model.errors import CannotStart


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running server and its stores are. The Redis address may hold a password: the file is the owner's alone."""

    pid: int
    http: str
    redis_url: str
    sql_url: str


class DataDir:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def _address(self) -> Path:
        return self.path / "server.json"

    def take(self) -> None:
        """Makes the directory and locks it until this process ends. Raises CannotStart."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CannotStart(f"the data dir {self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(
                f"the data dir {self.path} is in use by another gate serve (--data-dir takes another)"
            ) from error

    @staticmethod
    def take_file(database: Path) -> None:
        """Locks a SQLite file until this process ends: wherever their data dirs are, two servers would each have a queue of
        their own for it. Raises CannotStart.
        """
        try:
            lock = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(f"SQL at {database} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(f"the SQLite file {database} is in use by another gate serve: several need Postgres") from error

    def server_id(self) -> str:
        """This server's name, the same when it comes back: the lock sees to it that one living server has it."""
        file = self.path / "server-id"
        try:
            if found := file.read_text().strip():
                return found
        except FileNotFoundError:
            pass
        made = secrets.token_hex(8)
        file.write_text(made)
        return made

    def tell(self, address: Address) -> None:
        """Where the server is, for the terminal."""
        passing = self._address.with_suffix(".new")
        passing.touch(mode=0o600)
        passing.write_text(json.dumps(asdict(address)))
        passing.rename(self._address)

    def leave(self) -> None:
        self._address.unlink(missing_ok=True)

    def running(self) -> Address | None:
        """The server that lives here now, if any: what a dead one left behind does not count."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            try:
                return Address(**json.loads(self._address.read_text()))
            except (OSError, ValueError, TypeError):
                return None  # it is just starting
        finally:
            os.close(lock)
        return None
