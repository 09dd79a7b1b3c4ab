"""The text of the pages: by role and language, and always escaped."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gate.http.panel import assets, render, words
from tests.support.gate_process import Served
from tests.support.panel_people import ADMIN, Kept, Person
from tests.support.panel_scenes import HOSTILE, printable

TEMPLATES = sorted((Path(render.__file__).parent / "templates").iterdir())


def test_both_languages_say_the_same_things() -> None:
    english, portuguese = words.LANGUAGES["en"], words.LANGUAGES["pt-BR"]
    assert english.keys() == portuguese.keys()
    for key, text in english.items():
        assert re.findall(r"{\w+}", text) == re.findall(r"{\w+}", portuguese[key]), key


@pytest.mark.parametrize("template", TEMPLATES, ids=[path.name for path in TEMPLATES])
def test_no_text_stands_outside_the_languages(template: Path) -> None:
    bare = re.sub(
        r"{#.*?#}|{% block title %}.*?{% endblock %}|{%.*?%}|{{.*?}}|<code translate=\"no\">.*?</code>",
        "",
        template.read_text(),
        flags=re.DOTALL,
    )
    shown = re.sub(r"<title>.*?</title>|<span>gate</span>|<[^>]*>", "", bare)
    assert not re.search(r"[^\W\d_]", shown), shown.split()
    assert not re.findall(r"(?:aria-label|title|placeholder|alt)=\"[^\"{]+\"", template.read_text())


@pytest.mark.parametrize("template", TEMPLATES, ids=[path.name for path in TEMPLATES])
def test_nothing_stands_in_a_template_that_the_policy_forbids(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?:|<script(?! defer src=)", text)
    assert not re.search(r"\|\s*safe", text) or template.name in ("pool.html", "job.html"), (
        "only what a template made is safe"
    )


def test_every_word_is_used() -> None:
    whole = "".join(path.read_text() for path in TEMPLATES) + (assets.FOLDER / "panel.js").read_text()
    whole += "".join(path.read_text() for path in Path(render.__file__).parent.glob("*.py"))
    made = [*re.findall(r"'(\w+_)' ~", whole), "js_", "done_", "status_", "end_"]
    unused = [key for key in words.LANGUAGES["en"] if not key.startswith(tuple(made)) and not re.search(rf"\b{key}\b", whole)]
    assert not unused


@pytest.mark.parametrize(
    "accepted, language",
    [
        ("pt-BR,pt;q=0.9,en;q=0.8", "pt-BR"), ("pt", "pt-BR"), ("en-GB,pt;q=0.5", "en"), ("de,pt;q=0.3", "pt-BR"), ("de", "en"),
        ("", "en"), ("pt;q=0,en", "en"), ("en;q=nonsense,pt;q=0.1", "pt-BR"), ("*", "en"), ("," * 5000, "en"),
    ],
)  # fmt: skip
def test_the_browser_says_which_language(accepted: str, language: str) -> None:
    assert words.language(accepted) == language


def test_every_page_has_the_policy_and_is_not_cached(kept: Kept) -> None:
    person = kept.person("admin")
    for path in (
        "/",
        "/pools/default",
        "/session",
        "/users/nobody",
        "/find?q=nothing",
        "/pools/nowhere",
        "/pools/default/trends",
    ):
        headers = person.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"


def test_what_a_page_loads_is_kept_for_ever_under_its_content(kept: Kept) -> None:
    page = kept.person("read").get("/").text
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert len(loaded) == 3 and all(assets.version() in path for path in loaded)
    for path in loaded:
        answer = kept.person().get(path)
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"], path
    of_before = kept.person().get(f"/static/0000/{loaded[0].rsplit('/', 1)[1]}")
    assert of_before.status_code == 200 and of_before.headers["cache-control"] == "no-store"
    assert kept.person().get("/static/0000/..%2fpages.py").status_code == 404


def test_hostile_names_are_shown_as_they_are_and_do_nothing(kept: Kept) -> None:
    person = kept.person("admin")
    for n, name in enumerate(HOSTILE):
        text = printable(name)
        job_id = f"hostile-{n}"
        kept.acquire(job_id=job_id, user=text, tool=text, session=text, payload={"p": name})
        for path in ("/pools/default", f"/pools/default/jobs/{job_id}"):
            page = person.get(path).text
            assert "<script>alert" not in page and "<img src=x" not in page and "<svg/onload" not in page and "49" not in text
        found = person.get("/find", params={"q": text})
        assert found.status_code == 303
        assert person.get(found.headers["location"]).status_code == 200
        kept.cancel(job_id)


def test_a_reader_sees_no_payload_no_lease_and_no_button(kept: Kept) -> None:
    job = kept.acquire(job_id="secretive", payload={"prompt": "p-r-o-m-p-t"})
    reader, admin = kept.person("read"), kept.person("admin")
    for path in ("/", "/pools/default", "/pools/default/jobs/secretive"):
        page = reader.get(path).text
        assert (
            "secretive" in page and "p-r-o-m-p-t" not in page and job["lease"]["lease_id"] not in page and "/do/" not in page
        )
    page = admin.get("/pools/default/jobs/secretive").text
    assert "p-r-o-m-p-t" in page and job["lease"]["lease_id"] in page and "/do/release" in page
    kept.cancel("secretive")


def test_page_of_a_job_that_was_cancelled_after_its_start_says_why_nothing_went_back(kept: Kept) -> None:
    admin_key = {"apikey": ADMIN}
    for rule, shown in (("until_started", True), ("always", False)):
        kept.served.http.put("/v1/pools/default", json={"cancel_refunds": rule}, headers=admin_key).raise_for_status()
        kept.acquire(job_id=f"kept-{rule}", credits=3)
        kept.cancel(f"kept-{rule}")
        for language in ("en", "pt-BR"):
            page = kept.person("read", **{"accept-language": language}).get(f"/pools/default/jobs/kept-{rule}").text
            assert (words.LANGUAGES[language]["no_refund"] in page) == shown


def test_what_an_admin_does_is_kept_with_reason_and_name(kept: Kept) -> None:
    person = kept.person("admin")
    for verb, outcome in (("cancel", "cancelled"), ("release", "failed")):
        kept.acquire(job_id=f"by-hand-{verb}", user="ana", credits=7)
        path = f"/pools/default/jobs/by-hand-{verb}/do/{verb}"
        token = person.token(path)
        assert person.send(path, token, reason=" ", outcome="failed").status_code == 422, "say why"
        assert person.send(path, token, reason="stuck  since\nnoon", outcome="failed").status_code == 303
        job = kept.job(f"by-hand-{verb}")
        assert (job["status"], job["ended_by"]) == (outcome, "operator")
        assert job["end_reason"] == "stuck since noon (admin-key)" and job["refund"]["amount"] == 7
        again = person.send(path, token, reason="twice", outcome="completed")
        assert again.status_code == (303 if verb == "cancel" else 409), (
            "a repeat is answered as the first, another outcome is not"
        )
        assert "stuck since noon (admin-key)" in person.get(f"/pools/default/jobs/by-hand-{verb}").text
    token = person.token("/pools/default/do/limit")
    for wrong in ("-1", "1e3", "10001", "", "３"):
        assert person.send("/pools/default/do/limit", token, limit=wrong, reason="x").status_code == 422, wrong
    assert person.send("/pools/default/do/limit", token, limit="5", reason="the provider takes five").status_code == 303
    page = person.get("/pools/default").text
    (row,) = [row for row in re.findall(r"<li>.*?</li>", page, re.DOTALL) if "the provider takes five (admin-key)" in row]
    assert "limit 5" in row, "a reason stands in one piece with what it is the reason of"
    person.send("/pools/default/do/limit", token, limit="3", reason="as before")


def test_a_release_is_of_a_holder(kept: Kept) -> None:
    person = kept.person("admin")
    jobs = [kept.acquire(job_id=f"full-{n}") for n in range(4)]
    assert jobs[3]["status"] == "queued"
    path = "/pools/default/jobs/full-3/do/release"
    assert person.send(path, person.token(path), reason="x", outcome="completed").status_code == 409
    assert kept.job("full-3")["status"] == "queued"
    for job in jobs[::-1]:
        kept.cancel(job["job_id"])


def test_the_way_to_a_job_and_to_a_user(kept: Kept) -> None:
    person = kept.person("read")
    kept.acquire(job_id="to-be-found", user="zoë the user", credits=3)
    assert person.get("/find", params={"q": " to-be-found "}).headers["location"] == "/pools/default/jobs/to-be-found"
    to_user = person.get("/find", params={"q": "zoë the user"})
    assert to_user.status_code == 303 and "to-be-found" in person.get(to_user.headers["location"]).text
    kept.served.http.put(
        "/v1/pools/default/jobs/to-be-found/task",
        json={"provider": "acme", "task_id": "a task, found"},
        headers={"authorization": f"Bearer {ADMIN}"},
    )
    by_task = person.get("/find", params={"q": "a task, found"})
    assert by_task.headers["location"] == "/pools/default/jobs/to-be-found"
    assert person.get("/find", params={"q": "nobody at all"}).status_code == 404
    kept.cancel("to-be-found")


def test_pages_in_portuguese(kept: Kept) -> None:
    person = Person(kept.served.url, **{"accept-language": "pt-BR"})
    assert "Entrar" in person.get("/").text
    person.sign_in(ADMIN)
    page = person.get("/").text
    assert '<html lang="pt-BR">' in page and "vagas ocupadas" in page and "Sair" in page


def test_programs_are_answered_in_json(kept: Kept) -> None:
    plain = Person(kept.served.url, accept="*/*")
    assert plain.get("/").json()["code"] == "unauthorized"
    assert (
        Person(kept.served.url, accept="*/*", apikey=kept.keys["read"]).get("/pools/nowhere").json()["code"] == "pool_unknown"
    )


def test_the_panel_weighs_nothing_until_it_is_asked_for() -> None:
    """jinja2 is imported where it is used, and nowhere at the top of a file."""
    for path in Path(render.__file__).parent.glob("**/*.py"):
        tree = ast.parse(path.read_text())
        tops = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
        assert "jinja2" not in tops, path.name


def test_a_callback_with_half_an_emoji_can_be_looked_at(tmp_path: Path) -> None:
    """It is JSON, and as it came it is kept; but no text holds it."""
    with Served(tmp_path, config='[providers.runninghub]\ntoken = "t"\n') as own:
        job = own.acquire().json()
        own.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json={"provider": "runninghub", "task_id": "T9"})
        body = b'{"event":"TASK_END","taskId":"T9","eventData":{"code":1,"msg":"a cut \\ud83d emoji"}}'
        headers = {"content-type": "application/json"}
        assert own.http.post("/v1/webhooks/runninghub/default?token=t", content=body, headers=headers).json() == {
            "result": "applied"
        }
        page = own.http.get(f"/pools/default/jobs/{job['job_id']}", headers={"accept": "text/html"})
        assert page.status_code == 200 and r"a cut \ud83d emoji" in page.text


def test_unknown_address_is_a_page_for_a_browser_and_json_for_others(kept: Kept) -> None:
    for path in ("/nowhere", "/v1/nowhere", "/pools"):
        for language, says in (("en", "There is nothing here"), ("pt-BR", "Não há nada aqui")):
            page = kept.person(**{"accept-language": language}).get(path)
            assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
            assert says in page.text and "content-security-policy" in page.headers
            assert "Accept" in page.headers["vary"].split(", ")
        for accept in ("*/*", "application/json", ""):
            other = kept.served.http.get(path, headers={"accept": accept})
            assert (other.status_code, other.json()["code"], other.headers["vary"]) == (404, "not_found", "Accept")
            assert other.headers["content-type"] == "application/problem+json"
    old = kept.person().get("/functions/v1/runninghub-queue-manager/nowhere")
    assert old.headers["content-type"] == "application/json", "old front ends read JSON, whatever they accept"


def test_reference_has_the_policy_of_the_panel_and_files_of_its_own(kept: Kept) -> None:
    page = kept.person("read").get("/docs")
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert page.headers["content-security-policy"] == render.POLICY and len(loaded) == 3
    assert [kept.person().get(path).status_code for path in loaded] == [200] * 3
    assert "http" not in re.sub(r"<title>.*?</title>", "", page.text), "nothing of another host"
