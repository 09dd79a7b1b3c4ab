"""Who may ask for what. The table of routes and roles is walked in full, on a server that has keys."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.http import panel
from gate.http.auth.roles import ADMIN as OPERATOR
from gate.http.auth.roles import ANY_KEY, ANYONE, LOOK, TOOL
from gate.ledger.admin import api_keys
from tests.support.gate_process import Served, run_gate
from tests.support.routes import TABLE
from tests.support.wait import until

ADMIN = "an admin key from the environment"


class Guarded:
    def __init__(self, served: Served) -> None:
        self.served = served
        self.keys = {"": "", **{role: self.make(role, f"{role}-key") for role in api_keys.ROLES}}

    def make(self, role: str, name: str) -> str:
        made = run_gate("keys", "create", name, "--role", role, "--json", cwd=self.served.folder)
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout)["key"]

    def ask(self, method: str, path: str, key: str = "", header: str = "authorization", **more: Any) -> httpx2.Response:
        shown = {} if not key else {header: f"Bearer {key}" if header == "authorization" else key}
        return self.served.http.request(method, path, headers=shown, **more)

    def counts(self, key: str, living: bool = True) -> None:
        want = 200 if living else 401
        asyncio.run(until(lambda: self.ask("GET", "/v1/pools", key).status_code == want, "the key counts", within_s=5))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Served(tmp_path_factory.mktemp("guarded"), GATE_ADMIN_KEY=ADMIN) as served:
        made = Guarded(served)
        made.counts(made.keys["read"])
        yield made


EXPECTED: dict[tuple[str, str], frozenset[str]] = {
    ("POST", "/v1/pools/{pool}/acquire"): TOOL,
    ("GET", "/v1/pools/{pool}/jobs/{job_id}"): ANY_KEY,
    ("GET", "/v1/pools/{pool}/jobs/{job_id}/events"): ANY_KEY,
    ("GET", "/v1/pools/{pool}/jobs/{job_id}/history"): ANY_KEY,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/claim"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/renew"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/release"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/ask"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/cancel"): TOOL,
    ("PUT", "/v1/pools/{pool}/jobs/{job_id}/task"): TOOL,
    ("POST", "/v1/pools/{pool}/cancel"): TOOL,
    ("GET", "/v1/pools"): ANY_KEY,
    ("GET", "/v1/pools/{pool}"): ANY_KEY,
    ("PUT", "/v1/pools/{pool}"): OPERATOR,
    ("DELETE", "/v1/pools/{pool}"): OPERATOR,
    ("POST", "/v1/pools/{pool}/pause"): OPERATOR,
    ("POST", "/v1/pools/{pool}/resume"): OPERATOR,
    ("GET", "/v1/users/{user:text}/active"): ANY_KEY,
    ("GET", "/v1/ledger"): ANY_KEY,
    ("GET", "/v1/servers"): OPERATOR,
    ("GET", "/v1/ledger/balances/{user:text}"): ANY_KEY,
    ("POST", "/v1/admin/drain"): OPERATOR,
    ("POST", "/functions/v1/runninghub-queue-manager/{path:text}"): TOOL,
    ("OPTIONS", "/functions/v1/runninghub-queue-manager/{path:text}"): ANYONE,
    ("POST", "/functions/v1/runninghub-queue-manager"): TOOL,
    ("OPTIONS", "/functions/v1/runninghub-queue-manager"): ANYONE,
    ("POST", "/rest/v1/rpc/{name}"): TOOL,
    ("POST", "/rest/v1/rpc/cleanup_all_stale_ai_jobs"): TOOL,
    ("POST", "/rest/v1/rpc/user_cancel_ai_job"): TOOL,
    ("OPTIONS", "/rest/v1/rpc/{name}"): ANYONE,
    ("POST", "/v1/webhooks/{provider}/{pool}"): ANYONE,
    ("POST", "/functions/v1/runninghub-webhook"): ANYONE,
    ("GET", "/v1/callbacks/unread"): LOOK,
    ("POST", "/v1/callbacks/unread/{callback_id}/apply"): OPERATOR,
    ("POST", "/v1/callbacks/unread/{callback_id}/dismiss"): OPERATOR,
    ("GET", "/docs"): ANY_KEY,
    ("GET", "/openapi.json"): ANY_KEY,
    ("GET", "/metrics"): ANY_KEY,
    ("GET", "/"): LOOK,
    ("GET", "/live"): LOOK,
    ("GET", "/find"): LOOK,
    ("GET", "/users/{user:text}"): LOOK,
    ("GET", "/pools/{pool}"): LOOK,
    ("GET", "/pools/{pool}/live"): LOOK,
    ("GET", "/pools/{pool}/trends"): LOOK,
    ("GET", "/pools/{pool}/do/{verb}"): OPERATOR,
    ("POST", "/pools/{pool}/do/{verb}"): OPERATOR,
    ("GET", "/pools/{pool}/callbacks/{callback_id}/do/apply"): OPERATOR,
    ("POST", "/pools/{pool}/callbacks/{callback_id}/do/apply"): OPERATOR,
    ("GET", "/pools/{pool}/jobs/{job_id}"): LOOK,
    ("GET", "/pools/{pool}/jobs/{job_id}/live"): LOOK,
    ("GET", "/pools/{pool}/jobs/{job_id}/do/{verb}"): OPERATOR,
    ("POST", "/pools/{pool}/jobs/{job_id}/do/{verb}"): OPERATOR,
    ("GET", "/session"): ANYONE,
    ("POST", "/session"): ANYONE,
    ("POST", "/session/end"): ANYONE,
    ("GET", "/static/{version}/{name}"): ANYONE,
    ("GET", "/healthz"): ANYONE,
    ("GET", "/readyz"): ANYONE,
    ("HEAD", "/healthz"): ANYONE,
    ("HEAD", "/readyz"): ANYONE,
}
"""A second time, so that a role is never changed by accident."""


def test_each_route_declares_the_roles_that_were_meant() -> None:
    assert TABLE == EXPECTED


OF_THE_PANEL = {(method, route.path) for router in panel.ROUTERS for route in router.routes for method in route.methods}
"""Which has sessions and tokens beside keys: tests/integration/panel/test_session.py."""
STOPS = ("POST", "/v1/admin/drain")
"""The route that ends the server: tests/integration/http/test_drain.py."""
WALKED = [at for at in TABLE if at not in OF_THE_PANEL and at != STOPS]


@pytest.mark.parametrize("method, path", WALKED, ids=[f"{method} {path}" for method, path in WALKED])
def test_the_table_of_roles(guarded: Guarded, method: str, path: str) -> None:
    at = re.sub(r"{\w+(:text)?}", "nobody", path)
    for role, key in guarded.keys.items():
        answer = guarded.ask(
            method, at.removesuffix("/events"), key, **({"json": {"x": 1}} if method not in ("GET", "HEAD") else {})
        )
        if TABLE[method, path] == ANYONE and "webhook" in path:
            assert answer.json()["code"] in ("forged", "provider_unknown")
        elif role in TABLE[method, path]:
            assert answer.status_code not in (401, 403) and answer.status_code < 500, (role, answer.text)
        elif role == "":
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_caller_without_a_key_is_refused_before_the_body_is_read(guarded: Guarded) -> None:
    for path, role in (("acquire", "read"), ("jobs/nobody/release", "read"), ("pause", "tool")):
        for key, status in (("", 401), (guarded.keys[role], 403)):
            headers = {"content-type": "application/json", "apikey": key}
            refused = guarded.served.http.post(f"/v1/pools/default/{path}", content=b'{"a": NaN', headers=headers)
            assert refused.status_code == status, (path, refused.text)


def test_a_key_is_shown_in_either_header(guarded: Guarded) -> None:
    key = guarded.keys["read"]
    assert guarded.ask("GET", "/v1/pools", key, "apikey").status_code == 200
    both = {"authorization": "Bearer eyJ.of.a-user", "apikey": key}
    assert guarded.served.http.get("/v1/pools", headers=both).status_code == 200, "as supabase-js sends it"
    assert guarded.ask("GET", "/v1/pools", ADMIN).status_code == 200
    for wrong in (key[:-1], key + "0", key.upper(), api_keys.mint("admin"), "Bearer"):
        assert guarded.ask("GET", "/v1/pools", wrong).status_code == 401


def test_a_reader_sees_no_payload_and_no_lease_id(guarded: Guarded) -> None:
    body = {"job_id": "secretive", "payload": {"prompt": "p"}}
    job = guarded.ask("POST", "/v1/pools/default/acquire", guarded.keys["tool"], json=body).json()
    assert job["payload"] and job["lease"]["lease_id"]
    for path in ("/v1/pools/default/jobs/secretive", "/v1/pools/default", "/v1/pools"):
        text = guarded.ask("GET", path, guarded.keys["read"]).text
        assert "secretive" in text and job["lease"]["lease_id"] not in text and "prompt" not in text
    guarded.ask("POST", "/v1/pools/default/jobs/secretive/cancel", guarded.keys["tool"])


def test_the_same_idempotency_key_of_two_callers_is_two_jobs(guarded: Guarded) -> None:
    def ask(key: str) -> str:
        headers = {"authorization": f"Bearer {key}", "idempotency-key": "once"}
        return guarded.served.http.post("/v1/pools/default/acquire", json={"user": "ana"}, headers=headers).json()["job_id"]

    ids = [ask(guarded.keys["tool"]), ask(guarded.keys["tool"]), ask(ADMIN)]
    assert ids[0] == ids[1] != ids[2]
    for job_id in {*ids}:
        guarded.ask("POST", f"/v1/pools/default/jobs/{job_id}/cancel", ADMIN)


def test_a_key_counts_and_is_revoked_within_five_seconds(guarded: Guarded) -> None:
    key = guarded.make("tool", "passing")
    guarded.counts(key)
    again = run_gate("keys", "create", "passing", "--role", "tool", cwd=guarded.served.folder)
    assert again.returncode == 1 and "passing" in again.stderr
    assert run_gate("keys", "revoke", "passing", cwd=guarded.served.folder).returncode == 0
    guarded.counts(key, living=False)
    listed = run_gate("keys", "list", "--json", cwd=guarded.served.folder).stdout
    (row,) = [row for row in json.loads(listed) if row["name"] == "passing"]
    assert row["revoked_at"] and key.startswith(row["shown"]) and key not in listed
    assert run_gate("keys", "revoke", "passing", cwd=guarded.served.folder).returncode == 1


def test_the_demo_shows_a_key(guarded: Guarded) -> None:
    refused = run_gate("demo", cwd=guarded.served.folder)
    assert refused.returncode == 1 and "--key" in refused.stderr and refused.stderr.count("\n") == 1
    shown = run_gate("demo", "--key", guarded.keys["tool"], cwd=guarded.served.folder)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_no_secret_is_written_down(guarded: Guarded) -> None:
    everything = b"".join(path.read_bytes() for path in guarded.served.folder.rglob("*") if path.is_file())
    for secret in (*guarded.keys.values(), ADMIN):
        assert not secret or secret.encode() not in everything


def test_the_access_log_has_no_query_and_no_key(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_ACCESS_LOG="1", GATE_ADMIN_KEY=ADMIN) as own:
        headers = {"authorization": f"Bearer {ADMIN}"}
        assert own.http.get("/v1/ledger", params={"user": "tokenlike"}, headers=headers).status_code == 200
        assert own.http.get("/v1/pools").status_code == 401
    said = (tmp_path / "errors.log").read_text()
    (fine,) = [line for line in said.splitlines() if "/v1/ledger" in line]
    told = json.loads(fine)
    assert (told["status"], told["key"]) == (200, "GATE_ADMIN_KEY")
    assert '"status": 401' in said and "tokenlike" not in said and ADMIN not in said


def test_settings_do_not_show_their_secrets() -> None:
    from gate.runtime.settings import load

    secret = "a-password"
    settings = load(admin_key=secret, redis_url=f"redis://:{secret}@host/0", database_url=f"postgresql://me:{secret}@host/db")
    assert secret not in repr(settings) and secret not in str(settings)


def test_while_no_key_exists_this_machine_is_let_in_whatever_it_shows(tmp_path: Path) -> None:
    with Served(tmp_path) as own:
        guarded = own.http.get("/v1/pools", headers={"authorization": "Bearer nonsense", "apikey": "x"})
        assert guarded.status_code == 200
        forwarded = own.http.get("/v1/pools", headers={"x-forwarded-for": "203.0.113.9"})
        assert forwarded.status_code == 401, "a proxy on this machine brings callers from elsewhere"
        assert "no key exists yet" in forwarded.json()["detail"] and "gate keys create" in forwarded.json()["detail"]
        foreign = own.http.post("/v1/pools/default/pause", headers={"origin": "http://evil.example"})
        assert foreign.status_code == 403, "a page in this machine's browser is not this machine"
        assert own.http.get("/v1/pools", headers={"origin": own.url}).status_code == 200
        for name, status in (
            ("evil.example:8000", 403),
            ("[::1", 403),
            ("a.localhost", 200),
            ("127.0.0.1:1", 200),
            ("[::1]:1", 200),
        ):
            assert own.http.get("/v1/pools", headers={"host": name}).status_code == status, name
        assert own.http.get("/", headers={"host": "evil"}).status_code == 401, (
            "a page is let in under this machine's names alone"
        )
        run_gate("keys", "create", "last", "--role", "read", cwd=tmp_path)
        run_gate("keys", "revoke", "last", cwd=tmp_path)
        closed = lambda: own.http.get("/v1/pools").status_code == 401  # noqa: E731
        asyncio.run(until(closed, "the door is closed, and stays so without a living key", within_s=5))
        assert own.http.get("/healthz").status_code == 200


def test_an_open_host_wants_a_key_first(tmp_path: Path) -> None:
    refused = run_gate("serve", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path)
    assert refused.returncode == 1 and "gate keys create" in refused.stderr and refused.stderr.count("\n") == 1
    assert run_gate("keys", "create", "me", "--role", "admin", cwd=tmp_path).stdout.startswith("gate_admin_")
    with Served(tmp_path, "--host", "0.0.0.0", on_defaults=True) as own:
        assert own.http.get("/v1/pools").status_code == 401


@pytest.mark.parametrize("key", ["", "  ", "\n"])
def test_an_empty_key_is_no_key(tmp_path: Path, key: str) -> None:
    refused = run_gate("serve", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path, GATE_ADMIN_KEY=key)
    assert refused.returncode == 1 and "no key exists" in refused.stderr


def test_a_key_is_shown_as_a_header_carries_it(tmp_path: Path) -> None:
    refused = run_gate("serve", "--port", "0", cwd=tmp_path, GATE_ADMIN_KEY="ключ")
    assert refused.returncode == 1 and "admin_key" in refused.stderr and "ключ" not in refused.stderr
    with Served(tmp_path, GATE_ADMIN_KEY=" padded\n", FORWARDED_ALLOW_IPS="*") as own:
        assert own.http.get("/v1/pools", headers={"apikey": "padded"}).status_code == 200
        assert own.http.get("/v1/pools", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 401


def test_what_is_open_to_anyone_tells_nothing() -> None:
    open_to_all = {path for (method, path), roles in TABLE.items() if roles == ANYONE and method != "OPTIONS"}
    by_their_own_secret = {"/v1/webhooks/{provider}/{pool}", "/functions/v1/runninghub-webhook"}
    way_in = {"/session", "/session/end", "/static/{version}/{name}"}
    assert open_to_all == {"/healthz", "/readyz"} | by_their_own_secret | way_in


def test_the_form_of_a_key() -> None:
    key = api_keys.mint("tool")
    assert api_keys.is_key(key) and not api_keys.is_key(key[:-1] + ("0" if key[-1] != "0" else "1"))
    assert (
        not api_keys.is_key(key + "\n")
        and not api_keys.is_key("")
        and len({api_keys.mint("tool") for _ in range(100)}) == 100
    )
