"""A gate that has keys, and people at its panel."""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from gate.ledger.admin import api_keys
from tests.support.gate_process import Served, run_gate

HTML = {"accept": "text/html"}
ADMIN = "an admin key from the environment"


def wait(true: Callable[[], bool], what: str, within_s: float) -> None:
    """As `tests.support.until`, without a loop: the browser has one already."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, f"waited {within_s} s in vain until {what}"
        time.sleep(0.02)


class Person:
    """A visitor with a browser: it keeps a cookie, and sends the headers of a browser."""

    def __init__(self, url: str, **headers: str) -> None:
        self.http = httpx2.Client(
            base_url=url, headers={name: value.encode("latin-1") for name, value in (HTML | headers).items()}, timeout=20
        )
        weakref.finalize(self, self.http.close)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.http.get(path, **more)

    def token(self, path: str = "/session") -> str:
        found = re.search(r'name="csrf" value="(\w+)"', self.get(path).text)
        assert found, path
        return found[1]

    def send(
        self, path: str, token: str | None = None, headers: dict[str, str] | None = None, **form: str
    ) -> httpx2.Response:
        own = {"sec-fetch-site": "same-origin", "origin": str(self.http.base_url).rstrip("/")}
        told = form | ({"csrf": self.token()} if token is None else {"csrf": token})
        return self.http.post(path, data=told, headers=own if headers is None else headers)

    def sign_in(self, key: str, **more: str) -> httpx2.Response:
        return self.send("/session", key=key, **more)

    @property
    def cookie(self) -> str | None:
        return self.http.cookies.get("gate_session")


class Kept:
    """`gate serve` with a key of each role."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.keys = {role: self._made(role, f"{role}-key") for role in api_keys.ROLES}
        served.stop()  # a server that starts reads the keys at once, and one that runs within 5 s
        served.start()

    def make(self, role: str, name: str) -> str:
        key = self._made(role, name)
        wait(lambda: self._status(key) == 200, "the key counts", within_s=6)
        return key

    def _made(self, role: str, name: str) -> str:
        made = run_gate("keys", "create", name, "--role", role, "--json", cwd=self.served.folder)
        key: str = json.loads(made.stdout)["key"]
        return key

    def revoke(self, name: str) -> None:
        assert run_gate("keys", "revoke", name, cwd=self.served.folder).returncode == 0

    def _status(self, key: str) -> int:
        return self.served.http.get("/v1/pools", headers={"apikey": key}).status_code

    def person(self, role: str | None = None, **headers: str) -> Person:
        found = Person(self.served.url, **headers)
        if role is not None:
            assert found.sign_in(self.keys[role]).status_code == 303
        return found

    def acquire(self, **body: Any) -> dict[str, Any]:
        answer = self.served.http.post("/v1/pools/default/acquire", json=body, headers={"apikey": self.keys["tool"]})
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def cancel(self, job_id: str) -> None:
        self.served.http.post(f"/v1/pools/default/jobs/{job_id}/cancel", headers={"apikey": ADMIN})

    def job(self, job_id: str) -> dict[str, Any]:
        return self.served.http.get(f"/v1/pools/default/jobs/{job_id}", headers={"apikey": ADMIN}).json()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with Served(tmp_path_factory.mktemp("kept"), GATE_ADMIN_KEY=ADMIN) as served:
        yield Kept(served)


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """While no key exists, this machine is let in."""
    with Served(tmp_path_factory.mktemp("unlocked")) as served:
        yield served
