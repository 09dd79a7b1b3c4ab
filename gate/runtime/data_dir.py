"""The data directory. It has a lock that a running server holds, and a file with the addresses of that server."""

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
    """Addresses of a running server and its stores. They may hold passwords, so only the file's owner may read the file.

    Attributes:
        pid: Process ID of the server.
        http: Address of its HTTP interface.
        redis_url: Address of its Redis.
        sql_url: Address of its database.
    """

    pid: int
    http: str
    redis_url: str
    sql_url: str


class DataDir:
    """The data directory of one server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def _address(self) -> Path:
        return self.path / "server.json"

    def take(self) -> None:
        """Create the directory, and lock it until this process ends.

        Raises:
            CannotStart: The directory cannot be written, or another server holds its lock.
        """
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
        self.leave()  # of a server that died here: its addresses are not those of this one

    @staticmethod
    def take_file(database: Path) -> None:
        """Lock a SQLite file until this process ends.

        Two servers with data directories of their own would each have a Redis of their own, and so two queues for one ledger.

        Raises:
            CannotStart: The file cannot be used, or another server holds its lock.
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
        """Return the name of this server, which a restart keeps. No two running servers have it, because of the lock."""
        file = self.path / "server-id"
        try:
            if found := file.read_text().strip():
                return found
        except FileNotFoundError:
            pass
        made = secrets.token_hex(8)
        file.write_text(made)
        return made

    def terminal_key(self) -> str | None:
        """Return the key of commands on this machine that call over HTTP; None when no server has made it yet."""
        try:
            return (self.path / "terminal-key").read_text().strip() or None
        except OSError:
            return None

    def make_terminal_key(self) -> str:
        """Return the key of commands on this machine. It is made once, and only the owner of the file may read it."""
        if (found := self.terminal_key()) is None:
            found = f"gt_{secrets.token_urlsafe(32)}"
            file = self.path / "terminal-key"
            file.touch(mode=0o600)
            file.write_text(found)
        return found

    def tell(self, address: Address) -> None:
        """Write the addresses of the server, for the commands of the terminal."""
        new_file = self._address.with_suffix(".new")
        new_file.touch(mode=0o600)
        new_file.write_text(json.dumps(asdict(address)))
        new_file.rename(self._address)

    def leave(self) -> None:
        """Delete the addresses, because the server stops."""
        self._address.unlink(missing_ok=True)

    def running(self) -> Address | None:
        """Return the addresses of the server that runs here.

        Returns:
            None when no server runs, even if a server that died has left its file, or when the server is still starting.
        """
        return self._read() if self._is_locked() else None

    def abandoned(self) -> Address | None:
        """Return the addresses of a server that ran here and ended without a stop; None when there is none."""
        return None if self._is_locked() else self._read()

    def _is_locked(self) -> bool:
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        return False

    def _read(self) -> Address | None:
        """Read the addresses; None when there are none yet, or none any more."""
        try:
            return Address(**json.loads(self._address.read_text()))
        except (OSError, ValueError, TypeError):
            return None
