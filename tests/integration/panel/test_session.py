"""Who sees the panel and who acts on it: by a session that a key opened, and nothing else by that session."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import Any

import pytest

from gate.http.auth import session
from gate.http.auth.roles import ANYONE, LOOK
from gate.http.panel import ROUTERS
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.panel_people import ADMIN, Kept, Person, wait
from tests.support.routes import TABLE

PANEL = sorted((method, route.path) for router in ROUTERS for route in router.routes for method in route.methods)
GUARDED = [at for at in PANEL if TABLE[at] != ANYONE]
TOLD_APART = {"{callback_id}": "1", "{pool}": "default", "{job_id}": "nobody", "{user:text}": "ana"}


def filled(path: str) -> str:
    verb = "cancel" if "job_id" in path else "pause"
    return re.sub(r"{[\w:]+}", lambda found: TOLD_APART.get(found[0], verb), path)


def ask(person: Person, method: str, path: str) -> int:
    with person.http.stream(
        method, path, headers={"sec-fetch-site": "same-origin"}, data={} if method == "POST" else None
    ) as answer:
        return answer.status_code


@pytest.mark.parametrize("method, path", GUARDED, ids=[" ".join(at) for at in GUARDED])
def test_the_table_holds_for_sessions(kept: Kept, method: str, path: str) -> None:
    assert ask(kept.person(), method, filled(path)) == 401
    reads = ask(kept.person("read"), method, filled(path))
    assert reads == 403 if TABLE[method, path] != LOOK else reads in (200, 404), reads
    if method == "GET":
        assert ask(kept.person("admin"), method, filled(path)) in (200, 404)


@pytest.mark.parametrize("method, path", GUARDED, ids=[" ".join(at) for at in GUARDED])
def test_the_table_holds_for_keys_in_a_header(kept: Kept, method: str, path: str) -> None:
    for role, key in kept.keys.items():
        status = ask(Person(kept.served.url, authorization=f"Bearer {key}"), method, filled(path))
        assert (status == 403) == (role not in TABLE[method, path] or method == "POST"), (role, status)


def test_only_an_admin_acts() -> None:
    """Said here once more, because what walks the table believes it."""
    assert all(TABLE[at] == {"admin"} for at in PANEL if "/do/" in at[1])
    assert all(TABLE[at] == {"admin", "read"} for at in GUARDED if "/do/" not in at[1])


def test_a_stranger_is_asked_for_a_key_and_then_led_on(kept: Kept) -> None:
    person = kept.person()
    asked = person.get("/pools/default?all=true")
    assert asked.status_code == 401 and 'type="password"' in asked.text
    assert 'value="/pools/default?all=true"' in asked.text
    entered = person.sign_in(kept.keys["read"], next="/pools/default?all=true")
    assert (entered.status_code, entered.headers["location"]) == (303, "/pools/default?all=true")
    assert person.get("/pools/default").status_code == 200


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/a\r\nx: y"])
def test_no_answer_redirects_elsewhere(kept: Kept, to: str) -> None:
    assert kept.person().sign_in(kept.keys["read"], next=to).headers["location"] == "/"


def test_the_cookie_is_for_this_browser_and_this_host_alone(kept: Kept) -> None:
    person = kept.person()
    said = person.sign_in(kept.keys["admin"]).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in said.split(";")} and "Secure" not in said
    assert kept.keys["admin"] not in said and "Max-Age=" in said
    by_tls = Person(kept.served.url, **{"x-forwarded-proto": "https"})
    assert "Secure" in by_tls.get("/session").headers["set-cookie"]


def test_a_tool_key_is_refused_with_a_sentence(kept: Kept) -> None:
    person = kept.person()
    refused = person.sign_in(kept.keys["tool"])
    assert refused.status_code == 403 and "A tool&#39;s key never belongs in a browser" in refused.text
    assert person.get("/").status_code == 401
    assert kept.person().sign_in("gate_admin_" + "0" * 72).status_code == 401


def test_a_session_opens_nothing_but_the_panel_and_the_reference(kept: Kept) -> None:
    person = kept.person("admin")
    for path in ("/v1/pools", "/v1/ledger", "/metrics"):
        assert person.get(path).status_code == 401, path
    for path in ("/docs", "/openapi.json"):
        assert person.get(path).status_code == 200, path
        assert kept.person().get(path).status_code == 401, path
    assert person.http.post("/v1/pools/default/pause").status_code == 401
    assert person.http.post("/functions/v1/runninghub-queue-manager/status", json={}).status_code == 401


def test_nothing_is_done_without_the_token_or_from_elsewhere(kept: Kept) -> None:
    person = kept.person("admin")
    paused = lambda: kept.served.http.get("/v1/pools/default", headers={"apikey": ADMIN}).json()["paused"]  # noqa: E731
    good = person.token("/pools/default/do/pause")
    other = kept.person("admin").token("/pools/default/do/pause")
    act: Any = person.send
    assert good != other
    for token in ("", "0" * 64, other, good[:-1]):
        refused = act("/pools/default/do/pause", token, reason="x")
        assert (
            refused.status_code == 403 and "Load the page again" in refused.text and "key" not in refused.text.split("<h1")[1]
        )
    for headers in (
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "http://evil.example"}, {"origin": "null"},
    ):  # fmt: skip
        assert act("/pools/default/do/pause", good, headers, reason="x").status_code == 403, headers
    assert not paused()
    assert act("/pools/default/do/pause", good, reason="a look").status_code == 303 and paused()
    assert act("/pools/default/do/resume", good, reason="done").status_code == 303 and not paused()
    assert kept.person().send("/session", "", key=kept.keys["read"]).status_code == 403, (
        "a page of another origin signs no visitor in"
    )


def test_an_empty_pool_is_deleted_by_its_name_and_no_other(kept: Kept) -> None:
    person, pool = kept.person("admin"), fresh("pool")
    by_key = {"apikey": ADMIN}
    http, to = kept.served.http, f"/pools/{pool}/do/delete"
    http.put(f"/v1/pools/{pool}", json={"limit": 3}, headers=by_key).raise_for_status()
    link = f'href="{to}"'
    assert link in person.get(f"/pools/{pool}").text and link not in kept.person("read").get(f"/pools/{pool}").text
    assert "/do/delete" not in person.get("/pools/default").text, "it always exists"
    token = person.token(to)
    assert kept.person("read").send(to, confirm=pool, reason="x").status_code == 403
    job = http.post(f"/v1/pools/{pool}/acquire", json={}, headers=by_key).json()
    assert link not in person.get(f"/pools/{pool}").text
    busy = person.send(to, token, confirm=pool, reason="x")
    assert busy.status_code == 409 and "It has live jobs" in busy.text
    http.post(f"/v1/pools/{pool}/jobs/{job['job_id']}/cancel", headers=by_key).raise_for_status()
    other = person.send(to, token, confirm="default", reason="x")
    assert other.status_code == 422 and "not the name of the pool" in other.text
    assert "Digite o nome para confirmar" in person.get(to, headers={"accept-language": "pt-BR"}).text
    done = person.send(to, token, confirm=pool, reason="no longer used")
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert http.get(f"/v1/pools/{pool}", headers=by_key).status_code == 404
    assert person.get(f"/pools/{pool}/jobs/{job['job_id']}").status_code == 200, "its history stays"


def test_a_revoked_key_ends_its_sessions_and_streams_within_five_seconds(kept: Kept) -> None:
    key = kept.make("read", "passing")
    person = Person(kept.served.url)
    person.sign_in(key)
    with person.http.stream("GET", "/pools/default/live") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: gate:hello"
        kept.revoke("passing")
        wait(lambda: person.get("/").status_code == 401, "the session is over", within_s=5)
        assert "event: gate:signed-out" in lines


def test_a_session_is_for_a_time_and_cannot_be_made(kept: Kept) -> None:
    person = kept.person("read")
    assert person.cookie is not None
    name, until_s, nonce, seal = person.cookie.split("~")
    for forged in (
        f"{name}~{int(until_s) + 1}~{nonce}~{seal}", f"{session._packed('admin-key')}~{until_s}~{nonce}~{seal}",
        f"{name}~{until_s}~{nonce}~", f"{name}~1~{nonce}~{seal}", f"~~~{seal}", "~" * 9, "\\", f"{name}~9~é~{seal}", "open~" + "0" * 32,
    ):  # fmt: skip
        stranger = Person(kept.served.url, cookie=f"gate_session={forged.encode().decode('latin-1')}")
        assert stranger.get("/").status_code == 401, forged


def test_a_session_ends_with_its_time(kept: Kept) -> None:
    by = hashlib.sha256(kept.keys["read"].encode()).hexdigest()
    for until_s, status in ((time.time() - 1, 401), (time.time() + 60, 200)):
        said = f"{session._packed('read-key')}~{int(until_s)}~{'0' * 32}"
        sealed = Person(kept.served.url, cookie=f"gate_session={said}~{session._seal(by, said)}")
        assert sealed.get("/").status_code == status


def test_a_sign_out_ends_the_session(kept: Kept) -> None:
    person = kept.person("read")
    left = person.send("/session/end", person.token("/pools/default"))
    assert left.status_code == 303 and "gate_session=" in left.headers["set-cookie"]
    assert person.cookie is None and person.get("/").status_code == 401


def test_while_no_key_exists_this_machine_acts_without_one(unlocked: Served) -> None:
    person = Person(unlocked.url)
    assert "/session/end" not in person.get("/pools/default").text
    token = person.token("/pools/default/do/limit")
    assert person.send("/pools/default/do/limit", token, limit="3", reason="the same").status_code == 303
    assert person.send("/pools/default/do/limit", "", limit="4", reason="no token").status_code == 403
    assert Person(unlocked.url, **{"x-forwarded-for": "203.0.113.9"}).get("/").status_code == 401
    rebound = Person(unlocked.url, host="evil.example")
    assert rebound.get("/").status_code == 401, "a name that leads to this machine is not this machine"


def test_a_restart_keeps_the_session(tmp_path: Path) -> None:
    own = Served(tmp_path, GATE_ADMIN_KEY=ADMIN)
    own.start()
    person = Person(own.url)
    person.sign_in(ADMIN)
    token = person.token("/pools/default/do/pause")
    own.stop()
    own.start()
    again = Person(own.url, cookie=f"gate_session={person.cookie}")
    assert again.get("/").status_code == 200
    assert again.send("/pools/default/do/pause", token, reason="the page of before").status_code == 303
    own.stop()
    assert run_gate("ledger", "--json", cwd=tmp_path).returncode == 0
