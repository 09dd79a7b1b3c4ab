"""The panel in a real Chromium: what a visitor sees and does there. Any complaint of the browser fails the test."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from gate.simulator import Simulator
from tests.proof.browsers import browser
from tests.proof.browsers.screenshots import CONFIG, PAGES, WIDTHS
from tests.proof.simulator.test_accounts import KEYS, counting, start, two_keys
from tests.support import panel_scenes as scenes
from tests.support.gate_process import Served
from tests.support.panel_people import ADMIN, Kept

pytestmark = pytest.mark.skipif(
    browser.program() is None and "GATE_TEST_EVERYTHING" not in os.environ, reason="no chromium on the PATH"
)
WORST = ("serious", "critical")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each scene in a pool of its own."""
    with Served(tmp_path_factory.mktemp("staged"), config=CONFIG) as served:
        scenes.few(served, "few")
        scenes.many(served, "many", 150)
        scenes.hostile(served, "hostile")
        yield served


def live(page: Any, path: str) -> None:
    page.goto(path)
    page.locator("#link[data-state=live]").wait_for()


def drawn(page: Any, path: str) -> None:
    page.goto(path)
    if page.locator("#link").count():
        page.locator("#link[data-state=live]").wait_for()
    if page.locator("#trends").count():
        page.locator("[data-plot=refunds] canvas").wait_for()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_of_a_job_follows_what_the_provider_says_of_its_task(chromium: Any, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 800}
    with Simulator(limit=3) as simulator, counting(tmp_path, simulator, {"first": 3}, limit=3, drain_seconds=60) as served:
        two_keys(simulator)
        path = f"/pools/default/jobs/{start(served, simulator, deaf=True)['job_id']}"
        with browser.window(chromium, served.url, viewport=size) as page:
            live(page, path)
            page.evaluate("window.before = true")
            served.http.post(f"/v1{path}/ask")
            page.get_by_text(re.compile(r"^asked \d+ s ago: running$")).wait_for()
            simulator.control(away_s=60)
            served.http.post(f"/v1{path}/ask")
            page.get_by_text(re.compile(r"^no answer for \d+ s$")).wait_for()
            served.http.post(f"/v1{path}/cancel")
            page.get_by_text("stopping at the provider").wait_for()
            assert page.evaluate("window.before && document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_of_a_pool_follows_its_accounts(chromium: Any, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 800}
    limits = {"first": 3, "second": 3}
    with Simulator(limit=3) as simulator, counting(tmp_path, simulator, limits, limit=6, capacity="off") as served:
        two_keys(simulator)
        job = start(served, simulator)
        with browser.window(chromium, served.url, viewport=size) as page:
            live(page, "/pools/default")
            page.evaluate("window.before = true")
            page.locator("#accounts .mark", has_text=re.compile("^open$")).nth(1).wait_for()
            simulator.control(keys={KEYS["first"]: {"code": 802}})
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
            page.locator("#accounts .mark", has_text=re.compile("^down$")).wait_for()
            page.get_by_text("of 6 slots in force: an account is down").wait_for()
            page.locator("#accounts .long", has_text="802").wait_for()
            assert page.evaluate("window.before && document.documentElement.scrollWidth <= innerWidth")


def test_from_the_key_to_a_grant_and_its_end_by_hand(chromium: Any, kept: Kept) -> None:
    with browser.window(chromium, kept.served.url) as page:
        page.goto("/pools/default")
        page.get_by_label("Key").fill(kept.keys["admin"])
        page.keyboard.press("Enter")
        page.locator("#link[data-state=live]").wait_for()
        page.evaluate("window.before = true")
        kept.acquire(job_id="seen", user="ana", tool="Upscaler Arcano", credits=3)
        slot = page.locator("#s-seen")
        slot.wait_for()
        assert "Upscaler Arcano" in slot.inner_text() and "running" in slot.inner_text()
        slot.get_by_role("link", name="Cancel: seen").focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog", name="Cancel: seen").wait_for()
        page.keyboard.type("nobody wants it")  # the reason has the focus
        page.keyboard.press("Enter")
        slot.wait_for(state="detached")
        page.locator("#e-seen", has_text="nobody wants it (admin-key)").wait_for()
        page.locator("#said", has_text="seen is cancelled.").wait_for(state="attached")
        assert not page.locator("dialog[open]").count() and page.evaluate("window.before")
    assert kept.job("seen")["end_reason"] == "nobody wants it (admin-key)"


def test_a_pool_is_deleted_by_its_name_and_the_page_goes_to_the_others(chromium: Any, unlocked: Served) -> None:
    unlocked.http.put("/v1/pools/passing", json={"limit": 1}).raise_for_status()
    with browser.window(chromium, unlocked.url) as page:
        live(page, "/pools/passing")
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("dialog", name="Delete: passing").wait_for()
        page.get_by_label("Type its name to confirm: passing").fill("default")
        page.get_by_label("Reason").fill("no longer used")
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("Type its name to confirm: passing").fill("passing")
        page.get_by_role("button", name="Delete").click()
        page.wait_for_url(lambda url: not url.endswith("/passing"))
    assert unlocked.http.get("/v1/pools/passing").status_code == 404


def test_a_refusal_stands_in_the_form(chromium: Any, kept: Kept) -> None:
    kept.acquire(job_id="gone")
    with browser.window(chromium, kept.served.url) as page:
        page.goto("/pools/default/jobs/gone")
        page.get_by_label("Key").fill(kept.keys["admin"])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="Release: gone").click()
        page.get_by_role("radio", name="completed").wait_for()
        assert page.locator("input:checked").count() == 0, "the operator has to choose an outcome"
        page.get_by_role("radio", name="completed").check()
        page.get_by_label("Reason").fill("it hangs")
        kept.cancel("gone")
        page.get_by_role("button", name="Release").click()
        page.get_by_role("alert").wait_for()
        assert page.locator("dialog[open]").count() and page.get_by_label("Reason").input_value() == "it hangs"
        page.keyboard.press("Escape")
        assert not page.locator("dialog[open]").count()


def test_focus_stays_where_it_is_while_the_line_moves(chromium: Any, unlocked: Served) -> None:
    jobs = [unlocked.acquire(job_id=f"move-{n}").json() for n in range(6)]
    with browser.window(chromium, unlocked.url) as page:
        live(page, "/pools/default")
        mine = page.locator("#q-move-5").get_by_role("link", name="Cancel: move-5")
        mine.focus()
        unlocked.act(jobs[0], "release", outcome="completed")
        page.locator("#s-move-3").wait_for()
        page.locator("#q-move-5 td.n", has_text="2").wait_for()
        assert mine.evaluate("element => element === document.activeElement")
    for job in jobs[:0:-1]:
        unlocked.act(job, "cancel")


def test_why_a_job_waits_beside_a_free_slot(chromium: Any, unlocked: Served) -> None:
    unlocked.post("/v1/pools/default/pause", {"reason": "a look"})
    job = unlocked.acquire(job_id="beside").json()
    with browser.window(chromium, unlocked.url) as page:
        live(page, "/pools/default")
        page.locator("#q-beside", has_text="paused").wait_for()
        page.locator("[data-alert=paused]").wait_for()
        page.get_by_role("link", name="Resume").click()
        page.get_by_label("Reason").fill("seen")
        page.get_by_role("button", name="Resume").click()
        page.locator("#s-beside[data-status=granted]").wait_for()
        page.locator("[data-alert=paused]").wait_for(state="detached")
        page.locator("#changes", has_text="seen").wait_for()
    unlocked.act(job, "cancel")


def test_a_restart_needs_no_reload_and_an_upgrade_does_one(chromium: Any, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with Served(tmp_path, "--port", str(port), GATE_ADMIN_KEY=ADMIN) as own, browser.window(chromium, own.url) as page:
        page.goto("/")
        page.get_by_label("Key").fill(ADMIN)
        page.keyboard.press("Enter")
        page.locator("#link[data-state=live]").wait_for()
        page.evaluate("window.before = true")
        own.stop()
        page.locator("#link[data-state=reconnecting]").wait_for()
        own.start()
        page.locator("#link[data-state=live]").wait_for()
        own.http.post("/v1/pools/default/acquire", json={"job_id": "after"}, headers={"apikey": ADMIN})
        page.locator("#s-after").wait_for()
        assert page.evaluate("window.before"), "the page is the same"
        page.evaluate("document.querySelector('meta[name=gate-version]').content = 'of before'")
        own.stop()
        own.start()
        page.wait_for_function("() => !window.before")
        page.locator("#link[data-state=live]").wait_for()
        page.locator("#s-after").wait_for()


def test_a_store_that_hangs_is_named_and_what_was_seen_is_greyed(chromium: Any, tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as own, browser.window(chromium, own.url) as page:
        own.acquire(job_id="held")
        live(page, "/")
        with redis.Redis.from_url(own.redis_url) as client:
            pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            page.locator("[data-alert=down]", has_text="Redis does not answer").wait_for()
            page.locator("#s-held").wait_for()
            opacity = "() => Number(getComputedStyle(document.querySelector('#board')).opacity) < 0.7"
            page.wait_for_function(opacity)
        finally:
            os.kill(pid, signal.SIGCONT)
        page.locator("[data-alert=down]").wait_for(state="detached")


def test_a_key_that_is_revoked_leaves_a_page_that_says_so(chromium: Any, kept: Kept) -> None:
    key = kept.make("read", "for-a-while")
    with browser.window(chromium, kept.served.url) as page:
        page.goto("/")
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        page.locator("#link[data-state=live]").wait_for()
        kept.revoke("for-a-while")
        page.get_by_role("link", name="signed out").wait_for()


def test_deadlines_run_by_the_servers_clock(chromium: Any, unlocked: Served) -> None:
    job = unlocked.acquire(job_id="by-the-clock", lease_seconds=3000).json()
    with browser.window(chromium, unlocked.url) as page:
        page.clock.install(time="2001-01-01T00:00:00Z")
        page.clock.resume()
        live(page, "/")
        left = page.locator("#s-by-the-clock .left time")
        page.wait_for_function("() => /^(49|50) min/.test(document.querySelector('#s-by-the-clock .left time').textContent)")
        assert "UTC" not in left.inner_text() and left.get_attribute("datetime", timeout=5000)
    unlocked.act(job, "cancel")


@pytest.mark.parametrize("language, words", [("en-US", ["Slots", "Queue", "live"]), ("pt-BR", ["Vagas", "Fila", "ao vivo"])])
def test_in_the_language_of_the_browser(chromium: Any, staged: Served, language: str, words: list[str]) -> None:
    with browser.window(chromium, staged.url, locale=language) as page:
        live(page, "/pools/few")
        text = page.locator("body").inner_text()
        assert all(word in text for word in words)


def test_each_theme_has_its_ground(chromium: Any, staged: Served) -> None:
    grounds = {}
    for theme in ("light", "dark"):
        with browser.window(chromium, staged.url, color_scheme=theme) as page:
            live(page, "/pools/few")
            grounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(244, 244, 241)", "dark": "rgb(17, 19, 21)"}


@pytest.mark.parametrize("width, theme", [(390, "light"), (820, "dark"), (1440, "light")])
def test_nothing_serious_is_found_by_axe_and_nothing_overflows(chromium: Any, staged: Served, width: int, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    view = {"width": width, "height": WIDTHS[width]}
    with browser.window(chromium, staged.url, viewport=view, color_scheme=theme, bypass_csp=True) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a name has run as a script: {dialog.message}"))
        for name, path in PAGES.items():
            drawn(page, path)
            found = Axe().run(page).response["violations"]
            assert not [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in WORST], name
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name


@pytest.fixture(scope="module")
def aged(staged: Served) -> Served:
    """The pool `few` with endings of yesterday, of last month and of last year, each with a long reason."""
    now_ms = time.time_ns() // 1_000_000
    for days in (1.1, 40, 400):
        job_id = f"aged-{days:.0f}"
        staged.acquire("few", job_id=job_id, user="ana", tool="Upscaler Arcano", credits=10)
        reason = "workflow 8841 failed at node 12 (KSampler): no memory left while allocating 3.2 GiB"
        staged.post(f"/v1/pools/few/jobs/{job_id}/cancel", {"reason": reason})
        staged.sql("update @jobs set ended_at = :at where job_id = :job", at=now_ms - int(days * 86_400_000), job=job_id)
    return staged


@pytest.mark.parametrize(
    "width, language", [(360, "pt-BR"), (820, "en-US"), (1120, "pt-BR"), (1280, "en-US"), (1440, "pt-BR"), (1920, "en-US")]
)
def test_times_and_reasons_of_older_jobs_are_not_cut(chromium: Any, aged: Served, width: int, language: str) -> None:
    cut = """() => [...document.querySelectorAll(".c-when, .c-when time, .c-why, .c-why *")].filter((one) => one.checkVisibility()
        && (one.scrollWidth > one.clientWidth + 1 && one.clientWidth || one.scrollHeight > one.clientHeight + 1 && one.clientHeight))
        .map((one) => one.outerHTML)"""
    with browser.window(chromium, aged.url, viewport={"width": width, "height": 900}, locale=language) as page:
        for path in ("/pools/few", "/users/ana"):
            drawn(page, path)
            assert page.evaluate(cut) == [], path
            times = page.locator(".c-when time").all_inner_texts()
            year = time.gmtime(time.time() - 400 * 86_400).tm_year
            assert sum(str(year) in text for text in times) == 1, "a day of another year is named with it"


@pytest.mark.parametrize("width", [360, 390, 412])
def test_search_is_whole_on_a_phone_after_sign_in(chromium: Any, kept: Kept, width: int) -> None:
    with browser.window(chromium, kept.served.url, viewport={"width": width, "height": 800}, locale="pt-BR") as page:
        page.goto("/")
        page.locator("#key").fill(kept.keys["read"])
        page.keyboard.press("Enter")
        page.locator("#link[data-state=live]").wait_for()
        field = page.locator(".find input")
        box, shown = field.bounding_box(), field.evaluate("one => one.scrollWidth <= one.clientWidth")
        assert box is not None and box["width"] > 200 and shown


@pytest.mark.parametrize("width, theme", [(1440, "light"), (390, "dark")])
def test_reference_tries_a_call_and_asks_no_other_host(chromium: Any, staged: Served, width: int, theme: str) -> None:
    how = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    with browser.window(chromium, staged.url, **how) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto("/docs")
        page.locator(".opblock").first.wait_for()
        document = staged.http.get("/openapi.json").json()
        calls = sum(len(one) for one in document["paths"].values())
        assert page.locator(".opblock").count() == calls
        for block in (acquire := page.locator("#operations-jobs-acquire"), pools := page.locator("#operations-pools-pools")):
            block.locator(".opblock-summary-control").click()
            block.locator(".responses-inner").wait_for()
        assert acquire.locator("code", has_text="wait_seconds").count()
        assert "`" not in page.locator("#reference").inner_text(), "Markdown is rendered"
        pools.get_by_role("button", name="Try it out").click()
        pools.get_by_role("button", name="Execute").click()
        answer = pools.locator(".live-responses-table .response .microlight").first
        answer.wait_for()
        assert '"pool": "few"' in answer.inner_text()
        assert all(url.startswith((staged.url, "data:")) for url in asked), asked
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_keyboard_reaches_everything(chromium: Any, staged: Served) -> None:
    with browser.window(chromium, staged.url) as page:
        live(page, "/pools/few")
        everything = "[...document.querySelectorAll('a[href], button, input:not([type=hidden]), summary')].filter((one) => one.checkVisibility())"
        page.evaluate("window.reached = new Set()")
        for _ in range(page.evaluate(f"{everything}.length") + 10):
            page.keyboard.press("Tab")
            page.evaluate("reached.add(document.activeElement)")
        assert page.evaluate(f"{everything}.filter((one) => !reached.has(one)).map((one) => one.outerHTML)") == []
        page.get_by_role("link", name="Limit").focus()
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_targets_on_a_phone_are_large_enough(chromium: Any, staged: Served) -> None:
    with browser.window(chromium, staged.url, viewport={"width": 390, "height": 844}, has_touch=True) as page:
        live(page, "/pools/few")
        small = page.evaluate(
            """() => [...document.querySelectorAll("a.act, button, input:not([type=hidden]), summary, .rows a, .slot a")]
            .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 43.5).map((one) => one.outerHTML)"""
        )
        assert not small
